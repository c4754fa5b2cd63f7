"""The diffusion decoder on Gaussians x | z, whose score, loss and samples are known."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.diffusion.decoder import DiffusionDecoder
from mmsbm.diffusion.guided_levels import DecoderGuidance
from mmsbm.diffusion.losses import TIME_SAMPLING
from mmsbm.diffusion.parametrization import EDM
from mmsbm.diffusion.process import Diffusion
from mmsbm.diffusion.sde import SDES, VP
from mmsbm.nn.denoisers import MLPDenoiser
from mmsbm.samplers import SAMPLERS

# x | z ~ N(MATRIX z + SHIFT, STD^2), of shape [2, 1].
MATRIX = np.array([[0.6, -0.3, 0.0], [0.2, 0.0, 0.5]])
SHIFT = np.array([0.7, 0.1])
STD = 0.2
SCALE = 0.35


class _Exact(nn.Module):
  """The optimal network of EDM for the Gaussian above, if `error` is 0.

  With error e its posterior is that of a Gaussian whose mean is e higher, in units of
  the scaled x.
  """

  @nn.compact
  def __call__(self, x, t, z, train):
    del train
    error = self.param('error', nn.initializers.zeros, ())
    s2 = jnp.exp(2 * t)[:, None]
    mean = (z @ MATRIX.T + SHIFT - 0.5) / SCALE + error
    v = (STD / SCALE) ** 2
    y = x.reshape(mean.shape) * jnp.sqrt(1 + s2)
    # (D(y) - y / (1 + s^2)) sqrt(1 + s^2) / s, in a form that does not cancel.
    out = mean + y * (v - 1) / (1 + s2)
    return (jnp.sqrt(s2 * (1 + s2)) / (v + s2) * out).reshape(x.shape)


def _decoder(**changes):
  process = {
    'sde': VP(),
    'parametrization': EDM(),
    'times': TIME_SAMPLING['importance'](time_min=1e-4),
    'weighting': 'likelihood',
  }
  fields = {'network': _Exact(), 'shape': (2, 1), 'offset': 0.5, 'scale': SCALE}
  process |= {key: changes.pop(key) for key in process.keys() & changes.keys()}
  return DiffusionDecoder(diffusion=Diffusion(**process), **fields | changes)


def _variables(error=0.0):
  return {'params': {'error': jnp.float32(error)}}


def _draw(key, n):
  """Latents [n, 3] and examples [n, 2, 1]."""
  z_key, x_key = jax.random.split(key)
  z = jax.random.normal(z_key, (n, 3))
  x = z @ MATRIX.T + SHIFT + STD * jax.random.normal(x_key, (n, 2))
  return z, x.reshape(n, 2, 1)


@pytest.mark.parametrize(
  'sde_name,sampler_name', [('vp', 'heun'), ('sub_vp', 'dpm_solver'), ('ve', 'heun')]
)
def test_samples_have_the_conditional_moments(sde_name, sampler_name):
  """Mean and variance of x - E[x | z], and its correlation with z, to 4 std. errors."""
  n, sampler = 4096, SAMPLERS[sampler_name](num_steps=40)
  decoder = _decoder(sde=SDES[sde_name]())
  z, _ = _draw(jax.random.key(1), n)
  keys = jax.random.split(jax.random.key(0), n)
  x = jax.jit(lambda v, k, z: decoder.sample(v, k, z, sampler))(_variables(), keys, z)
  assert x.shape == (n, 2, 1)
  z = np.asarray(z, np.float64)
  rest = (np.asarray(x, np.float64).reshape(n, 2) - z @ MATRIX.T - SHIFT) / STD
  assert np.abs(rest.mean(0)).max() < 4 / np.sqrt(n)
  assert np.abs(rest.var(0) - 1).max() < 4 * np.sqrt(2 / n)
  assert np.abs(rest.T @ z / n).max() < 4 / np.sqrt(n)
  assert abs((rest[:, 0] * rest[:, 1]).mean()) < 4 / np.sqrt(n)


def test_a_row_of_a_sample_depends_on_its_own_key_and_latent_only():
  decoder = _decoder()

  def run(name, keys, z):
    sampler = SAMPLERS[name](num_steps=3)
    sample = jax.jit(lambda keys, z: decoder.sample(_variables(), keys, z, sampler))
    return np.asarray(sample(keys, z))

  keys = jax.random.split(jax.random.key(0), 3)
  z, _ = _draw(jax.random.key(1), 3)
  # Row 1 with another latent, with another key, and in other company.
  keys = keys[jnp.array([0, 1, 1, 2, 1])]
  z = z[jnp.array([0, 1, 0, 1, 1])]
  # The others give the moments above.
  for name in ('predictor_corrector', 'ancestral'):
    out = run(name, keys, z)
    assert np.isfinite(out).all()
    distance = np.abs(out - out[1]).max((1, 2))
    assert (distance[[0, 2, 3]] > 1e-3).all() and distance[4] < 1e-5, name
  alone = run(name, keys[1:2], z[1:2])
  np.testing.assert_allclose(alone[0], out[1], rtol=1e-5, atol=1e-6)


# Gauss-Hermite and midpoint rules for expectations over the training times.
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
_MIDPOINTS = (np.arange(200_000) + 0.5) / 200_000


def _expected_loss(name, error):
  """Loss per example of the network with that error, in closed form but for times.

  The error of the predicted noise has mean square v / (v + s^2) at the optimum, and
  error^2 s^2 / (v + s^2)^2 more than that.
  """
  v, sde = (STD / SCALE) ** 2, VP()

  def mean_square(s2):
    return v / (v + s2) + error**2 * s2 / (v + s2) ** 2

  if name == 'edm':
    s2 = np.exp(2 * (-0.5 + 1.2 * _NODES))
    return np.average((1 + s2) * mean_square(s2), weights=_WEIGHTS)
  first, last = (float(sde.noise_level(t)) ** 2 for t in (1e-4, 1.0))
  if name == 'likelihood':
    # An integral over log s^2.
    a = np.log(first) + np.log(last / first) * _MIDPOINTS
    return np.log(last / first) * mean_square(np.exp(a)).mean() / (1 - 1e-4)
  t = 1e-4 + (1 - 1e-4) * _MIDPOINTS
  return mean_square(np.asarray(sde.noise_level(t), np.float64) ** 2).mean()


@pytest.mark.parametrize(
  'weighting,times',
  [('likelihood', 'importance'), ('uniform', 'uniform'), ('edm', 'lognormal')],
)
def test_loss_has_its_closed_form_value(weighting, times):
  """Half the sum over two entries; at the optimum, and above and below it."""
  n = 100_000
  decoder = _decoder(times=TIME_SAMPLING[times](time_min=1e-4), weighting=weighting)
  z, x = _draw(jax.random.key(1), n)
  rngs = {'time': jax.random.key(2), 'noise': jax.random.key(3)}
  run = jax.jit(lambda v: decoder.loss(v, x, z, rngs, train=True))
  for error in (0.0, 0.6, -0.6):
    losses = np.asarray(run(_variables(error)), np.float64)
    assert losses.shape == (n,)
    expected = 0.5 * 2 * _expected_loss(weighting, error)
    tolerance = 4 * losses.std() / np.sqrt(n)
    assert tolerance < 0.1 * expected
    assert abs(losses.mean() - expected) < tolerance, error


class _Either(nn.Module):
  """The optimal network of EDM for x ~ N(0, 1) and, unless z is 0, x | z."""

  rho: float = 0.8

  @nn.compact
  def __call__(self, x, t, z, train):
    del train
    s2 = jnp.exp(2 * t)[:, None]
    v = jnp.where(z == 0, 1.0, 1 - self.rho**2)
    y = x * jnp.sqrt(1 + s2)
    clean = (v * y + s2 * self.rho * z) / (v + s2)
    return (clean - y / (1 + s2)) * jnp.sqrt((1 + s2) / s2)


@pytest.mark.parametrize('level,guided', [(0.4, False), (1.0, True), (6.0, False)])
def test_guidance_gives_the_score_of_the_tilted_density(level, guided):
  """p_t(x) p_t(z | x)^(1 + scale), in the interval; p_t(x | z) beside it."""
  sde, rho, scale = SDES['ve'](), 0.8, 1.7
  decoder = _decoder(network=_Either(), shape=(1,), sde=sde, offset=0.0, scale=1.0)
  guidance = DecoderGuidance(scale=scale, noise_min=0.5, noise_max=5.0)
  u = jnp.linspace(-2, 2, 5)[:, None]
  z = jnp.array([0.5, -1.0, 2.0, 0.3, 1.1])[:, None]
  t = sde.time_of_noise_level(level)

  def sampler(keys, score_fn, start, *, sde, hold):
    del keys, start, sde, hold
    return score_fn(u, t)

  def log_tilted(x, z):
    variance = 1 + level**2
    power = 1 + scale * guided
    rest = (z - rho / variance * x) ** 2 / (1 - rho**2 / variance)
    return -0.5 * (x**2 / variance + power * rest)

  keys = jax.random.split(jax.random.key(0), 5)
  got = decoder.sample({}, keys, z, sampler, guidance)
  exact = jax.vmap(jax.grad(log_tilted))(u[:, 0], z[:, 0])
  np.testing.assert_allclose(got[:, 0], exact, rtol=1e-4, atol=1e-5)


def test_latents_are_dropped_with_their_probability():
  """Where they are, no gradient reaches them and the loss is that of the latent 0."""
  n, probability = 4_000, 0.3
  z, x = _draw(jax.random.key(1), n)
  rngs = {'time': jax.random.key(2), 'noise': jax.random.key(3)}
  variables = _variables()

  def losses(decoder, z):
    return decoder.loss(variables, x, z, rngs, train=True)

  some = _decoder(drop_probability=probability)
  gradient = jax.grad(lambda z: losses(some, z).sum())(z)
  dropped = ~gradient.any(-1)
  spread = 4 * (probability * (1 - probability) / n) ** 0.5
  assert abs(dropped.mean() - probability) < spread
  shown = jnp.where(dropped[:, None], 0.0, z)
  np.testing.assert_array_equal(losses(some, z), losses(some, shown))
  everything = _decoder(drop_probability=1.0)
  assert (losses(everything, z)[dropped] == losses(some, z)[dropped]).all()


def test_likelihood_weighting_bounds_the_likelihood_tightly():
  """At the optimum, with the terms without parameters, it is the entropy of x | z.

  These are the entropy of the last noise, u + s_min eps, and log scale; the prior is
  N(0, 1) but for 1e-4.
  """
  s_min = float(VP().noise_level(1e-4))
  noise_entropy = 0.5 * np.log(2 * np.pi * np.e * s_min**2)
  bound = _expected_loss('likelihood', 0.0) * (1 - 1e-4) * 0.5
  bound += noise_entropy + np.log(SCALE)
  assert abs(bound - 0.5 * np.log(2 * np.pi * np.e * STD**2)) < 1e-3


def test_training_an_mlp_finds_the_conditional_mean():
  """At the highest noise level the denoised example is E[x | z]; z gets gradients."""
  network = MLPDenoiser(
    (2, 1), width=32, num_blocks=1, condition_width=16, level_features=8
  )
  decoder = _decoder(
    network=network,
    # Sampling starts at log s = 5, which the default would hardly ever train.
    times=TIME_SAMPLING['lognormal'](mean=1.0, std=2.0),
    weighting='edm',
  )
  z, _ = _draw(jax.random.key(5), 64)
  noise = jax.random.normal(jax.random.key(6), (64, 2))
  t = jnp.full((64, 1), 0.3).at[:32].set(1.0)

  def batch_loss(variables, moved, key):
    """Mean over a batch whose latents are `moved`."""
    draw, time, noise = jax.random.split(key, 3)
    z, x = _draw(draw, 64)
    rngs = {'time': time, 'noise': noise}
    return decoder.loss(variables, x, z + moved, rngs, train=True).mean()

  @jax.jit
  def run(key):
    start = decoder.init(key, z)

    def step(carry, i):
      variables, momentum, square = carry
      key_i = jax.random.fold_in(key, i)
      g, of_z = jax.grad(batch_loss, (0, 1))(variables, jnp.zeros(3), key_i)
      # Adam, whose rate falls to 0.
      rate = 0.01 * (1 - i / 500)
      momentum = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, momentum, g)
      square = jax.tree.map(lambda s, g: 0.99 * s + 0.01 * g**2, square, g)
      variables = jax.tree.map(
        lambda v, m, s: v - rate * m / (jnp.sqrt(s) + 1e-6), variables, momentum, square
      )
      return (variables, momentum, square), of_z

    zeros = jax.tree.map(jnp.zeros_like, start)
    (end, *_), of_z = jax.lax.scan(step, (start, zeros, zeros), jnp.arange(500))
    both = jax.tree.map(lambda *v: jnp.stack(v), start, end)
    score = jax.vmap(lambda v: decoder.score(v, noise, t, z))(both)
    return decoder.sde.denoise(noise, score, t), of_z

  (first, last), of_z = run(jax.random.key(0))
  alpha, sigma = VP().alpha(t), VP().sigma(t)
  # D(y) = y / (1 + s^2) of the untrained network, y = u / alpha.
  linear = alpha / (alpha**2 + sigma**2) * noise
  np.testing.assert_allclose(first, linear, rtol=1e-4, atol=1e-4)
  # At t = 1 nothing is left of x. Its means are about 0.6 apart.
  mean = np.asarray(z) @ MATRIX.T + SHIFT
  error = decoder.offset + decoder.scale * np.asarray(last) - mean
  assert math.sqrt(np.square(error[:32]).mean()) < 0.09
  assert np.isfinite(of_z).all() and (np.abs(of_z[1:]) > 0).all()
