"""Refiners on Gaussians x | x_hat: what they are shown, their loss, their samples."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.config import Section
from mmsbm.infra.rng import step_rngs
from mmsbm.learners.autoencoder import VAE
from mmsbm.learners.base import STREAMS
from mmsbm.learners.codec import make_codec
from mmsbm.learners.refiner import Refiner, make_refiner
from mmsbm.modalities import Modality, Vector
from mmsbm.samplers import SAMPLERS

# x | x_hat ~ N(MATRIX x_hat + SHIFT, STD^2), of shape [2, 1].
MATRIX, SHIFT, STD = np.array([[0.8, -0.4], [0.0, 0.5]]), np.array([0.3, 0.1]), 0.2
OFFSET, SCALE = 0.5, 0.35
SPEC = dict(
  name='diffusion',
  network=dict(name='mlp', width=16, num_blocks=1),
  sde=dict(name='ve', sigma_min=0.005, sigma_max=20.0),
  parametrization=dict(name='edm'),
  times=dict(name='lognormal'),
  weighting='edm',
  offset=OFFSET,
  scale=SCALE,
  drop_probability=0.0,
)
RNGS = step_rngs(jax.random.key(0), 0, STREAMS)


class _Exact(nn.Module):
  """The optimal network of EDM for the Gaussian above, given x beside x_hat."""

  @nn.compact
  def __call__(self, both, t, z, train):
    del z, train
    x, x_hat = both[..., 0], SCALE * both[..., 1] + OFFSET
    s2, v = jnp.exp(2 * t)[:, None], (STD / SCALE) ** 2
    mean = (x_hat @ MATRIX.T + SHIFT - OFFSET) / SCALE
    y = x * jnp.sqrt(1 + s2)
    out = jnp.sqrt(s2 * (1 + s2)) / (v + s2) * (mean + y * (v - 1) / (1 + s2))
    # The other half of the channels is cut off.
    return jnp.stack([out, jnp.full_like(out, 1e3)], axis=-1)


def make(**changes) -> Refiner:
  mlp = dict(name='mlp', widths=(8,))
  spec = dict(latent_dim=3, encoder=mlp, decoder=mlp, likelihood=dict(name='bernoulli'))
  modality = Modality(
    name='a', kind_name='vector', kind=Vector(shape=(2, 1), offset=0.0, scale=1.0)
  )
  vae = VAE(make_codec(Section(spec), modality), 1)
  return make_refiner(Section(SPEC | changes), vae)


def test_samples_have_the_moments_given_what_was_decoded():
  n, made = 4096, make()
  diffusion = made.diffusion
  exact = diffusion.network.clone(denoiser=_Exact())
  made = Refiner(made.autoencoder, dataclasses.replace(diffusion, network=exact))
  x_hat = jax.random.uniform(jax.random.key(1), (n, 2, 1))
  keys = jax.random.split(jax.random.key(0), n)
  sampler = SAMPLERS['heun'](num_steps=40)
  x = np.asarray(jax.jit(lambda k, h: made.sample({}, k, h, sampler))(keys, x_hat))
  assert x.shape == (n, 2, 1)
  error = x[..., 0] - x_hat[..., 0] @ MATRIX.T - SHIFT
  np.testing.assert_allclose(error.mean(0), 0, atol=4 * STD / n**0.5)
  np.testing.assert_allclose(error.std(0), STD, rtol=4 / (2 * n) ** 0.5)
  correlation = np.corrcoef(error.T, x_hat[..., 0].T)[:2, 2:]
  assert np.abs(correlation).max() < 4 / n**0.5


def test_the_loss_is_that_of_the_decoder_given_the_reconstruction():
  """In examples that have the modality."""
  made = make()
  x = jax.random.uniform(jax.random.key(2), (6, 2, 1))
  present = np.array([[1, 1], [1, 0], [0, 1], [1, 1], [0, 0], [1, 1]], bool)
  batch = {'x': {'a': x}, 'present': jnp.asarray(present)}
  frozen = {'a': made.autoencoder.init(jax.random.key(3), batch)}
  variables = made.init(jax.random.key(4), batch)
  # Its last layer is 0 at first.
  variables = jax.tree.map(lambda a: a + 0.1, variables)

  def run(variables, frozen, x):
    given = {**batch, 'x': {'a': x}}
    return made.loss(variables, frozen, given, RNGS, train=True)[0]

  loss, gradient = (
    run(variables, frozen, x),
    jax.jit(jax.grad(run))(variables, frozen, x),
  )
  x_hat = jax.nn.sigmoid(made.autoencoder.network.apply(frozen['a'], x))
  condition = (x_hat.reshape(6, 2) - OFFSET) / SCALE
  each, other = (
    made.diffusion.loss(variables, x, z, RNGS, train=True)
    for z in (condition, 0 * condition)
  )
  np.testing.assert_allclose(loss, each[present[:, 1]].mean(), rtol=1e-5)
  assert np.abs(other - each).min() > 1e-6
  assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient['params']))
  junk = jnp.where(present[:, 1, None, None], x, 7.0)
  np.testing.assert_array_equal(run(variables, frozen, junk), loss)
