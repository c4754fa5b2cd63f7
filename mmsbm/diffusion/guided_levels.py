"""Levels of a diffusion at which its score is guided, and guidance by a latent."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from mmsbm.diffusion.sde import SDE
from mmsbm.infra.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuidedLevels:
  """A factor and an interval of noise levels (arXiv 2404.07724).

  Attributes:
    scale: factor of the term; 0 changes nothing.
    noise_min: lowest level s = sigma / alpha that is guided.
    noise_max: highest one.
  """

  scale: float
  noise_min: float = 0.0
  noise_max: float = np.inf

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.type is float and not isinstance(value, int | float):
        raise UserError(f'guidance: {field.name}={value!r} is not a number.')
    if not 0 <= self.noise_min < self.noise_max:
      raise UserError(
        f'guidance: noise_min={self.noise_min} must be at least 0 and below '
        f'noise_max={self.noise_max}.'
      )

  def active(self, sde: SDE, t: jax.Array) -> jax.Array:
    """Whether times are in the interval; the same on the host and in a program.

    Times are compared, with limits made once: levels of a float32 time may differ in
    the last bit between one program and another.
    """
    low, high = -np.inf, np.inf
    with jax.ensure_compile_time_eval():
      if self.noise_min > 0:
        low = sde.time_of_noise_level(self.noise_min)
      if self.noise_max < np.inf:
        high = sde.time_of_noise_level(self.noise_max)
      low, high = np.float32(low), np.float32(high)
    return (t >= low) & (t <= high)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderGuidance(GuidedLevels):
  """Classifier-free guidance of a diffusion decoder by its latent (arXiv 2207.12598).

  The guided score is s(x, z) + scale (s(x, z) - s(x)): with exact scores, at every
  time, that of p_t(x) p_t(z | x)^(1 + scale).
  """

  def guided(
    self, score: jax.Array, dropped_score: Callable[[], jax.Array]
  ) -> jax.Array:
    """Returns the guided score, given s(x, z) [B, D] and what computes s(x)."""
    return score + self.scale * (score - dropped_score())


DECODER_GUIDANCE = {'classifier_free': DecoderGuidance}
