"""A diffusion as it is trained: process, prediction, times and weights of the loss."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import jax

from mmsbm.config import Section
from mmsbm.diffusion.losses import TIME_SAMPLING, WEIGHTINGS, denoising_loss
from mmsbm.diffusion.parametrization import PARAMETRIZATIONS
from mmsbm.diffusion.sde import SDE, SDES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diffusion:
  """What every denoising model has beside its network.

  Attributes:
    sde: the process.
    parametrization: what the network predicts, one of PARAMETRIZATIONS.
    times: draws training times, one of TIME_SAMPLING.
    weighting: weights of the loss, the name of one of WEIGHTINGS.
  """

  sde: SDE
  parametrization: Any
  times: Any
  weighting: str

  def score(
    self,
    network_fn: Callable[[jax.Array, jax.Array], jax.Array],
    z: jax.Array,
    t: jax.Array,
    level: jax.Array,
  ) -> jax.Array:
    """Returns the score at z [B, D].

    Args:
      network_fn: maps scaled z [B, D] and what it is told of the time to [B, D].
      z: noisy latents or flat examples.
      t: times, broadcastable to [B, D].
      level: what the network is told of the time.
    """
    return self.parametrization.score(network_fn, self.sde, z, t, level)

  def draw_times(
    self, key: jax.Array, shape: tuple[int, ...]
  ) -> tuple[jax.Array, jax.Array]:
    """Draws training times, and the factors that their losses are to carry."""
    return self.times(key, shape, self.sde)

  def loss(
    self,
    score_fn: Callable[[jax.Array, jax.Array], jax.Array],
    z: jax.Array,
    noise: jax.Array,
    t: jax.Array,
    dim_weight: jax.Array | None = None,
  ) -> jax.Array:
    """Returns denoising losses [B]; see `denoising_loss`."""
    return denoising_loss(
      score_fn,
      z,
      noise,
      t,
      sde=self.sde,
      weighting=self.weighting,
      dim_weight=dim_weight,
    )


# The fields of a config section that describe a diffusion.
FIELDS = ('sde', 'parametrization', 'times', 'weighting')


def make_diffusion(section: Section) -> Diffusion:
  """Builds a diffusion from the four fields of a section."""
  section.find('weighting', WEIGHTINGS)
  return Diffusion(
    sde=section.build('sde', SDES),
    parametrization=section.build('parametrization', PARAMETRIZATIONS),
    times=section.build('times', TIME_SAMPLING),
    weighting=section['weighting'],
  )


def without(section: Section, names: Collection[str]) -> Section:
  """Returns a section without some of its fields."""
  return Section({k: v for k, v in section.items() if k not in names}, section.path)
