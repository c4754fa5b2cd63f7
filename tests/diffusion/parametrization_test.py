"""Networks that are optimal by definition must all give the exact score."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.diffusion.parametrization import PARAMETRIZATIONS
from mmsbm.diffusion.sde import SDES

MEAN = np.array([0.5, -1.0, 2.0])
VAR = np.array([0.3, 1.0, 2.5])
Z = np.random.default_rng(0).normal(size=(5, 3))


def _optimal_output(name, sde, z, t):
  """What each network is to predict for z_0 ~ N(MEAN, VAR).

  In long doubles: z and alpha x0 agree to sigma^2, 1e-12 for sub-VP at t = 1e-5.
  """
  z = np.longdouble(z)
  alpha, sigma = (np.longdouble(float(x(t))) for x in (sde.alpha, sde.sigma))
  score = -(z - alpha * MEAN) / (alpha**2 * VAR + sigma**2)
  x0 = MEAN + alpha * VAR / (alpha**2 * VAR + sigma**2) * (z - alpha * MEAN)
  y, s = z / alpha, sigma / alpha
  outputs = {
    'score': score,
    'noise': (z - alpha * x0) / sigma,
    'x0': x0,
    # F = (x0 - c_skip y) / c_out with sigma_data = 1.
    'edm': (x0 - y / (1 + s**2)) / (s / np.sqrt(1 + s**2)),
    'v': (alpha * (z - alpha * x0) / sigma - sigma * x0) / np.hypot(alpha, sigma),
  }
  return np.float64(outputs[name]), np.float64(score)


@pytest.mark.parametrize('sde_name', SDES)
@pytest.mark.parametrize('name', PARAMETRIZATIONS)
def test_optimal_network_gives_the_score(name, sde_name):
  sde = SDES[sde_name]()
  net_t = jnp.full((5, 2), 0.5)
  for t in (1e-5, 0.01, 0.4, 1.0):
    output, score = _optimal_output(name, sde, Z, t)
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    r = np.sqrt(alpha**2 + sigma**2) if name in ('edm', 'v') else 1

    def network(z_in, times, output=output, r=r):
      np.testing.assert_array_equal(times, net_t)
      np.testing.assert_allclose(z_in, Z / r, rtol=1e-5)
      return jnp.asarray(output, jnp.float32)

    result = PARAMETRIZATIONS[name]().score(
      network, sde, jnp.asarray(Z, jnp.float32), jnp.float32(t), net_t
    )
    # A float32 output of size m fixes the score to m eps / sigma, or / sigma^2.
    eps = np.finfo(np.float32).eps
    order = {'score': 0, 'noise': 1, 'edm': 1, 'v': 1, 'x0': 2}[name]
    atol = 4 * eps * np.abs(output).max() / sigma**order
    np.testing.assert_allclose(result, score, rtol=1e-5, atol=atol)


@pytest.mark.parametrize('sde_name', SDES)
def test_scores_convert_back_to_outputs(sde_name):
  """The network output is recovered from the score through its definition."""
  sde, t = SDES[sde_name](), 0.3
  alpha, sigma = sde.alpha(t), sde.sigma(t)
  output = jnp.asarray(np.random.default_rng(1).normal(size=Z.shape), jnp.float32)
  s = sigma / alpha

  def back(name, score):
    x0 = (Z + sigma**2 * score) / alpha
    return {
      'score': score,
      'noise': -sigma * score,
      'x0': x0,
      'edm': (x0 - Z / alpha / (1 + s**2)) * jnp.sqrt(1 + s**2) / s,
      'v': (-alpha * sigma * score - sigma * x0) / jnp.hypot(alpha, sigma),
    }[name]

  for name, cls in PARAMETRIZATIONS.items():
    score = cls().score(lambda z, t: output, sde, jnp.asarray(Z, jnp.float32), t, None)
    np.testing.assert_allclose(back(name, score), output, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize('name', PARAMETRIZATIONS)
def test_time_zero_entries_are_finite_and_harmless(name):
  """Also their gradient: a loss that leaves them out must not see a NaN."""
  sde, z = SDES['sub_vp'](), jnp.asarray(Z, jnp.float32)
  t = jnp.broadcast_to(jnp.array([0.0, 0.5, 0.0]), z.shape)

  def total(scale):
    score = PARAMETRIZATIONS[name]().score(lambda z, _: scale * z, sde, z, t, t)
    return jnp.where(t > 0, score, 0.0).sum(), jnp.all(jnp.isfinite(score))

  gradient, is_finite = jax.grad(total, has_aux=True)(0.7)
  assert is_finite
  alone = jax.grad(
    lambda scale: (
      PARAMETRIZATIONS[name]()
      .score(lambda z_in, _: scale * z_in, sde, z[:, 1], jnp.float32(0.5), None)
      .sum()
    )
  )(0.7)
  np.testing.assert_allclose(gradient, alone, rtol=1e-5)
