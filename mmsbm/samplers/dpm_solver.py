"""DPM-Solver++(2M): second order with one network evaluation a step."""

import dataclasses

import jax
import jax.numpy as jnp

from mmsbm.samplers.grids import GRIDS, check_choice, time_grid


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMSolver:
  """Deterministic multistep solver (Lu et al., 2022, arXiv 2211.01095, Algorithm 2).

  It integrates the linear part of the probability flow ODE exactly and
  extrapolates the predicted z_0 in lambda = -log s. The form with data
  prediction holds for any alpha and sigma. The first step has no past, and the
  last one, to s = 0, is infinitely long in lambda: both are of first order.

  Attributes:
    num_steps: noise levels visited.
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
    return self.num_steps

  def __call__(self, keys, score_fn, z, *, sde, hold, free):
    """Returns clean latents [B, D]; arguments in samplers/__init__.py."""
    del free
    t = time_grid(sde, self.grid, self.num_steps, self.time_min)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    next_alpha = jnp.append(alpha[1:], 1.0)
    sigma_ratio = jnp.append(sigma[1:] / sigma[:-1], 0.0)
    # exp(-h) with h = lambda_next - lambda, and the weight 1 / (2 r) of the
    # extrapolation with r = h_previous / h.
    shrink = jnp.append(sigma_ratio[:-1] * alpha[:-1] / alpha[1:], 0.0)
    h = -jnp.log(shrink[:-1])
    extrapolate = jnp.zeros(self.num_steps).at[1:-1].set(0.5 * h[1:] / h[:-1])

    def step(carry, xs):
      z, previous = carry
      t, next_alpha, sigma_ratio, shrink, extrapolate = xs
      z = hold(keys, z, t)
      z0 = sde.denoise(z, score_fn(z, t), t)
      direction = z0 + extrapolate * (z0 - previous)
      return (sigma_ratio * z + next_alpha * (1 - shrink) * direction, z0), None

    xs = (t, next_alpha, sigma_ratio, shrink, extrapolate)
    return jax.lax.scan(step, (z, jnp.zeros_like(z)), xs)[0][0]
