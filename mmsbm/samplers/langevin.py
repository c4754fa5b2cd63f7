"""Annealed Langevin dynamics."""

import dataclasses

import jax
import jax.numpy as jnp

from mmsbm.samplers.grids import GRIDS, check_choice, time_grid
from mmsbm.samplers.noise import row_normal


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnnealedLangevin:
  """Song & Ermon (2019, arXiv 1907.05600, Algorithm 1), then a denoising step.

  The paper adds noise of level s to unscaled data. That is y = z / alpha with
  s = sigma / alpha here, so the chain runs in y, and the score of z, which the
  network knows, is alpha times smaller. In terms of z: it is multiplied by
  alpha_next / alpha between levels, and its steps are alpha^2 times those of y.

  Attributes:
    num_levels: noise levels L.
    steps_per_level: updates at each level, T in the paper.
    step_size: level i uses steps step_size * s_i^2; the epsilon of the paper is
      step_size * s_L^2, and its 2e-5 at s_L = 0.01 is 0.2 here. In this form it
      does not depend on where the grid ends.
    grid: spacing of the levels, see grids.py; 'log_snr' is the geometric sequence
      of the paper.
    time_min: time of the last level.
  """

  num_levels: int = 50
  steps_per_level: int = 10
  step_size: float = 0.5
  grid: str = 'log_snr'
  time_min: float = 1e-3

  def __post_init__(self):
    check_choice('grid', self.grid, GRIDS)

  @property
  def num_evaluations(self) -> int:
    return self.num_levels * self.steps_per_level + 1

  def __call__(self, keys, score_fn, z, *, sde, hold, free):
    """Returns clean latents [B, D]; arguments in samplers/__init__.py."""
    del free
    levels = time_grid(sde, self.grid, self.num_levels, self.time_min)
    t = jnp.append(jnp.repeat(levels, self.steps_per_level), levels[-1])
    index = jnp.arange(self.num_evaluations)

    def update(y, xs):
      i, t = xs
      z = hold(keys, sde.alpha(t) * y, t)
      score = score_fn(z, t)
      noise = row_normal(keys, i, z.shape[1:])
      a = self.step_size * jnp.square(sde.noise_level(t))
      moved = y + 0.5 * a * sde.alpha(t) * score + jnp.sqrt(a) * noise
      is_last = i == self.num_evaluations - 1
      return jnp.where(is_last, sde.denoise(z, score, t), moved), None

    return jax.lax.scan(update, z / sde.alpha(t[0]), (index, t))[0]
