"""Readers: from a config, and in rows."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.config import Section
from mmsbm.evaluators import READERS_STEP, make_readers, reader_stage
from mmsbm.evaluators import inception as inception_lib
from mmsbm.infra.errors import UserError
from mmsbm.metrics.base import Reading
from mmsbm.modalities import Image, Modality

TRAINING = dict(
  num_steps=3,
  batch_size=4,
  ema_decay=0.9,
  optimizer=dict(learning_rate=1e-3),
)
DIGIT = dict(
  name='classifier',
  annotation='class',
  modalities=('a', 'b'),
  network=dict(name='patch', patch=1, width=4, num_layers=1, feature_dim=3),
  **TRAINING,
)


def readers_of(problem, **specs):
  return make_readers(Section(specs, 'readers'), problem)


def test_classifier_reads_classes_and_features(fakes):
  problem = fakes.digits_problem(9)
  (reader,) = readers_of(problem, digit=DIGIT)
  assert reader.modalities == ('a', 'b') and reader.annotation == 'class'
  learner = reader.learner
  assert learner.name == 'classifier/digit' and learner.indices == (0, 1)
  x = problem.dataset.splits['test'].arrays['a']
  network = learner.network
  variables = network.init(
    jax.random.key(0), learner.modalities[0].kind.to_model(x), False
  )
  reading = jax.jit(lambda v, x: dataclasses.astuple(reader(v, 'b', x))[:2])(
    variables, x
  )
  logits, features = network.apply(variables, x / np.float32(255.0), False)
  np.testing.assert_array_equal(reading[0], logits.argmax(-1))
  np.testing.assert_allclose(reading[1], features, rtol=1e-4)
  assert logits.shape == (9, fakes.CLASSES) and features.shape == (9, 3)


def test_no_readers():
  assert readers_of(None) == () and readers_of(None, digit={}) == ()
  assert reader_stage((), Section({}, 'readers'), None) is None


def test_stage_trains_all_readers_that_learn(fakes):
  problem = fakes.digits_problem(9)
  part = problem.dataset.splits['train']
  problem.blank = {'x': {}, 'present': np.ones((1, 3), bool), 'annotations': {}}
  labels = part.annotations['class']
  problem.examples = lambda: {
    'x': dict(part.arrays),
    'present': part.present,
    'annotations': {'class': labels, 'matrix': np.zeros((9, 2))},
  }
  specs = dict(digit=DIGIT, other=DIGIT | dict(modalities=('c',), num_steps=5))
  section = Section(specs, 'readers')
  stage = reader_stage(make_readers(section, problem), section, problem)
  assert stage.name == READERS_STEP == 'classifier'
  assert [t.name for t in stage.trainings] == ['classifier/digit', 'classifier/other']
  assert [t.num_steps for t in stage.trainings] == [3, 5]
  assert stage.example['annotations']['class'].shape == (1,)
  # What no reader learns is not copied to the devices.
  assert list(stage.source({})['annotations']) == ['class']


@pytest.mark.parametrize(
  'change, message',
  [
    (
      dict(annotation='clas'),
      "no annotation 'clas' of classes.*remove config.readers.digit.*Did you mean",
    ),
    (dict(modalities=()), "'digit' needs `modalities`: a list of some of"),
    (dict(modalities='a'), "modalities is 'a'; it must be a tuple"),
    (dict(modalities=('a', 'd')), "cannot read 'd', which is no modality"),
    (dict(modalities=('a', 'a')), "'digit' has a modality twice"),
    (dict(modalities=('a', 'tags')), "read by 'digit' must have one shape"),
    (dict(netwrk={}), "no argument 'netwrk'.*Did you mean 'network'"),
    (
      dict(name='clasifier'),
      "unknown component 'clasifier'.*Did you mean 'classifier'",
    ),
    (dict(network=dict(name='patch', widht=2)), "'patch' has no argument 'widht'"),
    (dict(annotation='alone'), "'alone' has 1 class, so there is nothing to tell"),
  ],
)
def test_mistakes_in_one_line(fakes, change, message):
  problem = fakes.digits_problem(9)
  problem.num_classes = {'class': 10, 'alone': 1}
  problem.modalities += (fakes.modality('tags', 'attributes'),)
  with pytest.raises(UserError, match=message) as caught:
    readers_of(problem, digit=DIGIT | change)
  assert '\n' not in str(caught.value)


def test_data_without_labels_train_no_classifier(fakes):
  problem = fakes.digits_problem(9)
  problem.num_classes = {}
  with pytest.raises(UserError, match=r"no annotation 'class'.*so no classifier can be "
                     r'trained on it: remove config.readers.digit'):  # fmt: skip
    readers_of(problem, digit=DIGIT)


def test_inception_needs_its_weights_and_pictures(fakes, tmp_path):
  problem = fakes.digits_problem(9)

  def modality(name):
    return Modality(name=name, kind_name='image', kind=Image(shape=(2, 2, 1)))

  pictures = tuple(modality(name) for name in 'abc')
  problem.modalities = (*pictures, fakes.modality('tags', 'attributes'))
  spec = dict(name='inception', weights=str(tmp_path / 'w.npz'))
  with pytest.raises(UserError, match=r'config.readers.fid.weights: there is no file'):
    readers_of(problem, fid=spec)
  assert readers_of(problem, fid=spec | dict(weights='')) == ()
  (tmp_path / 'w.npz').touch()
  (reader,) = readers_of(problem, fid=spec)
  assert reader.modalities == ('a', 'b', 'c') and reader.learner is None
  with pytest.raises(UserError, match='reads 8-bit pictures'):
    readers_of(problem, fid=spec | dict(modalities=('tags',)))


# --- in rows --------------------------------------------------------------------------


def test_second_reader_has_metrics_of_its_own(fakes, tmp_path):
  """The second one is wrong by one class, always."""
  second = fakes.ReadClass(name='second', modalities=('a', 'b'), error=1)
  metrics = {
    'coherence': {},
    'coherence_second': {'name': 'coherence', 'reader': 'second'},
    'joint_coherence': {},
    'frechet': {},
  }
  rows = fakes.measure(
    tmp_path, 'perfect', fakes.digits_problem(90),
    readers=(fakes.ReadClass(), second), metrics=metrics,
  )  # fmt: skip
  values = fakes.values
  assert set(values(rows, 'coherence')) == {1.0}
  assert set(values(rows, 'coherence_second')) == {0.0}
  targets = {r['target'] for r in rows if r['metric'] == 'coherence_second'}
  assert targets == {'a', 'b', 'mean'}
  assert set(values(rows, 'reconstruction_coherence_second')) == {0.0}
  # Agreement of what the first reader sees.
  assert set(values(rows, 'joint_coherence')) == {1.0}
  found = {(r['features'], r['target']) for r in rows if r['metric'] == 'frechet'}
  assert found == {('digit', t) for t in 'abc'} | {('second', t) for t in 'ab'} | {
    ('digit', 'mean'), ('second', 'mean')
  }  # fmt: skip
  accuracy = [
    (r['value'], r['target'], r.get('features'))
    for r in rows
    if r['metric'] == 'classifier_accuracy'
  ]
  assert accuracy == [
    (1.0, 'a', None), (1.0, 'b', None), (1.0, 'c', None), (1.0, 'mean', None),
    (0.0, 'a', 'second'), (0.0, 'b', 'second'), (0.0, 'mean', 'second'),
  ]  # fmt: skip


def test_modalities_of_several_readers_are_one_mean(fakes, tmp_path):
  readers = (
    fakes.ReadClass(name='one', modalities=('a',)),
    fakes.ReadClass(name='two', modalities=('b', 'c'), error=1),
  )
  rows = fakes.measure(tmp_path, 'perfect', fakes.digits_problem(90), readers)
  (mean,) = fakes.values(rows, 'classifier_accuracy', target='mean')
  np.testing.assert_allclose(mean, 1 / 3)
  # Of the classes that they see a has one, b and c another one.
  assert set(fakes.values(rows, 'joint_coherence', at_least=3)) == {0.0}
  assert set(fakes.values(rows, 'joint_coherence', at_least=2)) == {1.0}
  assert set(fakes.values(rows, 'joint_coherence_with_first', at_least=2)) == {0.0}


@dataclasses.dataclass(frozen=True)
class FromFile:
  """A reader of arrays, from outside; it counts how much it is asked."""

  name: str
  modalities: tuple = ('a',)
  compiled: bool = False
  annotation: str = ''
  learner: Any = None

  calls = []

  def load(self):
    return 2.0

  def __call__(self, variables, modality, x):
    assert isinstance(x, np.ndarray)
    self.calls.append(modality)
    return Reading(None, x.reshape(len(x), -1)[:, :2] * variables)


def test_costly_reader_reads_only_what_is_compared(fakes, tmp_path):
  FromFile.calls.clear()
  metrics = {'coherence': {}, 'mse': {}}
  readers = (fakes.ReadClass(), FromFile('file'))
  problem = fakes.digits_problem(60)
  fakes.measure(tmp_path / 'none', 'perfect', problem, readers, metrics=metrics)
  assert FromFile.calls == []
  rows = fakes.measure(
    tmp_path / 'some', 'perfect', problem, readers, metrics={'frechet': {}}
  )
  # Real examples and reconstructions once; generated ones once for each sampling and
  # number given.
  assert FromFile.calls == ['a'] * (2 + 5)
  frechet = [r for r in rows if r['metric'] == 'frechet' and r['features'] == 'file']
  assert len([r for r in frechet if r['target'] == 'a']) == 5


def test_reader_from_outside_by_name(fakes, monkeypatch):
  import sys
  import types

  module = types.ModuleType('outside_readers')
  module.FromFile = FromFile
  monkeypatch.setitem(sys.modules, 'outside_readers', module)
  problem = fakes.digits_problem(9)
  spec = dict(name='outside_readers:FromFile', modalities=('b',))
  (reader,) = readers_of(problem, mine=spec)
  assert reader.name == 'mine' and reader.modalities == ('b',)
  with pytest.raises(UserError, match="cannot read 'x'"):
    readers_of(problem, mine=spec | dict(modalities=('x',)))


def test_inception_features_are_those_of_the_generated_pictures(
  fakes, tmp_path, monkeypatch
):
  (tmp_path / 'w.npz').touch()
  problem = fakes.digits_problem(40)
  spec = dict(name='inception', weights=str(tmp_path / 'w.npz'), modalities=('b',))
  (reader,) = readers_of(problem, inception=spec)

  def pretend(variables, x):
    return variables + x.astype(jnp.float32).mean(axis=(1, 2))

  monkeypatch.setattr(inception_lib, '_features', jax.jit(pretend))
  monkeypatch.setattr(inception_lib.inception, 'NUM_FEATURES', 1)
  monkeypatch.setattr('mmsbm.evaluators.readers.load_inception', lambda path: 1.0)
  rows = fakes.measure(tmp_path, 'perfect', problem, (reader,))
  frechet = [r for r in rows if r['metric'] == 'frechet']
  assert {(r['features'], r['target']) for r in frechet} == {
    ('inception', 'b'), ('inception', 'mean')
  }  # fmt: skip
  assert not any(r['metric'] in ('coherence', 'classifier_accuracy') for r in rows)


def test_random_conv_reads_pictures_and_needs_no_labels(fakes, tmp_path):
  problem = fakes.digits_problem(60)
  spec = dict(name='random_conv', seed=1)
  (reader,) = readers_of(problem, conv=spec)
  assert reader.modalities == fakes.NAMES and reader.learner is None
  (other,) = readers_of(problem, conv=spec | dict(seed=2, modalities=('b',)))
  x = problem.dataset.splits['test'].arrays['b']
  features = [r(r.load(), 'b', x).features for r in (reader, other)]
  assert features[0].shape == (60, 64) and not np.allclose(*features)
  plan = fakes.make_plan(problem, (reader,), evaluators={'unconditional': {}})
  inference = fakes.FakeInference(fakes.ClassModel('perfect', problem.modalities))
  rows = fakes.run(tmp_path, plan, inference)
  assert {(r['metric'], r['features']) for r in rows} == {
    (metric, 'conv') for metric in ('frechet', 'precision', 'recall')
  }


def test_random_conv_of_what_is_no_picture(fakes):
  vector = fakes.make_problem({}, [fakes.modality('v', 'vector')], {})
  assert readers_of(vector, conv=dict(name='random_conv')) == ()
  with pytest.raises(UserError, match="modality 'v' is none"):
    readers_of(vector, conv=dict(name='random_conv', modalities=('v',)))


def test_classifier_without_features_is_asked_for_classes_only(fakes, tmp_path):
  problem = fakes.digits_problem(60)
  (reader,) = readers_of(problem, digit=DIGIT | dict(has_features=False))
  x = problem.dataset.splits['test'].arrays['a']
  network, kind = reader.learner.network, problem.modalities[0].kind
  variables = network.init(jax.random.key(0), kind.to_model(x), False)
  reading = reader(variables, 'a', x)
  assert reading.features is None and reading.prediction.shape == (60,)
