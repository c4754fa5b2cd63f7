"""Ancestral sampling: DDPM, DDIM, and everything in between."""

import dataclasses

import jax
import jax.numpy as jnp

from mmsbm.samplers.grids import GRIDS, check_choice, time_grid
from mmsbm.samplers.noise import row_normal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ancestral:
  """Samples z_r given z_t and the predicted z_0, for r < t (arXiv 2010.02502, eq. 12).

  Attributes:
    num_steps: noise levels visited; the step from the last one is to noise 0.
    eta: 1 draws from the Gaussian posterior of the forward process (DDPM, Ho et
      al., 2020), 0 adds no noise (DDIM).
    grid: spacing of the levels, see grids.py.
    time_min: time of the last level.
  """

  num_steps: int = 100
  eta: float = 1.0
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
    next_sigma = jnp.append(sigma[1:], 0.0)  # the last step returns z_0 itself
    # Share of the variance of z_r that is fresh noise when eta = 1.
    fresh = 1 - jnp.square(next_sigma / next_alpha * alpha / sigma)

    def step(z, xs):
      i, t, sigma, next_alpha, next_sigma, fresh = xs
      z = hold(keys, z, t)
      score = score_fn(z, t)
      eps = -sigma * score
      noise = row_normal(keys, i, z.shape[1:])
      kept = jnp.sqrt(1 - self.eta**2 * fresh)
      mixed = kept * eps + self.eta * jnp.sqrt(fresh) * noise
      return next_alpha * sde.denoise(z, score, t) + next_sigma * mixed, None

    xs = (jnp.arange(self.num_steps), t, sigma, next_alpha, next_sigma, fresh)
    return jax.lax.scan(step, z, xs)[0]
