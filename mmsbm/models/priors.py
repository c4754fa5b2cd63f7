"""Where the latent of a joint VAE comes from when nothing is observed."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from mmsbm.config import Section, describe
from mmsbm.infra.errors import UserError
from mmsbm.infra.rng import START, STEPS, row_normal, substream
from mmsbm.latents import NOISY
from mmsbm.learners.latent_score import LatentScore
from mmsbm.samplers import SAMPLERS


class LatentPrior(Protocol):
  """A way to draw the latent of rows in which nothing is observed.

  Attributes:
    needs: names of the steps that it draws from, beside the joint VAE.
    num_evaluations: of the score network, for one draw.
    is_trained_one: whether it is the prior that the joint VAE was trained with, so
      that there is nothing to draw; False where it is missing.
  """

  needs: tuple[str, ...]
  num_evaluations: int

  def draw(self, variables: Any, keys: jax.Array, z: jax.Array) -> jax.Array:
    """Draws latents.

    Args:
      variables: of all steps.
      keys: typed keys [B].
      z: draws [B, d] from the posterior given nothing, which is the prior that the
        joint VAE was trained with.

    Returns:
      [B, d].
    """

  def describe(self) -> str:
    """Returns what results say of it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Standard:
  """The prior of the family, as the model was trained to have it."""

  needs = ()
  num_evaluations = 0
  is_trained_one = True

  def draw(self, variables, keys, z):
    del variables, keys
    return z

  def describe(self):
    return describe(PRIORS, self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture:
  """A mixture of Gaussians fitted to latents of the training split.

  Attributes:
    num_components: with a full covariance each.
  """

  num_components: int = 10

  needs = ('mixtures',)
  num_evaluations = 0

  def __post_init__(self):
    if self.num_components < 1:
      raise UserError(f'num_components={self.num_components} must be positive.')

  @property
  def key(self) -> str:
    """Where its parameters stand in the step 'mixtures'."""
    return str(self.num_components)

  def draw(self, variables, keys, z):
    mixture = variables['mixtures'][self.key]

    def draw_row(key):
      which, noise = jax.random.split(key)
      k = jax.random.categorical(which, mixture['log_weights'])
      e = jax.random.normal(noise, z.shape[1:])
      return mixture['mean'][k] + mixture['scale'][k] @ e

    return jax.vmap(draw_row)(substream(keys, START))

  def describe(self):
    return describe(PRIORS, self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScorePrior:
  """The auxiliary score model of the latents (arXiv 2408.16883, section 3.3).

  Attributes:
    sampler: one of SAMPLERS.
    score: the score model.
  """

  sampler: Any
  score: LatentScore

  needs = ('latents', 'score')

  @property
  def num_evaluations(self) -> int:
    return self.sampler.num_evaluations

  def draw(self, variables, keys, z):
    stats = variables['latents']

    def score_fn(z, t):
      net_t = jnp.full((z.shape[0], 1), t)
      role = jnp.full(net_t.shape, NOISY)
      return self.score.score(variables['score'], z, t, net_t, role)

    drawn = self.sampler(
      substream(keys, STEPS),
      score_fn,
      self.score.sde.prior_std * row_normal(keys, START, z.shape[1:]),
      sde=self.score.sde,
      hold=lambda keys, z, t, visit: z,
    )
    return drawn * stats['std'] + stats['mean']

  def describe(self):
    return describe(SAMPLERS, self.sampler)


def make_score_prior(
  *, sampler: Mapping[str, Any], score: LatentScore | None
) -> ScorePrior:
  """Builds a `ScorePrior` from what stands in a config."""
  if score is None:
    raise UserError("the prior 'score' needs a score model: a section config.score.")
  return ScorePrior(
    sampler=Section({'sampler': sampler}).build('sampler', SAMPLERS), score=score
  )


PRIORS = {'standard': Standard, 'mixture': Mixture, 'score': make_score_prior}
