"""Sizes that a config leaves open."""

import importlib
import math

import jax
import jax.numpy as jnp
import optax
import pytest

from mmsbm import automatic
from mmsbm.config import Section
from mmsbm.infra.errors import UserError
from mmsbm.learners.autoencoder import VAE
from mmsbm.learners.codec import make_codec
from mmsbm.modalities import make_modalities

KINDS = dict(
  image=dict(kind='image', shape=(8, 8, 1)),
  mask=dict(kind='mask', shape=(8, 6)),
  attributes=dict(kind='attributes', shape=(5,)),
  profile=dict(kind='vector', shape=(3, 2)),
  number=dict(kind='label', num_classes=4),
)
MODALITIES = make_modalities(Section(KINDS, 'modalities'))


def resolved(method, num_train=500, **changes):
  c = importlib.import_module('configs.arrays').get_config(f'method={method}')
  c.update_from_flattened_dict(changes)
  modalities = make_modalities(Section(c.modalities.to_dict(), 'modalities'))
  return automatic.resolve(c.to_dict(), modalities, lambda: num_train)


@pytest.mark.parametrize('method', ('sbm_vae', 'sbm_rae', 'mld', 'mopoe', 'diff_mvae'))
def test_nothing_stays_open(method):
  config = resolved(method)
  for name in ('unimodal', 'joint', 'score', 'energy'):
    assert not automatic.is_open(config.get(name, {}))
  assert automatic.resolve(config, (), pytest.fail) == config


def test_what_the_config_says_is_kept():
  config = resolved(
    'sbm_vae',
    **{
      'unimodal.networks.profile.latent_dim': 3,
      'unimodal.networks.number.beta': 0.7,
      'score.num_steps': 77,
      'score.optimizer.weight_decay': 0.0,
    },
  )
  networks = config['unimodal']['networks']
  assert networks['profile']['latent_dim'] == 3 and networks['number']['beta'] == 0.7
  assert networks['profile']['encoder']['widths'] == (64,)
  assert config['score']['num_steps'] == 77 and config['score']['patience'] == 15
  assert config['score']['optimizer']['weight_decay'] == 0.0


def test_beta_is_that_of_a_vae():
  assert 'beta' not in resolved('sbm_rae')['unimodal']['networks']['number']
  weights = resolved('mopoe')['joint']['likelihood_weights']
  assert weights['number'] == 10.0 and weights['image'] == 1.0


def test_more_examples_allow_more():
  sizes = [resolved('sbm_vae', n)['score'] for n in (999, 1_000, 10_000)]
  widths = [size['network']['width'] for size in sizes]
  assert widths == sorted(widths) and len(set(widths)) == 3
  dropout = [size['network']['dropout'] for size in sizes]
  assert dropout == sorted(dropout, reverse=True) and dropout[0] > 0


@pytest.mark.parametrize('modality', MODALITIES, ids=lambda m: m.name)
@pytest.mark.parametrize('num_train', (100, 1_000, 10_000))
def test_networks_fit_every_kind(modality, num_train):
  spec = automatic.codec(modality, automatic.scale_of(num_train))
  codec = make_codec(Section(spec), modality)
  x = jnp.zeros((2, *codec.model_shape))
  out = jax.eval_shape(
    lambda: VAE(codec=codec, index=0).network.init_with_output(jax.random.key(0), x)
  )
  assert out[0].shape == x.shape
  assert spec['latent_dim'] <= math.prod(codec.model_shape)


def test_a_kind_of_the_users_own_needs_sizes():
  other = type('Other', (), dict(name='a', model_shape=(2,), kind_name='my:Kind'))
  with pytest.raises(UserError, match="no sizes for the kind 'my:Kind'"):
    automatic.codec(other, automatic.SCALES[0])


@pytest.mark.parametrize('factor, is_kept', ((1.0, True), (10.0, False)))
def test_the_latent_of_a_label_keeps_it(factor, is_kept):
  """With beta 1 the prior is as good a posterior as any, with less it is not."""
  modality = MODALITIES[-1]
  spec = automatic.codec(modality, automatic.SCALES[0])
  vae = VAE(codec=make_codec(Section(spec), modality), index=0,
            beta=spec['beta'] * factor)  # fmt: skip
  batch = {'x': {'number': jnp.arange(32) % 4}, 'present': jnp.ones((32, 1), bool)}
  optimizer = optax.adam(1e-2)

  @jax.jit
  def train(variables):
    def step(carry, key):
      params, state = carry
      rngs = {'noise': key, 'dropout': key}
      grads = jax.grad(
        lambda p: vae.loss({'params': p}, None, batch, rngs, train=True)[0]
      )(params)
      updates, state = optimizer.update(grads, state)
      return (optax.apply_updates(params, updates), state), None

    params = variables['params']
    start, keys = (
      (params, optimizer.init(params)),
      jax.random.split(jax.random.key(1), 300),
    )
    return jax.lax.scan(step, start, keys)[0][0]

  params = train(vae.init(jax.random.key(0), batch))
  x = modality.kind.to_model(jnp.arange(4))
  posterior = vae.network.apply({'params': params}, x, method='encode')
  nats = float(posterior.kl_to_prior().mean())
  # To tell four classes apart takes log 4 nats.
  assert (nats > 0.8 * math.log(4)) == is_kept
