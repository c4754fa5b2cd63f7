"""Heun's method on the probability flow ODE in the variables of EDM."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.samplers.grids import GridSampler
from mmsbm.samplers.resampling import jump, jump_times, visited_levels, visits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heun(GridSampler):
  """Deterministic second order solver (Karras et al., 2022, Algorithm 1).

  In y = z / alpha and s = sigma / alpha the ODE of every SDE is dy/ds = eps, the
  predicted noise. The last step, to s = 0, is an Euler step and returns the
  predicted z_0. All levels but the last cost two evaluations.
  """

  @property
  def num_evaluations(self) -> int:
    return 2 * self.num_steps - 1

  def evaluation_times(self, sde, resampling=None) -> np.ndarray:
    """Times [NFE] of the network's calls; see samplers/__init__.py."""
    times = self.times(sde)
    levels = visited_levels(self.num_steps, resampling)
    reached, _ = jump_times(times, levels)
    return np.stack([times[levels], reached], 1).reshape(-1)[:-1]

  def __call__(self, keys, score_fn, z, *, sde, hold, resampling=None):
    """Returns clean latents [B, D]; arguments in samplers/__init__.py."""
    times = self.times(sde)
    levels = visited_levels(self.num_steps, resampling)
    # The evaluations in pairs of an Euler trial step and its correction with the
    # mean of both slopes: t_0, t_1 | t_1, t_2 | ... | t_last.
    t = self.evaluation_times(sde, resampling)
    index = np.arange(len(t))
    visit = np.repeat(visits(levels), 2)[:-1] + index % 2
    ds = jnp.diff(sde.noise_level(times), append=0.0)[np.repeat(levels, 2)[:-1]]
    reached, begins = (np.repeat(x, 2)[:-1] for x in jump_times(times, levels))
    # A trial step is at the level reached, and stays there.
    begins = np.where(index % 2 == 0, reached, begins)

    def evaluate(carry, xs):
      y, halfway = carry
      i, visit, t, ds, is_trial, reached, begins = xs
      z = hold(keys, sde.alpha(t) * y, t, visit)
      half = -0.5 * ds * sde.sigma(t) * score_fn(z, t)
      y_next = jnp.where(is_trial, y + 2 * half, halfway + half)
      if resampling is not None:
        z_next = jump(keys, i, sde.alpha(reached) * y_next, reached, begins, sde)
        y_next = z_next / sde.alpha(begins)
      return (y_next, y + half), None

    y = z / sde.alpha(times[0])
    xs = (index, visit, t, ds, index % 2 == 0, reached, begins)
    return jax.lax.scan(evaluate, (y, y), xs)[0][0]
