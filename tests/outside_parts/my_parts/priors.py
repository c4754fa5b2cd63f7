"""A prior of joint VAEs: narrower than the one they were trained with."""

import dataclasses

from mmsbm.config import describe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Narrow:
  """The prior of the family, times a factor.

  Attributes:
    factor: of the draws.
  """

  factor: float = 0.5

  # Steps that it draws from, and network evaluations for one draw.
  needs = ()
  num_evaluations = 0

  def draw(self, variables, keys, z):
    """Returns latents [B, d], given draws z [B, d] of the prior of the family."""
    del variables, keys
    return self.factor * z

  def describe(self):
    """Returns what rows of results say."""
    return describe({}, self)
