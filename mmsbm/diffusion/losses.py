"""Denoising score matching: the loss, its weightings, and the times it is taken at.

With e = sigma score + eps, the error of the predicted noise, every weighting is
a factor of e^2 (Song et al., 2021; Kingma & Gao, 2023, arXiv 2303.00848).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from mmsbm.config import find
from mmsbm.diffusion.sde import SDE
from mmsbm.infra.errors import UserError

WEIGHTINGS = {
  # The published loss: mean of (sigma score + eps)^2.
  'uniform': lambda sde, t: jnp.ones_like(t),
  # g^2 (score + eps / sigma)^2: a bound on the log likelihood (arXiv 2101.09258).
  'likelihood': lambda sde, t: jnp.square(sde.diffusion(t) / sde.sigma(t)),
  # (s^2 + 1) / s^2 times the squared error of the denoised latent, which is s e:
  # unit weight on the target of the `edm` network (arXiv 2206.00364, Table 1).
  'edm': lambda sde, t: 1 + jnp.square(sde.noise_level(t)),
}


def denoising_loss(
  score_fn: Callable[[jax.Array, jax.Array], jax.Array],
  z: jax.Array,
  noise: jax.Array,
  t: jax.Array,
  *,
  sde: SDE,
  weighting: str = 'uniform',
  dim_weight: jax.Array | None = None,
) -> jax.Array:
  """Denoising score matching loss of every example (Vincent, 2011).

  Args:
    score_fn: maps z_t [B, D] and the `t` below to scores [B, D].
    z: clean latents [B, D].
    noise: standard normal draws [B, D].
    t: times, broadcastable to [B, D].
    sde: the process.
    weighting: a name in WEIGHTINGS, or 'package.module:function'.
    dim_weight: weights [B, D] of the mean over dimensions, 0 for observed or
      absent ones, whose t, score and latent are then arbitrary; all 1 if None.

  Returns:
    Losses [B]; 0 for an example without any weight.
  """
  if dim_weight is None:
    dim_weight = jnp.ones_like(z)
  dim_weight = jnp.broadcast_to(dim_weight, z.shape).astype(z.dtype)
  used = dim_weight > 0
  error = sde.sigma(t) * score_fn(sde.perturb(z, noise, t), t) + noise
  # Unused entries are replaced before anything that may overflow, so that their
  # gradient is 0 and not 0 * inf: at t = 0 the likelihood weight is infinite.
  scale = find(WEIGHTINGS, weighting)(sde, jnp.where(used, t, 1.0))
  total = (dim_weight * scale * jnp.square(jnp.where(used, error, 0.0))).sum(-1)
  weight = dim_weight.sum(-1)
  return total / jnp.where(weight > 0, weight, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniformTimes:
  """t ~ U[time_min, 1].

  Attributes:
    time_min: smallest time.
  """

  time_min: float = 1e-5

  def __call__(self, key: jax.Array, shape, sde: SDE) -> tuple[jax.Array, jax.Array]:
    """Returns times of `shape` and the factors that their losses are to carry."""
    del sde
    t = jax.random.uniform(key, shape, minval=self.time_min, maxval=1.0)
    return t, jnp.ones_like(t)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportanceTimes:
  """Density proportional to g^2 / sigma^2 (arXiv 2101.09258, Section 5).

  By (1) in sde.py that is uniform in log s, so it has a closed form for every
  SDE. The factor uniform density / this density makes the expected loss that of
  UniformTimes; with `likelihood` weighting, factor times weight is constant and
  the variance of the loss is small.

  Attributes:
    time_min: smallest time.
  """

  time_min: float = 1e-5

  def normalizer(self, sde: SDE) -> jax.Array:
    """Integral of g^2 / sigma^2 over [time_min, 1]."""
    return 2 * jnp.log(sde.noise_level(1.0) / sde.noise_level(self.time_min))

  def time_of_mass(self, mass: jax.Array, sde: SDE) -> jax.Array:
    """Time up to which the integral of g^2 / sigma^2 is `mass`."""
    s = sde.noise_level(self.time_min) * jnp.exp(0.5 * mass)
    return jnp.clip(sde.time_of_noise_level(s), self.time_min, 1.0)

  def __call__(self, key, shape, sde):
    normalizer = self.normalizer(sde)
    t = self.time_of_mass(normalizer * jax.random.uniform(key, shape), sde)
    density = jnp.square(sde.diffusion(t) / sde.sigma(t)) / normalizer
    return t, 1 / (density * (1 - self.time_min))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LognormalTimes:
  """log s ~ N(mean, std^2), to go with `edm` weighting (arXiv 2206.00364, Table 1).

  Attributes:
    mean: mean of log s; the paper's -1.2 for data of std 0.5 is -0.5 for std 1.
    std: standard deviation of log s.
    time_min: smallest time.
  """

  mean: float = -0.5
  std: float = 1.2
  time_min: float = 1e-5

  def __post_init__(self):
    if not self.std > 0:
      raise UserError(f'std={self.std} must be positive.')

  def __call__(self, key, shape, sde):
    s = jnp.exp(self.mean + self.std * jax.random.normal(key, shape))
    t = jnp.clip(sde.time_of_noise_level(s), self.time_min, 1.0)
    return t, jnp.ones_like(t)


TIME_SAMPLING = {
  'uniform': UniformTimes,
  'importance': ImportanceTimes,
  'lognormal': LognormalTimes,
}
