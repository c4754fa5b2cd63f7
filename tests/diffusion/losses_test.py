"""Losses against published numbers, closed forms, and their own definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.diffusion.losses import TIME_SAMPLING, WEIGHTINGS, denoising_loss
from mmsbm.diffusion.sde import SDES, VP
from mmsbm.infra.errors import UserError


def _wave(shape, a, b):
  return np.sin(a + b * np.arange(np.prod(shape)), dtype=np.float64).reshape(shape)


Z = jnp.asarray(_wave((4, 12), 0.2, 0.5), jnp.float32)
NOISE = jnp.asarray(_wave((4, 12), 1.0, 0.9), jnp.float32)
T = jnp.asarray(1e-5 + (1 - 1e-5) * np.array([[0.1], [0.4], [0.6], [0.9]]))


@pytest.mark.parametrize(
  'weighting,mean,half_sum',
  [('uniform', 0.402229, 2.413374), ('likelihood', 2.975681, 17.854086)],
)
def test_numbers_of_the_published_code(weighting, mean, half_sum):
  loss = denoising_loss(
    lambda z, t: -z * (1 + t), Z, NOISE, T, sde=VP(1.0, 5.0), weighting=weighting
  )
  np.testing.assert_allclose(loss.mean(), mean, rtol=1e-5)
  np.testing.assert_allclose(6 * loss.mean(), half_sum, rtol=1e-5)


def test_edm_weighting_is_the_error_of_the_network_target():
  """Mean over dims of (F - F*)^2 for F* = (x0 - c_skip y) / c_out."""
  for sde in (cls() for cls in SDES.values()):
    alpha, sigma = sde.alpha(T), sde.sigma(T)
    s, y = sigma / alpha, sde.perturb(Z, NOISE, T) / alpha
    c_skip, c_out = 1 / (1 + s**2), s / jnp.sqrt(1 + s**2)
    output = jnp.cos(3 * Z)
    target = (Z - c_skip * y) / c_out
    x0 = c_skip * y + c_out * output
    score = (alpha * x0 - alpha * y) / sigma**2
    loss = denoising_loss(
      lambda z, t, score=score: score, Z, NOISE, T, sde=sde, weighting='edm'
    )
    expected = jnp.square(output - target).mean(-1)
    np.testing.assert_allclose(loss, expected, rtol=2e-4)


@pytest.mark.parametrize('weighting', WEIGHTINGS)
def test_score_of_the_kernel_has_no_loss(weighting):
  sde = VP()
  loss = denoising_loss(
    lambda z, t: -NOISE / sde.sigma(t), Z, NOISE, T, sde=sde, weighting=weighting
  )
  np.testing.assert_allclose(loss, 0, atol=1e-9)


def test_exact_network_reaches_the_irreducible_loss():
  """For z_0 ~ N(0, v), E (sigma score + eps)^2 = alpha^2 v / (alpha^2 v + sigma^2)."""
  sde, v, n, t = VP(), 0.5, 50_000, jnp.float32(0.3)
  z_key, noise_key = jax.random.split(jax.random.key(0))
  z = jnp.sqrt(v) * jax.random.normal(z_key, (n, 1))
  noise = jax.random.normal(noise_key, (n, 1))
  var_t = sde.alpha(t) ** 2 * v + sde.sigma(t) ** 2
  irreducible = sde.alpha(t) ** 2 * v / var_t

  def loss(scale):
    return denoising_loss(lambda z, t: -scale * z / var_t, z, noise, t, sde=sde).mean()

  stderr = irreducible * np.sqrt(2 / n)
  assert abs(loss(1.0) - irreducible) < 4 * stderr
  # A scale c is (c - 1)^2 sigma^2 / var_t worse, to the same sampling error.
  excess = sde.sigma(t) ** 2 / var_t
  assert abs(loss(2.0) - irreducible - excess) < 0.05 * excess


def test_weights_select_dimensions_and_examples():
  sde = VP()
  weight = jnp.zeros((4, 12)).at[0].set(1).at[1, :5].set(1).at[2, 3:4].set(2)
  weight = weight.at[2, 7].set(1)
  loss = denoising_loss(
    lambda z, t: -jnp.tanh(z) * (1 + t), Z, NOISE, T, sde=sde, dim_weight=weight
  )
  t, z, noise = (np.asarray(x, np.float64) for x in (T, Z, NOISE))
  alpha, sigma = (np.asarray(f(T), np.float64) for f in (sde.alpha, sde.sigma))
  e = (noise - sigma * (1 + t) * np.tanh(alpha * z + sigma * noise)) ** 2
  expected = [e[0].mean(), e[1, :5].mean(), (2 * e[2, 3] + e[2, 7]) / 3, 0]
  np.testing.assert_allclose(loss, expected, rtol=1e-4)


@pytest.mark.parametrize('weighting', WEIGHTINGS)
def test_unused_dimensions_have_no_influence_and_no_gradient(weighting):
  """They may have t = 0 (an infinite weight), and latents that are anything."""
  used = jnp.arange(12) < 7
  weight = jnp.broadcast_to(used, Z.shape).at[3].set(False)
  t = jnp.where(weight, T, 0.0)

  def loss(scores, z):
    return denoising_loss(
      lambda z, t: scores - z,
      z,
      NOISE,
      t,
      sde=VP(),
      weighting=weighting,
      dim_weight=weight,
    )

  scores = jnp.ones_like(Z)
  gradient = jax.grad(lambda scores: loss(scores, Z).sum())(scores)
  assert jnp.all(jnp.where(weight, gradient != 0, gradient == 0))
  other = jnp.where(weight, Z, 1e6)
  np.testing.assert_array_equal(loss(scores, Z), loss(scores, other))


def test_unknown_weighting_is_a_user_error():
  with pytest.raises(UserError, match='likelihood'):
    denoising_loss(lambda z, t: z, Z, NOISE, T, sde=VP(), weighting='none')


def test_importance_times_of_the_published_code():
  times, sde = TIME_SAMPLING['importance'](), VP(1.0, 5.0)
  np.testing.assert_allclose(times.normalizer(sde), 14.461826, rtol=1e-5)
  t = times.time_of_mass(jnp.array([1.0, 4.0, 8.0]), sde)
  np.testing.assert_allclose(t, [2.7e-5, 0.000545, 0.027826], rtol=1e-5, atol=5e-7)


@pytest.mark.parametrize('name', SDES)
def test_importance_mass_is_the_integral_of_g2_over_sigma2(name):
  """Numerical integration in log t, from time_min to the returned time."""
  times, sde = TIME_SAMPLING['importance'](time_min=1e-3), SDES[name]()
  grid = np.geomspace(1e-3, 1, 4001)
  density = np.asarray(sde.diffusion(grid) / sde.sigma(grid), np.float64) ** 2
  area = np.append(0, np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(grid)))
  np.testing.assert_allclose(times.normalizer(sde), area[-1], rtol=1e-4)
  for fraction in (0.2, 0.7):
    t = times.time_of_mass(fraction * area[-1], sde)
    np.testing.assert_allclose(np.interp(t, grid, area), fraction * area[-1], rtol=1e-3)


@pytest.mark.parametrize('name', ['sub_vp'])
def test_importance_times_keep_the_expectation(name):
  """Mean of factor * h(t) is the mean of h under uniform times; variance is not."""
  sde, n = SDES[name](), 100_000
  times = TIME_SAMPLING['importance'](time_min=1e-3)
  t, factor = times(jax.random.key(0), (n,), sde)
  h = WEIGHTINGS['likelihood'](sde, t)
  expected = times.normalizer(sde) / (1 - 1e-3)
  np.testing.assert_allclose(factor * h, expected, rtol=1e-3)
  values = factor * t
  assert abs(values.mean() - 0.5005) < 4 * values.std() / np.sqrt(n)


@pytest.mark.parametrize('name', TIME_SAMPLING)
@pytest.mark.parametrize('sde', [cls() for cls in SDES.values()], ids=str)
def test_times_are_in_range(name, sde):
  t, factor = TIME_SAMPLING[name](time_min=1e-4)(jax.random.key(1), (5000, 1), sde)
  assert t.shape == factor.shape == (5000, 1)
  # float32: 1e-4 itself may be rounded down by one unit.
  assert t.min() >= 0.9999e-4 and t.max() <= 1 and jnp.all(factor > 0)


def test_lognormal_times_have_the_moments_asked_for():
  sde, n = VP(), 50_000
  t, _ = TIME_SAMPLING['lognormal'](mean=-0.3, std=0.9)(jax.random.key(0), (n,), sde)
  log_s = jnp.log(sde.noise_level(t))
  assert abs(log_s.mean() + 0.3) < 4 * 0.9 / np.sqrt(n)
  assert abs(log_s.std() - 0.9) < 4 * 0.9 / np.sqrt(2 * n)


def test_uniform_times_have_the_moments_asked_for():
  t, factor = TIME_SAMPLING['uniform'](time_min=0.2)(jax.random.key(0), (50_000,), VP())
  assert abs(t.mean() - 0.6) < 4 * 0.8 / np.sqrt(12 * 50_000)
  assert jnp.all(factor == 1)
