"""Annealed Langevin dynamics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.infra import rng
from mmsbm.infra.errors import UserError
from mmsbm.samplers.grids import GRIDS, check_choice, check_levels, time_grid


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
    check_levels(self.num_levels, self.time_min)
    check_choice('grid', self.grid, GRIDS)

  @property
  def num_evaluations(self) -> int:
    return self.num_levels * self.steps_per_level + 1

  def evaluation_times(self, sde, resampling=None) -> np.ndarray:
    """Times [NFE] of the network's calls; see samplers/__init__.py.

    Raises:
      UserError: resampling; its own steps at each level do the same.
    """
    if resampling is not None:
      raise UserError(
        "sampler 'annealed_langevin' cannot jump back, as conditioning 'repaint' asks: "
        "use 'ancestral', 'dpm_solver', 'heun' or 'predictor_corrector'."
      )
    levels = time_grid(sde, self.grid, self.num_levels, self.time_min)
    return np.append(np.repeat(levels, self.steps_per_level), levels[-1])

  def __call__(self, keys, score_fn, z, *, sde, hold, resampling=None):
    """Returns clean latents [B, D]; arguments in samplers/__init__.py."""
    times = self.evaluation_times(sde, resampling)
    index = np.arange(len(times))

    def update(y, xs):
      i, visit, t = xs
      z = hold(keys, sde.alpha(t) * y, t, visit)
      score = score_fn(z, t)
      noise = rng.row_normal(keys, i, z.shape[1:])
      a = self.step_size * jnp.square(sde.noise_level(t))
      moved = y + 0.5 * a * sde.alpha(t) * score + jnp.sqrt(a) * noise
      is_last = i == len(times) - 1
      return jnp.where(is_last, sde.denoise(z, score, t), moved), None

    visit = np.minimum(index // self.steps_per_level, self.num_levels - 1)
    return jax.lax.scan(update, z / sde.alpha(times[0]), (index, visit, times))[0]
