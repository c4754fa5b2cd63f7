"""Kernels against the moment equations, peers' numbers, and float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.diffusion.sde import SDES, VE, VP, SubVP
from mmsbm.infra.errors import UserError

ALL = [VP(), VP(1.0, 5.0), SubVP(), SubVP(1.0, 5.0), VE(), VE(0.1, 5.0)]


def _integral(y, x):
  return np.append(0, np.cumsum((y[1:] + y[:-1]) / 2 * np.diff(x)))


@pytest.mark.parametrize('sde', ALL, ids=str)
def test_kernel_solves_the_moment_equations(sde):
  """alpha' = f alpha and (sigma^2)' = 2 f sigma^2 + g^2, integrated numerically."""
  t = np.linspace(0, 1, 20001)
  f, g = (np.asarray(x(t), np.float64) for x in (sde.drift_rate, sde.diffusion))
  alpha = np.exp(_integral(f, t))
  variance = alpha**2 * (float(sde.sigma(0.0)) ** 2 + _integral(g**2 / alpha**2, t))
  at = slice(2000, None, 2000)
  np.testing.assert_allclose(sde.alpha(t)[at], alpha[at], rtol=1e-4)
  np.testing.assert_allclose(sde.sigma(t)[at], np.sqrt(variance[at]), rtol=1e-4)
  assert np.isclose(sde.prior_std, sde.sigma(1.0), rtol=0.06)  # 0.9502 for (1, 5)


def test_numbers_of_the_published_code():
  t = np.array([0.001, 0.25, 0.5, 1.0])
  cases = [
    (VP(1.0, 5.0).alpha, [0.999499, 0.829029, 0.606531, 0.223130]),
    (VP(1.0, 5.0).sigma, [0.031646, 0.559205, 0.795060, 0.974789]),
    (VP(0.1, 5.0).sigma, [0.010122, 0.403933, 0.696017, 0.960166]),
    # The first was printed as 0.010487: 1 - exp(-x) in float32; this is exact.
    (VP(0.1, 20.0).sigma, [0.010485, 0.690160, 0.959654, 0.999978]),
    (VP(1.0, 5.0).diffusion, [1.001998, 1.414214, 1.732051, 2.236068]),
  ]
  for function, expected in cases:
    # They are printed to six decimals.
    np.testing.assert_allclose(function(t), expected, rtol=1e-5, atol=5.1e-7)


@pytest.mark.parametrize('t', [1e-5, 1e-3, 0.3])
def test_sigma_is_accurate_in_float32(t):
  for beta_min, beta_max in ((0.1, 20.0), (1.0, 5.0)):
    integral = t * beta_min + t**2 * (beta_max - beta_min) / 2
    vp, sub_vp = VP(beta_min, beta_max), SubVP(beta_min, beta_max)
    expected = -np.expm1(-integral)
    np.testing.assert_allclose(vp.sigma(t), np.sqrt(expected), rtol=1e-6)
    np.testing.assert_allclose(sub_vp.sigma(t), expected, rtol=1e-6)


@pytest.mark.parametrize('sde', ALL, ids=str)
def test_time_of_noise_level_inverts_noise_level(sde):
  t = jnp.array([1e-5, 1e-4, 1e-3, 0.1, 0.5, 1.0])
  s = sde.noise_level(t)
  np.testing.assert_allclose(s, sde.sigma(t) / sde.alpha(t))
  # Near t = 0 the levels of VE do not resolve the time any better.
  atol = 1e-6 if isinstance(sde, VE) else 0
  np.testing.assert_allclose(sde.time_of_noise_level(s), t, rtol=3e-5, atol=atol)


@pytest.mark.parametrize('name', SDES)
def test_denoise_is_the_posterior_mean_of_a_gaussian(name):
  """z_0 ~ N(mu, v): E[z_0 | z_t] = mu + alpha v / (alpha^2 v + sigma^2) (z - a mu)."""
  sde, mu, v, z = SDES[name](), 0.7, 0.4, 1.3
  t = jnp.array([1e-3, 0.2, 0.6])
  alpha, sigma = sde.alpha(t), sde.sigma(t)
  gain = 1 / (alpha**2 * v + sigma**2)
  score = -gain * (z - alpha * mu)
  expected = mu + alpha * v * gain * (z - alpha * mu)
  np.testing.assert_allclose(sde.denoise(z, score, t), expected, rtol=1e-5)


def test_perturb_has_the_moments_of_the_kernel():
  sde = VP(1.0, 5.0)
  np.testing.assert_allclose(sde.perturb(2.0, 0.0, 0.25), 2 * 0.829029, rtol=1e-5)
  np.testing.assert_allclose(sde.perturb(0.0, 3.0, 0.25), 3 * 0.559205, rtol=1e-5)


def test_langevin_scale_is_one_minus_beta_of_the_chain():
  sde, n = VP(1.0, 5.0), 10
  betas = np.linspace(1.0 / n, 5.0 / n, n)
  for t in (1e-3, 0.34, 0.5, 1.0):
    expected = 1 - betas[int(np.floor(t * (n - 1)))]
    np.testing.assert_allclose(sde.langevin_scale(t, n), expected, rtol=1e-6)
  assert VP().langevin_scale(1.0, 4) == 0  # and never negative
  assert VE().langevin_scale(0.5, 10) == 1


@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    ('ve', dict(sigma_max=0.001), 'sigma_min=0.01 must be .* below sigma_max=0.001'),
    ('ve', dict(sigma_min=0.0), 'sigma_min=0.0 must be positive'),
    ('vp', dict(beta_max=-1.0), 'beta_min=0.1 must be .* at most beta_max=-1.0'),
    ('vp', dict(beta_min=-1.0), 'beta_min=-1.0 must be at least 0'),
    ('sub_vp', dict(beta_min=0.0, beta_max=0.0), 'which must be positive'),
  ],
)
def test_sde_refuses_levels_that_do_not_grow(name, options, message):
  with pytest.raises(UserError, match=message):
    SDES[name](**options)
