"""Parts that lack something."""

import dataclasses

from my_parts.priors import Narrow


class Sampler:
  """A sampler that is no dataclass, so that rows could not say how it was made."""

  num_evaluations = 1


class Likelihood:
  """A likelihood that is no dataclass, so that runs could not be told apart."""

  def log_prob(self, output, x):
    """Returns minus the squared error of every example."""
    return -((output - x) ** 2).reshape(x.shape[0], -1).sum(-1)

  def mean(self, output):
    """Returns the output."""
    return output


@dataclasses.dataclass(frozen=True, kw_only=True)
class Needy(Narrow):
  """A prior that draws from a step that no method makes."""

  needs = ('moments',)
