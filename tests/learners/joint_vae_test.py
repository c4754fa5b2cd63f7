"""The learner of joint VAEs: what reaches the objective, and what it trains."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.config import Section
from mmsbm.distributions import DiagGaussian
from mmsbm.infra.optim import make_optimizer
from mmsbm.infra.rng import fold_in_name, step_rngs
from mmsbm.learners.base import STREAMS, Training, init_state, train_step
from mmsbm.learners.codec import make_codec
from mmsbm.learners.joint_vae import JointVAE, dimension_weights
from mmsbm.modalities import Modality, Vector
from mmsbm.objectives import MVTCAE, OBJECTIVES, MoPoE

SIZES, ROWS = (3, 2, 4), 8
DIFFUSION = dict(
  name='diffusion',
  network=dict(name='mlp', width=8, num_blocks=1),
  sde=dict(name='ve', sigma_min=0.01, sigma_max=20.0),
  parametrization=dict(name='edm'),
  times=dict(name='lognormal'),
  weighting='edm',
  offset=0.0,
  scale=1.0,
  drop_probability=0.0,
)


def learner(objective, norm='none', decoder_0=None, **kwargs):
  mlp = dict(name='mlp', widths=(8,), norm=norm)
  normal = dict(name='normal', scale=0.5)
  specs = [
    dict(latent_dim=4, encoder=mlp, decoder=decoder, likelihood=normal)
    for decoder in (decoder_0 or mlp, mlp, mlp)
  ]
  modalities = [
    Modality(
      name=f'm{i}',
      kind_name='vector',
      kind=Vector(shape=(size,), offset=0.0, scale=1.0),
    )
    for i, size in enumerate(SIZES)
  ]
  codecs = map(make_codec, map(Section, specs), modalities)
  return JointVAE(tuple(codecs), objective, **kwargs)


def batch(present=None):
  rng = np.random.default_rng(0)
  x = {
    f'm{i}': rng.normal(size=(ROWS, n)).astype(np.float32) for i, n in enumerate(SIZES)
  }
  full = np.ones((ROWS, 3), bool)
  return {'x': x, 'present': full if present is None else present}


RNGS = step_rngs(jax.random.key(0), 0, STREAMS)


def test_the_loss_is_that_of_its_objective():
  made, data = learner(MVTCAE(alpha=0.5, beta=2.0), weights=(1.0, 3.0, 0.5)), batch()
  variables = jax.jit(made.init)(jax.random.key(1), data)
  loss, terms, _ = jax.jit(lambda v: made.loss(v, None, data, RNGS, train=False))(
    variables
  )
  mean, log_var = made.network.apply(
    variables, made.to_model(data['x']), method='encode'
  )
  assert mean.shape == (ROWS, 3, 4)
  q = MVTCAE().posterior(None, _experts(DiagGaussian(mean, log_var), data))
  z = q.sample(RNGS['noise'])
  outputs = made.network.apply(variables, z, None, method='decode')
  log_p = [
    m.likelihood.log_prob(out, data['x'][m.name])
    for m, out in zip(made.codecs, outputs, strict=True)
  ]
  weighted = log_p[0] + 3 * log_p[1] + 0.5 * log_p[2]
  np.testing.assert_allclose(terms['reconstruction'], -weighted.mean(), rtol=1e-5)
  expected = 2 * terms['divergence'] - (3 - 0.5) / 3 * weighted.mean()
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


def _experts(shared, data):
  from mmsbm.objectives import Experts

  return Experts(shared=shared, present=jnp.asarray(data['present']))


PATTERNS = np.array(list(itertools.product([False, True], repeat=3)))


@functools.cache
def initialised(private, diffusion):
  decoder = DIFFUSION if diffusion else None
  made = learner(MoPoE(), private_dim=private, decoder_0=decoder)
  return jax.jit(made.init)(jax.random.key(1), batch())


@pytest.mark.parametrize(
  'name,diffusion', [*((name, False) for name in OBJECTIVES), ('mopoe', True)]
)
def test_absent_modalities_have_no_influence(name, diffusion):
  """In rows of every pattern; and loss and gradients are finite."""
  private = 2 if name == 'mmvaeplus' else 0
  objective = OBJECTIVES[name](**dict(num_samples=2) if private else {})
  decoder = DIFFUSION if diffusion else None
  made = learner(objective, private_dim=private, decoder_0=decoder)
  variables = initialised(private, diffusion)
  data = batch(PATTERNS)

  @jax.jit
  def run(variables, data):
    def fn(params):
      return made.loss({'params': params}, None, data, RNGS, train=True)[0]

    return jax.value_and_grad(fn)(variables['params'])

  loss, gradients = run(variables, data)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((loss, gradients)))
  junk = {
    name: np.where(PATTERNS[:, [i]], a, 9.0).astype(np.float32)
    for i, (name, a) in enumerate(data['x'].items())
  }
  other, others = run(variables, {**data, 'x': junk})
  assert loss == other
  jax.tree.map(np.testing.assert_array_equal, gradients, others)
  # Where a modality is nowhere, its networks are not trained.
  nowhere = PATTERNS & (np.arange(3) != 1)
  loss, gradients = run(variables, {**data, 'present': nowhere})
  assert np.isfinite(loss)
  largest = jax.tree.map(lambda g: float(np.abs(g).max()), gradients)
  assert max(jax.tree.leaves([largest['encoders_1'], largest['decoders_1']])) == 0
  assert min(jax.tree.leaves([largest['encoders_0'], largest['decoders_2']])) > 0
  if private:
    assert 'auxiliary_log_var' in gradients
    assert (np.asarray(gradients['auxiliary_log_var'])[1] == 0).all()
    assert (np.asarray(gradients['auxiliary_log_var'])[[0, 2]] != 0).all()
  # Nothing at all, as in the last rows of a split.
  nothing = run(variables, {**data, 'present': np.zeros_like(PATTERNS)})
  assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(nothing))


def test_diffusion_decoders_are_trained_with_the_rest():
  """Their loss stands for the log-likelihood, and reaches the encoders of others."""
  made = learner(MVTCAE(alpha=0.5, beta=0.0), decoder_0=DIFFUSION, weights=(2.0, 1, 1))
  data, key = batch(), jax.random.key(1)
  variables = jax.jit(made.init)(key, data)
  # Its output layer is 0 at first, and has no gradient with respect to the rest.
  moved = jax.tree.map(lambda a: a + 0.05, variables)

  @jax.jit
  def run(params, present):
    def fn(params):
      loss, terms, _ = made.loss(
        {'params': params}, None, {**data, 'present': present}, RNGS, train=True
      )
      return loss, terms

    return jax.jit(jax.value_and_grad(fn, has_aux=True))(params)

  present = np.ones((ROWS, 3), bool)
  (loss, terms), gradients = run(moved['params'], present)
  np.testing.assert_allclose(loss, 2.5 / 3 * terms['reconstruction'], rtol=1e-5)
  mean, log_var = made.network.apply(moved, made.to_model(data['x']), method='encode')
  q = MVTCAE().posterior(None, _experts(DiagGaussian(mean, log_var), data))
  z = q.sample(RNGS['noise'])
  outputs = made.network.apply(moved, z, None, method='decode')
  assert outputs[0] is None
  keys = {name: fold_in_name(RNGS[name], 'm0') for name in ('time', 'noise')}
  (first, *rest), variables_0 = made.codecs, made.denoiser_variables(moved, 0)
  expected = 2 * first.diffusion.loss(variables_0, data['x']['m0'], z, keys, train=True)
  for m, output in zip(rest, outputs[1:], strict=True):
    expected -= m.likelihood.log_prob(output, data['x'][m.name])
  np.testing.assert_allclose(terms['reconstruction'], expected.mean(), rtol=1e-4)
  largest = jax.tree.map(lambda g: float(np.abs(g).max()), gradients)
  assert min(largest['encoders_1']['mean'].values()) > 0
  assert largest['decoders_0']['output']['kernel'] > 0
  _, gradients = run(moved['params'], present & (np.arange(3) == 0))
  largest = jax.tree.map(lambda g: float(np.abs(g).max()), gradients)
  assert largest['encoders_0']['mean']['kernel'] > 0
  assert max(jax.tree.leaves(largest['decoders_1'])) == 0


def test_running_averages_are_kept():
  made = learner(MoPoE(), norm='batch')
  data = batch()
  variables = jax.jit(made.init)(jax.random.key(1), data)
  updated = {
    train: jax.jit(lambda v, train=train: made.loss(v, None, data, RNGS, train=train))(
      variables
    )[2]
    for train in (True, False)
  }
  moved = jax.tree.map(
    lambda a, b: bool((a != b).any()),
    updated[True]['batch_stats'],
    variables['batch_stats'],
  )
  assert all(jax.tree.leaves(moved))
  assert updated[False] == {}


def test_training_makes_the_loss_smaller():
  made = learner(MVTCAE(alpha=0.5, beta=1.0))
  training = Training(
    learner=made,
    optimizer=make_optimizer(num_steps=60, learning_rate=1e-2),
    ema_decay=0.9,
    num_steps=60,
    batch_size=ROWS,
    key=jax.random.key(0),
  )
  data = batch()

  @jax.jit
  def run(state):
    return jax.lax.scan(
      lambda state, _: train_step(training, state, None, data), state, length=60
    )

  _, logs = run(init_state(training, data))
  assert logs['loss'][-10:].mean() < 0.7 * logs['loss'][:5].mean()


def test_weights_by_dimensions():
  # As the published program scales likelihoods of 2, 3 and 4 entries: 2, 4/3, 1.
  codecs = learner(MoPoE()).codecs
  np.testing.assert_allclose(dimension_weights(codecs), (4 / 3, 2, 1))
