"""Losses of linear autoencoders, whose expectations are known."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.config import Section
from mmsbm.distributions import Normal
from mmsbm.learners.autoencoder import AUTOENCODERS, RAE, VAE
from mmsbm.learners.codec import Codec, make_codec
from mmsbm.modalities import Modality, Vector

SCALE = 0.5
ENCODE = np.array([[0.5, -1.0], [2.0, 0.3], [0.1, 0.7]], np.float32)
DECODE = np.array([[1.0, 0.2, -0.4], [-0.6, 0.9, 0.5]], np.float32)
LOG_VAR = np.array([-1.0, 0.4], np.float32)
X = np.array([[1.0, -0.5, 2.0], [0.3, 0.8, -1.2], [-2.0, 0.1, 0.4]], np.float32)


class Encoder(nn.Module):
  @nn.compact
  def __call__(self, x, train):
    weight = self.param('weight', lambda _: jnp.asarray(ENCODE))
    log_var = self.param('log_var', lambda _: jnp.asarray(LOG_VAR))
    mean = x @ weight
    return mean, jnp.broadcast_to(log_var, mean.shape)


class Decoder(nn.Module):
  @nn.compact
  def __call__(self, z, train):
    return z @ self.param('weight', lambda _: jnp.asarray(DECODE))


def modality(size):
  return Modality(
    name='x', kind_name='vector', kind=Vector(shape=(size,), offset=0.0, scale=1.0)
  )


CODEC = Codec(
  modality=modality(3),
  latent_dim=2,
  encoder=Encoder(),
  decoder=Decoder(),
  likelihood=Normal(scale=SCALE),
)
KEYS = {'noise': jax.random.key(1), 'dropout': jax.random.key(2)}


def batch(present=None, index=0):
  """Three examples; the modality is number `index` of three."""
  mask = np.zeros((3, 3), bool)
  mask[:, index] = True if present is None else present
  return {'x': {'x': jnp.asarray(X)}, 'present': jnp.asarray(mask)}


def mean_loss(learner, num=4000):
  """Mean over draws of the noise, its standard error, and the terms of one draw."""
  variables = jax.jit(learner.init)(jax.random.key(0), batch())

  def loss(key):
    keys = KEYS | {'noise': key}
    value, terms, _ = learner.loss(variables, None, batch(), keys, train=True)
    return value, terms

  values, terms = jax.vmap(loss)(jax.random.split(jax.random.key(3), num))
  return values.mean(), values.std() / math.sqrt(num), terms


def expected_reconstruction(variance):
  """E of -log N(x; D z, scale^2) for z ~ N(mean, diag(variance)), mean over rows."""
  mean = X @ ENCODE
  square = np.square(X - mean @ DECODE).sum(1) + (variance @ np.square(DECODE)).sum()
  constant = 3 * (math.log(SCALE) + 0.5 * math.log(2 * math.pi))
  return (0.5 * square / SCALE**2 + constant).mean()


def test_vae_is_reconstruction_plus_beta_times_kl():
  value, error, terms = mean_loss(VAE(CODEC, 0, beta=0.7))
  mean, variance = X @ ENCODE, np.exp(LOG_VAR)
  kl = 0.5 * (mean**2 + variance - 1 - LOG_VAR).sum(1).mean()
  np.testing.assert_allclose(terms['penalty'], 0.7 * kl, rtol=1e-5)
  assert abs(value - expected_reconstruction(variance) - 0.7 * kl) < 4 * error


def test_rae_noises_the_code_but_not_its_penalty():
  value, error, terms = mean_loss(RAE(CODEC, 0, beta=0.3, latent_noise=0.6))
  norm = np.square(X @ ENCODE).sum(1).mean()
  # The same for every draw of the noise.
  np.testing.assert_allclose(terms['penalty'], 0.3 * norm, rtol=1e-5)
  expected = expected_reconstruction(np.full(2, 0.36)) + 0.3 * norm
  assert abs(value - expected) < 4 * error
  assert terms['reconstruction'].std() > 0


def test_vae_equals_the_published_program():
  """Squared error against a fixed output; peers.md: 11.743768 and 1.713425."""

  def wave(offset, step):
    flat = np.sin(offset + step * np.arange(48))
    return jnp.asarray(flat.reshape(4, 12), jnp.float32)

  x, other = wave(0.2, 0.5), wave(1.0, 0.9)

  class FixedEncoder(nn.Module):
    def __call__(self, x, train):
      return x, 0.5 * other

  class FixedDecoder(nn.Module):
    def __call__(self, z, train):
      return other

  codec = dataclasses.replace(
    CODEC,
    modality=modality(12),
    latent_dim=12,
    encoder=FixedEncoder(),
    decoder=FixedDecoder(),
    # -log density is the squared error and 6 log(pi).
    likelihood=Normal(scale=math.sqrt(0.5)),
  )
  data = {'x': {'x': x}, 'present': jnp.ones((4, 1), bool)}
  _, terms, _ = VAE(codec, 0, beta=0.5).loss({}, None, data, KEYS, train=True)
  reconstruction = terms['reconstruction'] - 6 * math.log(math.pi)
  np.testing.assert_allclose(reconstruction, 11.743768, rtol=1e-5)
  np.testing.assert_allclose(terms['penalty'], 1.713425, rtol=1e-5)


@pytest.mark.parametrize('index', [0, 2])
@pytest.mark.parametrize('kind', AUTOENCODERS)
def test_absent_examples_do_not_count(kind, index):
  learner = AUTOENCODERS[kind](CODEC, index)
  present = np.array([True, False, True])
  variables = jax.jit(learner.init)(jax.random.key(0), batch())

  def loss(variables, x, present):
    data = batch(present, index) | {'x': {'x': x}}
    return learner.loss(variables, None, data, KEYS, train=True)[0]

  value, grad = jax.value_and_grad(loss, argnums=(0, 1))(variables, X, present)
  assert np.asarray(grad[1]).any(axis=1).tolist() == [True, False, True]
  changed = X.copy()
  changed[1] = 1e4
  other, other_grad = jax.value_and_grad(loss)(variables, changed, present)
  np.testing.assert_allclose(other, value, rtol=1e-6)
  jax.tree.map(np.testing.assert_array_equal, other_grad, grad[0])
  # The mean is over the present ones; two single examples have the same mean.
  first = loss(variables, X, np.array([True, False, False]))
  last = loss(variables, X, np.array([False, False, True]))
  np.testing.assert_allclose(value, (first + last) / 2, rtol=1e-5)
  nothing, zero = jax.value_and_grad(loss)(variables, X, np.zeros(3, bool))
  assert nothing == 0 and not any(g.any() for g in jax.tree.leaves(zero))


def test_both_halves_update_their_batch_statistics_in_training_only():
  network = dict(name='mlp', widths=(4,), norm='batch')
  spec = dict(
    latent_dim=2,
    encoder=network,
    decoder=network,
    likelihood=dict(name='normal', scale=1.0),
  )
  learner = VAE(make_codec(Section(spec), modality(3)), 0)
  variables = jax.jit(learner.init)(jax.random.key(0), batch())
  _, _, updated = learner.loss(variables, None, batch(), KEYS, train=True)
  assert set(updated) == {'batch_stats'}
  old, new = variables['batch_stats'], updated['batch_stats']
  assert jax.tree.structure(old) == jax.tree.structure(new)
  for part in ('encoder', 'decoder'):
    pairs = zip(jax.tree.leaves(old[part]), jax.tree.leaves(new[part]), strict=True)
    assert all(not np.array_equal(a, b) for a, b in pairs)
  assert learner.loss(variables, None, batch(), KEYS, train=False)[2] == {}
