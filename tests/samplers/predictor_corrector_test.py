"""Predictor-corrector: numbers of the published code, and exact recursions."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.diffusion.sde import SDES, VE, VP
from mmsbm.infra import rng
from mmsbm.infra.errors import UserError
from mmsbm.samplers.grids import time_grid
from mmsbm.samplers.predictor_corrector import PAPER, PredictorCorrector


def _wave(shape, a, b):
  return np.sin(a + b * np.arange(np.prod(shape)), dtype=np.float64).reshape(shape)


X = jnp.asarray(_wave((4, 12), 0.2, 0.5), jnp.float32)
NOISE = jnp.asarray(_wave((4, 12), 1.0, 0.9), jnp.float32)
SDE = VP(1.0, 5.0)


def _published_score(z, t):
  return -z * (1 + t)


def _sample_with_fixed_noise(sampler):
  """The published numbers use one array in place of every draw of noise."""
  with mock.patch.object(rng, 'row_normal', lambda *_: NOISE):

    @jax.jit
    def run(keys, z):
      options = {'sde': SDE, 'hold': lambda keys, z, t, visit: z}
      return sampler(keys, _published_score, z, **options)

    return run(jax.random.split(jax.random.key(0), 4), X)


def test_published_predictor():
  sampler, t = PredictorCorrector(num_steps=10, **PAPER), jnp.float32(0.5)
  z, mean = sampler.predict(X, _published_score(X, t), NOISE, t, 0.1, SDE)
  np.testing.assert_allclose(
    z[0, :4], [0.599961, 0.969262, 0.835908, 0.403962], rtol=1e-5
  )
  np.testing.assert_allclose(
    mean[0, :4], [0.139069, 0.450952, 0.652427, 0.694165], rtol=1e-5
  )


def test_published_corrector():
  sampler, t = PredictorCorrector(num_steps=10, **PAPER), jnp.float32(0.5)
  z, mean = sampler.correct(X, _published_score(X, t), NOISE, t, SDE)
  np.testing.assert_allclose(
    z[0, :4], [0.346637, 0.800200, 0.969827, 0.870847], rtol=1e-5
  )
  np.testing.assert_allclose(
    mean[0, :4], [0.193751, 0.628268, 0.908963, 0.967113], rtol=1e-5
  )


@pytest.mark.parametrize(
  'corrector_steps,expected',
  [
    (1, [2.292937, 2.581342, 0.918396, -1.436451]),
    (0, [1.706830, 1.922531, 0.685702, -1.066575]),
  ],
)
def test_published_sampler(corrector_steps, expected):
  sampler = PredictorCorrector(num_steps=10, corrector_steps=corrector_steps, **PAPER)
  out = _sample_with_fixed_noise(sampler)
  np.testing.assert_allclose(out[0, :4], expected, rtol=1e-5)


@pytest.mark.parametrize(
  'order,dt,final',
  [
    ('corrector_predictor', 'grid', 'denoise'),
    ('predictor_corrector', 'grid', 'mean_of_last_operation'),
    ('corrector_predictor', 'uniform', 'mean_of_last_operation'),
    ('predictor_corrector', 'uniform', 'denoise'),
  ],
)
def test_order_of_operations(order, dt, final):
  """A plain loop over `predict` and `correct`, with the times written out."""
  n, time_min = 4, 1e-2
  sampler = PredictorCorrector(
    num_steps=n,
    corrector_steps=2,
    order=order,
    dt=dt,
    final=final,
    time_min=time_min,
  )
  z = X
  times = np.linspace(1, time_min, n + 1 if dt == 'grid' else n)
  for i in range(n):
    t = reached = jnp.float32(times[i])
    h = 1 / n
    if dt == 'grid':
      reached, h = jnp.float32(times[i + 1]), times[i] - times[i + 1]
    operations = [('c', t), ('c', t), ('p', t)]
    if order == 'predictor_corrector':
      operations = [('p', t), ('c', reached), ('c', reached)]
    for operation, at in operations:
      score = _published_score(z, at)
      if operation == 'p':
        z, mean = sampler.predict(z, score, NOISE, at, h, SDE)
      else:
        z, mean = sampler.correct(z, score, NOISE, at, SDE)
  if final == 'denoise':
    last = jnp.float32(time_min)
    mean = SDE.denoise(z, _published_score(z, last), last)
  out = _sample_with_fixed_noise(sampler)
  np.testing.assert_allclose(out, mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('reimpose', [False, True])
def test_reimpose_holds_before_every_evaluation(reimpose):
  """A hold that adds 1 is counted by a score and updates that do nothing."""
  sampler = PredictorCorrector(num_steps=3, corrector_steps=2, reimpose=reimpose)

  @jax.jit
  def run(keys, z):
    return sampler(
      keys,
      lambda z, t: jnp.zeros_like(z),
      z,
      sde=VE(1e-6, 1.1e-6),  # no drift, next to no noise, alpha = 1
      hold=lambda keys, z, t, visit: z + 1,
    )

  out = run(jax.random.split(jax.random.key(0), 1), jnp.zeros((1, 1)))
  np.testing.assert_allclose(out, 10 if reimpose else 4, rtol=1e-4)


def test_corrector_step_follows_the_noise_level():
  sampler, t = PredictorCorrector(num_steps=100, snr=0.2), jnp.float32(0.25)
  score = jnp.asarray([[3.0, 4.0, 99.0], [0.0, 0.0, 0.0]])
  noise = jnp.asarray([[1.0, -1.0, 0.5]] * 2)
  z, mean = sampler.correct(jnp.zeros((2, 3)), score, noise, t, SDE)
  scale = 1 - (1 + 4 * 24 / 99) / 100
  size = 2 * scale * (0.2 * 0.559205) ** 2
  np.testing.assert_allclose(mean, size * score, rtol=1e-5)
  np.testing.assert_allclose(z, size * score + np.sqrt(2 * size) * noise, rtol=1e-5)


def _isotropic_recursion(sampler, sde, v):
  """Variance of each dimension of N(0, v I) latents; norms are chi distributed."""
  if sampler.dt == 'uniform':
    t = time_grid(sde, sampler.grid, sampler.num_steps, sampler.time_min)
    dt = np.full(sampler.num_steps, 1 / sampler.num_steps)
  else:
    t = time_grid(sde, sampler.grid, sampler.num_steps + 1, sampler.time_min)
    t, dt = t[:-1], np.asarray(t[:-1] - t[1:], np.float64)
  var = float(sde.prior_std) ** 2
  for t_i, h in zip(t, dt, strict=True):
    alpha, sigma, f, g, scale = (
      float(x)
      for x in (
        sde.alpha(t_i),
        sde.sigma(t_i),
        sde.drift_rate(t_i),
        sde.diffusion(t_i),
        sde.langevin_scale(t_i, sampler.num_steps),
      )
    )
    var_t = alpha**2 * v + sigma**2

    def predict(var, h=h, f=f, g=g, var_t=var_t):
      kept = (1 - h * f - h * g**2 / var_t) ** 2 * var
      return kept, kept + g**2 * h

    def correct(var, scale=scale, var_t=var_t, sigma=sigma):
      # Batch means: ||noise|| / ||score|| = var_t / std(z).
      ratio = var_t / np.sqrt(var) if sampler.batch_norms else sigma
      size = 2 * scale * (sampler.snr * ratio) ** 2
      kept = (1 - size / var_t) ** 2 * var
      return kept, kept + 2 * size

    operations = [predict] + sampler.corrector_steps * [correct]
    if sampler.order == 'corrector_predictor':
      operations = operations[::-1]
    for operation in operations:
      kept, var = operation(var)
  if sampler.final == 'mean_of_last_operation':
    return kept
  t_last = jnp.float32(sampler.time_min)
  alpha, sigma = float(sde.alpha(t_last)), float(sde.sigma(t_last))
  return (alpha * v / (alpha**2 * v + sigma**2)) ** 2 * var


@pytest.mark.parametrize(
  'sde_name,options',
  [
    ('sub_vp', {}),
    ('ve', {'corrector_steps': 2, 'grid': 'edm'}),
    ('vp', {**PAPER}),
  ],
)
def test_matches_exact_recursion(sde_name, options, sample_free, assert_moments):
  sde, n, dim, v = SDES[sde_name](), 4096, 4, 0.6
  sampler = PredictorCorrector(num_steps=40, **options)
  z = sde.prior_std * jax.random.normal(jax.random.key(1), (n, dim))

  def score(z, t):
    return -z / (jnp.square(sde.alpha(t)) * v + jnp.square(sde.sigma(t)))

  out = sample_free(sampler, score, z, sde=sde)
  assert_moments(out, np.zeros(dim), _isotropic_recursion(sampler, sde, v))


def test_predictor_moves_the_mean(sample_free, assert_moments):
  """Mean of the Euler-Maruyama recursion, one dimension with mean 2."""
  sde, n, mu, v = SDES['vp'](), 8192, 2.0, 0.5
  sampler = PredictorCorrector(num_steps=20, corrector_steps=0)

  def score(z, t):
    alpha = sde.alpha(t)
    return -(z - alpha * mu) / (alpha**2 * v + sde.sigma(t) ** 2)

  z = jax.random.normal(jax.random.key(1), (n, 1))
  out = sample_free(sampler, score, z, sde=sde)
  times = np.linspace(1, sampler.time_min, 21)
  mean, var = 0.0, 1.0
  for t, h in zip(times, -np.diff(times), strict=False):
    beta = 0.1 + 19.9 * t
    integral = 0.1 * t + 19.9 * t**2 / 2
    alpha, sigma2 = np.exp(-integral / 2), -np.expm1(-integral)
    gain = beta / (alpha**2 * v + sigma2)
    mean += h * (beta * mean / 2 - gain * (mean - alpha * mu))
    var = (1 + h * (beta / 2 - gain)) ** 2 * var + h * beta
  integral = 0.1 * 1e-3 + 19.9 * 1e-6 / 2
  alpha, sigma2 = np.exp(-integral / 2), -np.expm1(-integral)
  gain = alpha * v / (alpha**2 * v + sigma2)
  assert_moments(out, mu + gain * (mean - alpha * mu), gain**2 * var)


@pytest.mark.parametrize(
  'options',
  [
    {'order': 'both'},
    {'final': 'none'},
    {'dt': 'true'},
    {'grid': 'edm', 'dt': 'uniform'},
  ],
)
def test_unknown_options_are_user_errors(options):
  with pytest.raises(UserError, match='choose from'):
    PredictorCorrector(**options)
