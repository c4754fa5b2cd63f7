"""Ancestral sampling: DDPM, DDIM, and everything in between."""

import dataclasses

import jax
import jax.numpy as jnp

from mmsbm.infra import rng
from mmsbm.infra.errors import UserError
from mmsbm.samplers.grids import GridSampler
from mmsbm.samplers.resampling import jump, jump_times, visited_levels, visits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ancestral(GridSampler):
  """Samples z_r given z_t and the predicted z_0, for r < t (arXiv 2010.02502, eq. 12).

  Attributes:
    eta: 1 draws from the Gaussian posterior of the forward process (DDPM, Ho et
      al., 2020), 0 adds no noise (DDIM).
  """

  num_steps: int = 100
  eta: float = 1.0

  def __post_init__(self):
    super().__post_init__()
    if not 0 <= self.eta <= 1:
      raise UserError(f'eta of ancestral sampling is {self.eta}; it lies in [0, 1].')

  def __call__(self, keys, score_fn, z, *, sde, hold, resampling=None):
    """Returns clean latents [B, D]; arguments in samplers/__init__.py."""
    times = self.times(sde)
    levels = visited_levels(self.num_steps, resampling)
    alpha, sigma = sde.alpha(times), sde.sigma(times)
    next_alpha = jnp.append(alpha[1:], 1.0)
    next_sigma = jnp.append(sigma[1:], 0.0)  # the last step returns z_0 itself
    # Share of the variance of z_r that is fresh noise when eta = 1.
    fresh = 1 - jnp.square(next_sigma / next_alpha * alpha / sigma)

    def step(z, xs):
      i, visit, (t, sigma, next_alpha, next_sigma, fresh), (reached, begins) = xs
      z = hold(keys, z, t, visit)
      score = score_fn(z, t)
      eps = -sigma * score
      noise = rng.row_normal(keys, i, z.shape[1:])
      kept = jnp.sqrt(1 - self.eta**2 * fresh)
      mixed = kept * eps + self.eta * jnp.sqrt(fresh) * noise
      z = next_alpha * sde.denoise(z, score, t) + next_sigma * mixed
      if resampling is not None:
        z = jump(keys, i, z, reached, begins, sde)
      return z, None

    coefficients = (times, sigma, next_alpha, next_sigma, fresh)
    coefficients = tuple(jnp.asarray(c)[levels] for c in coefficients)
    number = jnp.arange(len(levels))
    xs = (number, visits(levels), coefficients, jump_times(times, levels))
    return jax.lax.scan(step, z, xs)[0]
