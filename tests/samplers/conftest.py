"""Gaussian latents, whose scores and conditional moments are known exactly."""

import dataclasses
import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.infra import rng
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
    """Exact score at z [B, D], each dimension at its own time t [B, D] or [1, D]."""
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    cov = alpha[:, :, None] * jnp.asarray(self.cov, z.dtype) * alpha[:, None, :]
    cov += jnp.square(sigma)[:, :, None] * jnp.eye(z.shape[1])
    centered = z - alpha * jnp.asarray(self.mean, z.dtype)
    return -(jnp.linalg.inv(cov) @ centered[..., None])[..., 0]

  def conditional(self, observed, z_observed):
    """Mean [f] and covariance [f, f] of the dimensions that are not observed [D]."""
    free = ~observed
    gain = np.zeros((free.sum(), observed.sum()))
    if observed.any() and free.any():
      gain = np.linalg.solve(
        self.cov[np.ix_(observed, observed)], self.cov[np.ix_(observed, free)]
      ).T
    mean = self.mean[free] + gain @ (z_observed - self.mean)[observed]
    cov = self.cov[np.ix_(free, free)] - gain @ self.cov[np.ix_(observed, free)]
    return mean, cov

  def sample(
    self, sampler, keys, z, *, sde, conditioning, z_observed, observed, **options
  ):
    """What a driver does: holds, samples and writes the observed latents back."""
    rule = CONDITIONING[conditioning](**options)
    observed_dims = self.layout.expand(observed)

    def hold(keys, z, t, visit):
      return rule.hold(
        keys, z, t, visit, sde=sde, z_observed=z_observed, observed_dims=observed_dims
      )

    def score_fn(z, t):
      return self.score(z, self.layout.expand(rule.times(t, observed)), sde)

    out = sampler(keys, score_fn, z, sde=sde, hold=hold, resampling=rule.resampling)
    return jnp.where(observed_dims, z_observed, out)


PAIR = np.array([[0.9, 0.3], [-0.5, 0.8], [0.7, -0.6], [0.2, 0.9], [-0.8, -0.4]])


def make_pair():
  """Two modalities of sizes 2 and 3 that share two of their directions."""
  return Gaussian(
    layout=LatentLayout((2, 3)),
    mean=np.array([0.4, -0.6, 0.2, -0.3, 0.5]),
    cov=PAIR @ PAIR.T + 0.15 * np.eye(5),
  )


@dataclasses.dataclass(frozen=True)
class _Keys:
  """In the place of keys: the numbers of the streams that lead to them."""

  path: tuple[int, ...] = ()


def exact_moments(run, dim, start_std):
  """Mean [D] and covariance [D, D] of samples that are affine in all their noise.

  Draws are replaced by unit vectors: after one row without noise, every row has a
  single 1, in one dimension of the start or of one draw.

  Args:
    run: maps (keys, start [B, D]) to samples [B, D].
    dim: D.
    start_std: of the start, which has mean 0.
  """
  draws = set()

  def record(keys, step, shape):
    number = jnp.ravel(jnp.asarray(step))[0]
    jax.debug.callback(lambda n: draws.add((keys.path, int(n))), number)
    return jnp.zeros((1, *shape))

  substreams = {'substream': lambda keys, number: _Keys((*keys.path, number))}
  with mock.patch.multiple(rng, row_normal=record, **substreams):
    jax.block_until_ready(jax.jit(lambda z: run(_Keys(), z))(jnp.zeros((1, dim))))
    jax.effects_barrier()
  ids = {path: i for i, path in enumerate(sorted({path for path, _ in draws}))}
  rows = np.array([(ids[path], number) for path, number in sorted(draws)])
  # The start belongs to no stream.
  rows = np.concatenate([np.full((1, 2), -1), rows.reshape(-1, 2)])
  stream, number = np.repeat(rows, dim, axis=0).T
  unit = np.tile(np.eye(dim, dtype=np.float32), (len(rows), 1))
  zero = np.zeros((1, dim), np.float32)

  def one_at_a_time(keys, step, shape):
    hit = (stream == ids[keys.path]) & (number == jnp.ravel(jnp.asarray(step))[0])
    return jnp.concatenate([zero, jnp.where(hit[:, None], unit, 0.0)])

  start = np.concatenate([zero, np.where(stream[:, None] < 0, start_std * unit, 0.0)])
  with mock.patch.multiple(rng, row_normal=one_at_a_time, **substreams):
    out = jax.jit(lambda z: run(_Keys(), z))(start.astype(np.float32))
  out = np.asarray(out, np.float64)
  response = (out[1:] - out[0]).T
  return out[0], response @ response.T


def _sample_free(sampler, score_fn, z, *, sde, seed=0):
  """Unconditional samples, jitted; `score_fn(z, t)`."""
  keys = jax.random.split(jax.random.key(seed), z.shape[0])

  @jax.jit
  def run(keys, z):
    return sampler(keys, score_fn, z, sde=sde, hold=lambda keys, z, t, visit: z)

  return run(keys, z)


@pytest.fixture
def gaussian():
  return Gaussian()


@pytest.fixture
def pair():
  return make_pair()


@pytest.fixture(name='exact_moments')
def exact_moments_fixture():
  return exact_moments


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
