"""What absent rows hold has no influence on what is learned from the others."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.config import Section
from mmsbm.infra.rng import step_rngs
from mmsbm.learners.autoencoder import AUTOENCODERS
from mmsbm.learners.base import STREAMS
from mmsbm.learners.codec import make_codec
from mmsbm.learners.joint_vae import JointVAE
from mmsbm.modalities import Image, Modality
from mmsbm.nn.batch_norm import BatchNorm, counted_rows
from mmsbm.objectives import OBJECTIVES

ROWS, SHAPE = 6, (8, 8, 1)
MLP = dict(name='mlp', widths=(5,), norm='batch')
# All networks that have statistics: (encoder, decoder).
NETWORKS = {
  'mlp': (MLP, MLP),
  'resnet': (
    dict(name='resnet', stem=2, blocks=((2, 2, 4, 2),)),
    dict(name='resnet', blocks=((4, 2, 2, 2),)),
  ),
}
RNGS = step_rngs(jax.random.key(0), 0, STREAMS)


def codec(network, name='m0'):
  encoder, decoder = NETWORKS[network]
  likelihood = dict(name='normal', scale=0.5)
  spec = dict(latent_dim=4, encoder=encoder, decoder=decoder, likelihood=likelihood)
  modality = Modality(name=name, kind_name='image', kind=Image(shape=SHAPE))
  return make_codec(Section(spec), modality)


def batches(present):
  """Two batches that differ in what the absent rows hold."""
  rng = np.random.default_rng(0)
  for filling in (0, 255):
    x = {}
    for i in range(present.shape[1]):
      image = rng.integers(0, 256, (ROWS, *SHAPE), np.uint8)
      image[~present[:, i]] = filling
      x[f'm{i}'] = image
    rng = np.random.default_rng(0)
    yield {'x': x, 'present': present}


def results(learner, present):
  """(loss, running statistics) and gradient of both batches."""
  out = []
  for batch in batches(present):
    variables = learner.init(jax.random.key(1), batch)

    def loss(params, batch=batch, variables=variables):
      value, terms, mutables = learner.loss(
        {**variables, 'params': params}, None, batch, RNGS, train=True
      )
      return value, (terms, mutables)

    out.append(jax.jit(jax.value_and_grad(loss, has_aux=True))(variables['params']))
  return out


@pytest.mark.parametrize('network', NETWORKS)
@pytest.mark.parametrize('kind', AUTOENCODERS)
def test_absent_rows_have_no_influence_on_an_autoencoder(network, kind):
  present = np.array([[True], [False], [True], [True], [False], [True]])
  first, second = results(AUTOENCODERS[kind](codec(network), 0), present)
  chex.assert_trees_all_equal(first, second)


@pytest.mark.parametrize('objective', OBJECTIVES)
def test_absent_rows_have_no_influence_on_a_joint_vae(objective):
  present = np.array([[1, 1], [0, 1], [1, 0], [1, 1], [0, 0], [1, 0]], bool)
  codecs = (codec('mlp'), codec('mlp', 'm1'))
  private = 2 if objective == 'mmvaeplus' else 0
  learner = JointVAE(codecs, OBJECTIVES[objective](), private_dim=private)
  first, second = results(learner, present)
  chex.assert_trees_all_close(first, second, rtol=1e-6)


def apply(x, present, train=True):
  module = BatchNorm()
  variables = module.init(jax.random.key(0), x, False)
  with counted_rows(present):
    return module.apply(variables, x, train, mutable=['batch_stats'])


def test_statistics_are_those_of_the_rows_that_count():
  x = jax.random.normal(jax.random.key(0), (4, 3, 2))
  present = jnp.array([True, False, True, False])
  y, updated = apply(x, present)
  expected, alone = apply(x[present], None)
  np.testing.assert_allclose(y[present], expected, rtol=1e-5, atol=1e-6)
  chex.assert_trees_all_close(updated, alone, rtol=1e-6)


def test_nothing_is_learned_of_no_rows():
  x = jnp.ones((2, 3))
  y, updated = apply(x, jnp.zeros(2, bool))
  stats = updated['batch_stats']
  assert np.isfinite(y).all() and not stats['mean'].any() and (stats['var'] == 1).all()
