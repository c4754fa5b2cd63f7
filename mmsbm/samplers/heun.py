"""Heun's method on the probability flow ODE in the variables of EDM."""

import dataclasses

import jax
import jax.numpy as jnp

from mmsbm.samplers.grids import GRIDS, check_choice, time_grid


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heun:
  """Deterministic second order solver (Karras et al., 2022, Algorithm 1).

  In y = z / alpha and s = sigma / alpha the ODE of every SDE is dy/ds = eps, the
  predicted noise. The last step, to s = 0, is an Euler step and returns the
  predicted z_0.

  Attributes:
    num_steps: noise levels visited; all but the last cost two evaluations.
    grid: spacing of the levels, see grids.py.
    time_min: time of the last level.
  """

  num_steps: int = 20
  grid: str = 'log_snr'
  time_min: float = 1e-3

  def __post_init__(self):
    check_choice('grid', self.grid, GRIDS)

  @property
  def num_evaluations(self) -> int:
    return 2 * self.num_steps - 1

  def __call__(self, keys, score_fn, z, *, sde, hold, free):
    """Returns clean latents [B, D]; arguments in samplers/__init__.py."""
    del free
    levels = time_grid(sde, self.grid, self.num_steps, self.time_min)
    # The evaluations in order: t_0, t_1 | t_1, t_2 | ... | t_last, in pairs of an
    # Euler trial step and its correction with the mean of both slopes.
    t = jnp.repeat(levels, 2)[1:]
    ds = jnp.repeat(jnp.diff(sde.noise_level(levels), append=0.0), 2)[:-1]
    is_trial = jnp.arange(self.num_evaluations) % 2 == 0

    def evaluate(carry, xs):
      y, halfway = carry
      t, ds, is_trial = xs
      z = hold(keys, sde.alpha(t) * y, t)
      half = -0.5 * ds * sde.sigma(t) * score_fn(z, t)
      y_next = jnp.where(is_trial, y + 2 * half, halfway + half)
      return (y_next, y + half), None

    y = z / sde.alpha(levels[0])
    return jax.lax.scan(evaluate, (y, y), (t, ds, is_trial))[0][0]
