"""DPM-Solver++(2M): second order with one network evaluation a step."""

import dataclasses

import jax
import jax.numpy as jnp

from mmsbm.infra import rng
from mmsbm.samplers.grids import GridSampler
from mmsbm.samplers.resampling import (
  begins_anew,
  jump,
  jump_times,
  visited_levels,
  visits,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMSolver(GridSampler):
  """Multistep solver of the reverse process (Lu et al., 2022, arXiv 2211.01095).

  It integrates the linear part exactly and extrapolates the predicted z_0 in
  lambda = -log s. In y = z / alpha the probability flow and the reverse SDE are, with
  lambda rising by dl and x the predicted z_0,

    dy = -(y - x) dl     and     dy = -2 (y - x) dl + sqrt(2) s dw,

  for any alpha and sigma, so that a step of length h with x constant gives

    y' = e^-h y + (1 - e^-h) x
    y' = e^-2h y + (1 - e^-2h) x + s' sqrt(1 - e^-2h) noise,

  s' being the noise level reached. Algorithm 2 of the paper, and its section 5 for the
  SDE, put the value of x in the middle of the step, extrapolated from the last two. The
  SDE with x constant is the posterior that `ancestral` draws from; extrapolation makes
  the moments of the samples second order accurate in h.

  The first step, and one after a jump, has no past; the last one, to s = 0, is
  infinitely long and returns x. They are of first order.

  Attributes:
    stochastic: False solves the probability flow, True the reverse SDE.
  """

  stochastic: bool = False

  def __call__(self, keys, score_fn, z, *, sde, hold, resampling=None):
    """Returns clean latents [B, D]; arguments in samplers/__init__.py."""
    times = self.times(sde)
    levels = visited_levels(self.num_steps, resampling)
    alpha, sigma = sde.alpha(times), sde.sigma(times)
    next_alpha = jnp.append(alpha[1:], 1.0)
    next_sigma = jnp.append(sigma[1:], 0.0)
    # exp(-h), and the weight h / (2 h_previous) of the extrapolation.
    shrink = jnp.append(sigma[1:] / sigma[:-1] * alpha[:-1] / alpha[1:], 0.0)
    h = -jnp.log(shrink[:-1])
    ahead = jnp.zeros(self.num_steps).at[1:-1].set(0.5 * h[1:] / h[:-1])
    rate = 2 if self.stochastic else 1
    kept = next_sigma / sigma * shrink ** (rate - 1)
    moved = next_alpha * (1 - shrink**rate)
    fresh = next_sigma * jnp.sqrt(1 - jnp.square(shrink))

    def step(carry, xs):
      z, previous = carry
      i, visit, (t, kept, moved, fresh), ahead, (reached, begins) = xs
      z = hold(keys, z, t, visit)
      z0 = sde.denoise(z, score_fn(z, t), t)
      z = kept * z + moved * (z0 + ahead * (z0 - previous))
      if self.stochastic:
        z += fresh * rng.row_normal(keys, i, z.shape[1:])
      if resampling is not None:
        z = jump(keys, i, z, reached, begins, sde)
      return (z, z0), None

    coefficients = (times, kept, moved, fresh)
    xs = (
      jnp.arange(len(levels)),
      visits(levels),
      tuple(jnp.asarray(c)[levels] for c in coefficients),
      jnp.where(begins_anew(levels), 0.0, ahead[levels]),
      jump_times(times, levels),
    )
    return jax.lax.scan(step, (z, jnp.zeros_like(z)), xs)[0][0]
