"""Linear stochastic differential equations (Song et al., 2021, arXiv 2011.13456).

All have the form dz = f(t) z dt + g(t) dw with t in [0, 1], act on every
dimension alone, and have the Gaussian kernel z_t = alpha(t) z_0 + sigma(t) eps.
Only the noise level s = sigma / alpha tells them apart, because

  d(s^2)/dt = g^2 / alpha^2,   hence   g^2 / sigma^2 = d(log s^2)/dt      (1)

so a grid or a density over times is laid over s and mapped back. All functions
of t are elementwise: t may be a number, [B, 1], [B, D], ...
"""

import dataclasses

import jax
import jax.numpy as jnp

from mmsbm.infra.errors import UserError


class SDE:
  """What follows from the kernel; subclasses define the kernel itself."""

  def noise_level(self, t: jax.Array) -> jax.Array:
    """Noise to signal ratio s = sigma / alpha, increasing in t."""
    return self.sigma(t) / self.alpha(t)

  def perturb(self, z: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
    """A draw of z_t given z_0 = z and standard normal noise."""
    return self.alpha(t) * z + self.sigma(t) * noise

  def denoise(self, z: jax.Array, score: jax.Array, t: jax.Array) -> jax.Array:
    """Posterior mean of z_0 given z_t = z (Tweedie's formula)."""
    return (z + jnp.square(self.sigma(t)) * score) / self.alpha(t)

  def langevin_scale(self, t: jax.Array, num_steps: int) -> jax.Array:
    """Factor of the Langevin step size at time t (arXiv 2011.13456, App. G)."""
    del num_steps
    return jnp.ones_like(t)


@dataclasses.dataclass(frozen=True)
class VP(SDE):
  """Variance preserving; the continuous limit of DDPM.

  Attributes:
    beta_min: beta at t = 0.
    beta_max: beta at t = 1; beta is linear in between.
  """

  beta_min: float = 0.1
  beta_max: float = 20.0

  def __post_init__(self):
    if not 0 <= self.beta_min <= self.beta_max or not self.beta_max > 0:
      raise UserError(
        f'beta_min={self.beta_min} must be at least 0 and at most beta_max='
        f'{self.beta_max}, which must be positive.'
      )

  def _beta(self, t):
    return self.beta_min + t * (self.beta_max - self.beta_min)

  def _beta_integral(self, t):
    return t * self.beta_min + 0.5 * t**2 * (self.beta_max - self.beta_min)

  def _time_of_beta_integral(self, total):
    # Root of a quadratic, in the form that does not cancel for small values.
    slope = self.beta_max - self.beta_min
    root = jnp.sqrt(self.beta_min**2 + 2 * slope * total)
    return 2 * total / (self.beta_min + root)

  @property
  def prior_std(self) -> float:
    """Standard deviation of the samples that the reverse process starts from."""
    return 1.0

  def alpha(self, t):
    return jnp.exp(-0.5 * self._beta_integral(t))

  def sigma(self, t):
    return jnp.sqrt(-jnp.expm1(-self._beta_integral(t)))

  def drift_rate(self, t):
    """f(t); the drift is f(t) z."""
    return -0.5 * self._beta(t)

  def diffusion(self, t):
    """g(t)."""
    return jnp.sqrt(self._beta(t))

  def time_of_noise_level(self, s):
    """Inverse of `noise_level`."""
    return self._time_of_beta_integral(jnp.log1p(jnp.square(s)))

  def langevin_scale(self, t, num_steps):
    # 1 - beta_i of the chain of `num_steps` steps, as published. A short chain
    # would make it negative: then the corrector has nothing to add.
    last = max(num_steps - 1, 1)
    beta = self._beta(jnp.floor(t * (num_steps - 1)) / last)
    return jnp.maximum(1 - beta / num_steps, 0.0)


@dataclasses.dataclass(frozen=True)
class SubVP(VP):
  """VP with the smaller variance (1 - exp(-integral of beta))^2."""

  def sigma(self, t):
    return -jnp.expm1(-self._beta_integral(t))

  def diffusion(self, t):
    return jnp.sqrt(-self._beta(t) * jnp.expm1(-2 * self._beta_integral(t)))

  def time_of_noise_level(self, s):
    # s = 2 sinh(integral / 2).
    return self._time_of_beta_integral(2 * jnp.arcsinh(0.5 * s))


@dataclasses.dataclass(frozen=True)
class VE(SDE):
  """Variance exploding: geometric noise levels, data never scaled.

  Attributes:
    sigma_min: noise level at t = 0; not 0, the data count as noised by it.
    sigma_max: noise level at t = 1, which must dwarf the data.
  """

  sigma_min: float = 0.01
  sigma_max: float = 50.0

  def __post_init__(self):
    if not 0 < self.sigma_min < self.sigma_max:
      raise UserError(
        f'sigma_min={self.sigma_min} must be positive and below sigma_max='
        f'{self.sigma_max}.'
      )

  @property
  def _log_ratio(self):
    return jnp.log(self.sigma_max / self.sigma_min)

  @property
  def prior_std(self) -> float:
    return self.sigma_max

  def alpha(self, t):
    return jnp.ones_like(t)

  def sigma(self, t):
    return self.sigma_min * jnp.exp(t * self._log_ratio)

  def drift_rate(self, t):
    return jnp.zeros_like(t)

  def diffusion(self, t):
    return self.sigma(t) * jnp.sqrt(2 * self._log_ratio)

  def time_of_noise_level(self, s):
    return jnp.log(s / self.sigma_min) / self._log_ratio


SDES = {'vp': VP, 'sub_vp': SubVP, 've': VE}
