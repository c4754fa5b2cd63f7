"""Gaussian latents, whose scores and conditional moments are known exactly."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.latents import LatentLayout
from mmsbm.samplers.conditioning import CONDITIONING

SUBSETS = np.array(list(itertools.product([False, True], repeat=3)))  # [8, 3]


@dataclasses.dataclass(frozen=True, eq=False)
class Gaussian:
  """Correlated latents of three modalities of sizes 1, 2 and 1: z_0 ~ N(mean, cov)."""

  layout: LatentLayout = LatentLayout((1, 2, 1))
  mean: np.ndarray = dataclasses.field(
    default_factory=lambda: np.array([0.5, -1.0, 0.3, 0.8])
  )
  cov: np.ndarray = dataclasses.field(
    default_factory=lambda: np.array(
      [
        [1.0, 0.6, -0.3, 0.5],
        [0.6, 1.5, 0.2, 0.4],
        [-0.3, 0.2, 0.7, 0.1],
        [0.5, 0.4, 0.1, 0.8],
      ]
    )
  )

  def score(self, z, t, sde):
    """Exact score at z [B, 4], each dimension at its own time t [B, 4]."""
    t = jnp.broadcast_to(t, z.shape)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    cov = alpha[:, :, None] * jnp.asarray(self.cov, z.dtype) * alpha[:, None, :]
    cov += jnp.square(sigma)[:, :, None] * jnp.eye(4)
    centered = z - alpha * jnp.asarray(self.mean, z.dtype)
    return -jnp.linalg.solve(cov, centered[..., None])[..., 0]

  def conditional(self, observed, z_observed):
    """Mean [f] and covariance [f, f] of the dimensions that are not observed [4]."""
    free = ~observed
    gain = np.zeros((free.sum(), observed.sum()))
    if observed.any() and free.any():
      gain = np.linalg.solve(
        self.cov[np.ix_(observed, observed)], self.cov[np.ix_(observed, free)]
      ).T
    mean = self.mean[free] + gain @ (z_observed - self.mean)[observed]
    cov = self.cov[np.ix_(free, free)] - gain @ self.cov[np.ix_(observed, free)]
    return mean, cov

  def sample(self, sampler, keys, z, *, sde, conditioning, z_observed, observed):
    """What a driver does: holds, samples and writes the observed latents back."""
    rule = CONDITIONING[conditioning]()
    observed_dims = self.layout.expand(observed)

    def hold(keys, z, t):
      return rule.hold(
        keys, z, t, sde=sde, z_observed=z_observed, observed_dims=observed_dims
      )

    def score_fn(z, t):
      return self.score(z, self.layout.expand(rule.times(t, observed)), sde)

    free = ~observed_dims
    out = sampler(keys, score_fn, z, sde=sde, hold=hold, free=free)
    return jnp.where(free, out, z_observed)


def _sample_free(sampler, score_fn, z, *, sde, seed=0):
  """Unconditional samples, jitted; `score_fn(z, t)`."""
  keys = jax.random.split(jax.random.key(seed), z.shape[0])
  free = jnp.ones(z.shape, bool)

  @jax.jit
  def run(keys, z):
    return sampler(keys, score_fn, z, sde=sde, hold=lambda keys, z, t: z, free=free)

  return run(keys, z)


@pytest.fixture
def gaussian():
  return Gaussian()


@pytest.fixture
def subsets():
  return SUBSETS


@pytest.fixture
def sample_free():
  return _sample_free


@pytest.fixture
def assert_moments():
  """Asserts mean and variance per column to 4 standard errors."""

  def check(z, mean, var):
    n = z.shape[0]
    z_score = (np.asarray(z, np.float64).mean(0) - mean) / np.sqrt(var / n)
    np.testing.assert_array_less(np.abs(z_score), 4)
    ratio = np.asarray(z, np.float64).var(0) / var - 1
    np.testing.assert_array_less(np.abs(ratio) / np.sqrt(2 / n), 4)

  return check


@pytest.fixture
def affine_map():
  """Offset [D] and matrix [D, D] of a sampler that is affine in its start."""

  def run(sampler, score_fn, dim, *, sde):
    start = jnp.concatenate([jnp.zeros((1, dim)), jnp.eye(dim)])
    out = np.asarray(_sample_free(sampler, score_fn, start, sde=sde), np.float64)
    return out[0], (out[1:] - out[0]).T

  return run
