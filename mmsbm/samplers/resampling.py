"""Trajectories that jump back to more noise (Lugmayr et al., 2022, RePaint)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.diffusion.sde import SDE
from mmsbm.infra import rng
from mmsbm.infra.errors import UserError


@dataclasses.dataclass(frozen=True)
class Resampling:
  """Every stretch of levels is gone down several times (arXiv 2201.09865, Alg. 1).

  Attributes:
    jump_length: steps between two levels of such a stretch, j in the paper; the last
      stretch is what is left over.
    num_resamples: how often each stretch is gone down, r in the paper; 1 never jumps.
  """

  jump_length: int
  num_resamples: int

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      if value < 1:
        raise UserError(f'resampling: {name}={value} must be at least 1.')


def visited_levels(num_levels: int, resampling: Resampling | None) -> np.ndarray:
  """The levels that a trajectory begins its steps at.

  Each step goes from level i to level i + 1. When the next step begins elsewhere, the
  trajectory has jumped back. The last level is left once, for the clean latents: these
  are a mean, not a draw, so that nothing returns from them.

  Args:
    num_levels: n noise levels, 0 the noisiest.
    resampling: None goes down once.

  Returns:
    Levels [S], the last of them n - 1; S = r (n - 1) + 1.
  """
  moves = np.arange(num_levels - 1)
  if resampling is not None:
    j, r = resampling.jump_length, resampling.num_resamples
    stretches = [moves[first : first + j] for first in range(0, len(moves), j)]
    moves = np.concatenate([moves[:0], *(np.tile(s, r) for s in stretches)])
  return np.append(moves, num_levels - 1)


def begins_anew(levels: np.ndarray) -> np.ndarray:
  """Whether a step [S] does not go on from the step before: the first, or a jump."""
  return np.append(True, levels[1:] != levels[:-1] + 1)


def visits(levels: np.ndarray) -> np.ndarray:
  """Numbers [S] of the visits that steps begin with; a step ends with the next one."""
  return np.arange(len(levels)) + np.cumsum(begins_anew(levels)) - 1


def jump_times(times: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The times [S] that every step reaches, and where the next one begins.

  Args:
    times: of all n levels.
    levels: from `visited_levels`. What follows its last step is no jump.
  """
  reached = times[np.minimum(levels + 1, len(times) - 1)]
  return reached, np.append(times[levels[1:]], times[-1])


def jump(
  keys: jax.Array, i: jax.Array, z: jax.Array, t: jax.Array, r: jax.Array, sde: SDE
) -> jax.Array:
  """A draw of z_r [B, D] given z_t, for r >= t; z itself when r = t.

  z_r ~ N(k z_t, sigma_r^2 - k^2 sigma_t^2) with k = alpha_r / alpha_t. The variance
  is written as alpha_r^2 (s_r^2 - s_t^2), which does not cancel.

  Args:
    keys: typed keys [B].
    i: number of the step that ends here.
    z: [B, D] at time t.
    t: time, a scalar.
    r: time after the jump.
    sde: the process.
  """
  s_t, s_r = sde.noise_level(t), sde.noise_level(r)
  noise = rng.row_normal(rng.substream(keys, rng.RESAMPLING), i, z.shape[1:])
  added = jnp.sqrt((s_r - s_t) * (s_r + s_t)) * noise
  return sde.alpha(r) * (z / sde.alpha(t) + added)
