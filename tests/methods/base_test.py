"""What steps and methods are made of: trainings, moments, the dry run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmsbm.config import Section
from mmsbm.infra.errors import UserError
from mmsbm.infra.rng import fold_in_name
from mmsbm.methods.base import (
  Derived,
  Stage,
  dry_run,
  make_training,
  moments,
  own_section,
  samplings,
)
from mmsbm.models.base import SampleKeys

TRAINING = dict(
  num_steps=4, batch_size=6, ema_decay=0.5, optimizer=dict(learning_rate=0.1)
)


# --- moments ------------------------------------------------------------------


def test_moments_are_those_of_what_is_there():
  rng = np.random.default_rng(0)
  known = rng.random((200, 3)) < 0.6
  z = np.where(known, rng.normal(2.0, [1.0, 3.0, 0.1], (200, 3)), 0.0)
  mean, std = moments(z.astype(np.float32), known)
  for dim in range(3):
    part = z[known[:, dim], dim]
    np.testing.assert_allclose(mean[dim], part.mean(), rtol=1e-5)
    np.testing.assert_allclose(std[dim], part.std(), rtol=1e-5)
  assert mean.dtype == std.dtype == np.float32


def test_moments_count_the_spread_in():
  z, spread = np.array([[1.0], [3.0], [0.0]]), np.array([[2.0], [4.0], [9.0]])
  mean, std = moments(z, np.array([[True], [True], [False]]), spread)
  np.testing.assert_allclose(mean, [2.0])
  np.testing.assert_allclose(std, [np.sqrt(1.0 + (4 + 16) / 2)], rtol=1e-6)


def test_moments_of_a_constant_are_no_division_by_zero():
  z = np.stack([np.full(4, 5.0), np.arange(4.0)], 1)
  mean, std = moments(z, np.ones((4, 1), bool))
  np.testing.assert_allclose(mean, [5.0, 1.5])
  np.testing.assert_allclose(std, [1e-6 * np.sqrt(1.25), np.sqrt(1.25)], rtol=1e-5)
  assert (moments(np.zeros((3, 2)), np.zeros((3, 2), bool))[1] > 0).all()


# --- trainings ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Sum:
  """A parameter w of `size` entries; its loss is that of w @ x."""

  name: str = 'part'
  size: int = 3

  def init(self, key, batch):
    del batch
    return {'params': {'w': jax.random.normal(key, (self.size,))}}

  def loss(self, variables, frozen, batch, rngs, *, train):
    del rngs, train
    shift = 0.0 if frozen is None else frozen['shift']
    return ((batch['x'] @ variables['params']['w'] + shift) ** 2).mean(), {}, {}


def test_make_training():
  key = jax.random.key(3)
  training = make_training(Section(TRAINING, 'score'), Sum(), key)
  assert (training.name, training.num_steps, training.batch_size) == ('part', 4, 6)
  assert training.ema_decay == 0.5
  assert training.optimizer_spec == {'learning_rate': 0.1}
  expected = fold_in_name(key, 'part')
  assert jax.random.key_data(training.key).tolist() == (
    jax.random.key_data(expected).tolist()
  )
  # AdamW: the first step is of the size of the learning rate.
  params = {'w': jnp.ones(3)}
  updates, _ = training.optimizer.update(
    {'w': jnp.array([1.0, -2.0, 0.5])},
    training.optimizer.init(params),
    params,
    value=1.0,
  )
  np.testing.assert_allclose(updates['w'], [-0.1, 0.1, -0.1], rtol=1e-4)


def test_make_training_takes_an_optimizer_of_a_users_own():
  optimizer = dict(name='optax:sgd', learning_rate=0.5)
  training = make_training(
    Section(TRAINING | dict(optimizer=optimizer), 'score'), Sum(), jax.random.key(3)
  )
  assert isinstance(training.optimizer, optax.GradientTransformationExtraArgs)
  state = training.optimizer.init({'w': jnp.ones(1)})
  updates, _ = training.optimizer.update({'w': jnp.ones(1)}, state, value=1.0)
  np.testing.assert_allclose(updates['w'], [-0.5])
  assert training.optimizer_spec == optimizer


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (dict(num_steps=0), 'config.score.num_steps is 0'),
    (dict(batch_size=1.5), 'config.score.batch_size is 1.5; .* whole number'),
    (dict(ema_decay=1.0), 'config.score.ema_decay is 1.0; .* below 1'),
    (dict(optimizer={}), 'config.score.optimizer: .*learning_rate'),
    (dict(optimizer=3), 'config.score.optimizer is 3, not a dict'),
  ],
)
def test_make_training_refuses(changes, message):
  with pytest.raises(UserError, match=message):
    make_training(Section(TRAINING | changes, 'score'), Sum(), jax.random.key(0))


def test_own_section():
  c = Section({'method': 'mld', 'score': {'a': 1}, 'unimodal': {}})
  assert own_section(c, 'score')['a'] == 1
  for name in ('unimodal', 'joint'):
    with pytest.raises(UserError, match=f"'mld' needs a section config.{name}.*d=mld"):
      own_section(c, name)


def test_samplings():
  c = Section(
    {'samplings': {'b': {'x': 1}, 'default': {'x': 2}, 'a': {'x': 3}, 'c': {}}}
  )
  assert [(name, spec['x']) for name, spec in samplings(c).items()] == [
    ('default', 2), ('b', 1), ('a', 3),
  ]  # fmt: skip
  assert samplings(c)['b'].path == 'samplings.b'


# --- steps --------------------------------------------------------------------


def stage(name='one', learners=None, **fields):
  learners = learners or [Sum(name)]
  section = Section(TRAINING, name)
  return Stage(
    name=name,
    trainings=tuple(make_training(section, x, jax.random.key(0)) for x in learners),
    example={'x': np.zeros((1, 3), np.float32)},
    **dict(source=lambda inputs: {}) | fields,
  )


def test_stage_collects_by_the_last_part_of_names():
  assert stage('one').collect({'one': 1}) == 1
  many = stage('one', [Sum('one/a'), Sum('one/b/c')])
  assert many.collect({'one/a': 1, 'one/b/c': 2}) == {'a': 1, 'b/c': 2}
  # One learner with a name of its own is no whole stage.
  assert stage('one', [Sum('one/a')]).collect({'one/a': 1}) == {'a': 1}


@dataclasses.dataclass(frozen=True)
class Nothing:
  """A model that records with what it is called."""

  modalities: tuple
  seen: list
  error: str = ''

  samplings = {'default': None, 'other': None}

  def describe(self, sampling):
    return {}

  def uses(self, sampling):
    return frozenset({'one'} if sampling == 'default' else {'two'})

  def encode(self, variables, x):
    self.seen.append(('encode', jax.tree.map(jnp.shape, variables), x))
    return x[0]

  def sample(self, variables, keys, encoded, observed, sampling):
    self.seen.append((sampling, keys, observed))
    if self.error == sampling:
      raise UserError('cannot do it.')
    return (encoded,)


def derived(**fields):
  return Derived(
    **dict(name='two', compute=None, needs=('one',), example={'m': np.zeros(5)})
    | fields
  )


@pytest.fixture
def modality():
  from mmsbm.modalities import Modality, Vector

  return Modality(
    name='v', kind_name='vector', kind=Vector(shape=(3,), offset=0.0, scale=1.0)
  )


def test_dry_run_goes_through_all_steps_and_samplings(modality):
  seen, checked = [], []
  first = stage('one', [Sum('one/a'), Sum('one/b')], check=lambda: checked.append(1))
  second = derived(check=lambda: checked.append(2))
  third = stage(
    'three',
    needs=('one', 'two'),
    frozen=lambda inputs: {'shift': inputs['one']['a']['params']['w'].sum()
                           + inputs['two']['m'].sum()},
  )  # fmt: skip
  parameters = dry_run((first, second, third), Nothing((modality,), seen))
  assert parameters == {'one/a': 3, 'one/b': 3, 'three': 3}
  assert all(type(number) is int for number in parameters.values())
  assert checked == [1, 2]
  name, shapes, (x,) = seen[0]
  assert name == 'encode' and x.shape == (2, 3)
  w = {'params': {'w': (3,)}}
  assert shapes == {'one': {'a': w, 'b': w}, 'two': {'m': (5,)}, 'three': w}
  assert [call[0] for call in seen[1:]] == ['default', 'other']
  for _, keys, observed in seen[1:]:
    assert isinstance(keys, SampleKeys)
    assert keys.latents.shape == keys.outputs.shape == (2,)
    assert (observed.shape, observed.dtype) == ((2, 1), bool)


def test_dry_run_says_whose_mistake_it_is(modality):
  class Torn(Sum):
    def loss(self, *args, **kwargs):
      raise UserError('the network is torn.')

  with pytest.raises(UserError, match="^learner 'one/b': the network is torn.$"):
    dry_run(
      (stage('one', [Sum('one/a'), Torn('one/b')]), derived()), Nothing((modality,), [])
    )
  model = Nothing((modality,), [], error='other')
  with pytest.raises(UserError, match="^sampling 'other': cannot do it.$"):
    dry_run((stage(), derived()), model)


def test_dry_run_refuses_a_sampling_of_steps_that_are_not_there(modality):
  with pytest.raises(
    UserError, match=r"samplings.other needs the step 'two', .*\['one"
  ):
    dry_run((stage(),), Nothing((modality,), []))
