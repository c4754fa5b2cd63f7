"""Every kind of modality against the true example, without a classifier."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.infra.errors import UserError

NUM = 200


@dataclasses.dataclass(frozen=True, eq=False)
class Copies:
  """Gives of every modality what the example has, changed by a rule of its own.

  One attribute is always off, a label is wrong by one where it is even, and a vector
  is half of what it should be.
  """

  modalities: tuple
  samplings = {'default': None}

  def num_evaluations(self, sampling, num_given):
    return 1

  def describe(self, sampling):
    return {'sampler': 'copy()', 'conditioning': '', 'guidance': ''}

  def uses(self, sampling, decodes=True):
    return frozenset(('unimodal',))

  def encode(self, variables, x):
    return tuple(x)

  def sample(self, variables, keys, encoded, observed, sampling):
    attributes, label, vector = encoded
    attributes = attributes.at[:, 0].set(0)
    wrong = (label + 1) % 4
    label = jnp.where(label % 2 == 0, wrong, label)
    kinds = [m.kind for m in self.modalities]
    x = attributes.astype(jnp.float32), label.astype(jnp.float32), vector / 2
    return tuple(k.to_model(a) for k, a in zip(kinds, x, strict=True))


@pytest.fixture(scope='module')
def problem(fakes):
  rng = np.random.default_rng(0)
  arrays = {
    'tags': (rng.random((NUM, 4)) < 0.6).astype(np.uint8),
    'number': rng.integers(0, 4, NUM).astype(np.int32),
    'profile': rng.normal(size=(NUM, 2)).astype(np.float32) * [1.0, 3.0] + [5.0, 0.0],
  }
  arrays['profile'] = arrays['profile'].astype(np.float32)
  split = fakes.Split(arrays, np.ones((NUM, 3), bool), {})
  modalities = [
    fakes.modality('tags', 'attributes'),
    fakes.modality('number', 'label'),
    fakes.modality('profile', 'vector'),
  ]
  return fakes.make_problem(
    dict.fromkeys(('train', 'val', 'test'), split), modalities, {}
  )


@pytest.fixture(scope='module')
def rows(fakes, problem, tmp_path_factory):
  """Rows without readers and labels; the method does not reconstruct."""
  inference = fakes.FakeInference(Copies(problem.modalities))
  plan = fakes.make_plan(problem, readers=())
  return fakes.run(tmp_path_factory.mktemp('kinds'), plan, inference)


def one(rows, metric, **fields):
  (row,) = [
    r for r in rows
    if r['metric'] == metric and all(r.get(k) == v for k, v in fields.items())
  ]  # fmt: skip
  return row


def test_each_kind_has_its_metrics(rows):
  single = {(r['metric'], r['target']) for r in rows if r['target'] != 'mean'}
  assert single == {
    ('f1', 'tags'), ('f1_by_entry', 'tags'), ('accuracy', 'number'),
    ('r2', 'profile'), ('mse', 'profile'),
  }  # fmt: skip
  # Given each of the other two, both, their mean, and by adding one after the other.
  for metric, target in single:
    given = [
      r['given'] for r in rows if r['metric'] == metric and r['target'] == target
    ]
    assert len(given) == 3 + 2 * (target == 'profile')
    for number in (1, 2):
      assert one(rows, metric, target='mean', given='mean', num_given=number)


def test_values_are_those_of_the_rules(rows, problem):
  arrays = problem.dataset.splits['test'].arrays
  tags, number, y = arrays['tags'], arrays['number'], arrays['profile']
  both = tags[:, 1:].sum(1)
  f1 = 2 * both / np.maximum(tags.sum(1) + both, 1)
  row = one(rows, 'f1', target='tags', given=['number'])
  np.testing.assert_allclose(row['value'], f1.mean())
  np.testing.assert_allclose(row['stderr'], f1.std(ddof=1) / NUM**0.5)
  assert one(rows, 'f1_by_entry', target='tags', given=['number'])['value'] == 0.75
  row = one(rows, 'accuracy', target='number', given=['tags', 'profile'])
  np.testing.assert_allclose(row['value'], (number % 2).mean())
  # 1 - |y / 2|^2 / |y - mean|^2
  expected = 1 - np.square(y / 2).sum() / np.square(y - y.mean(0)).sum()
  row = one(rows, 'r2', target='profile', given=['tags'])
  np.testing.assert_allclose(row['value'], expected, rtol=1e-5)
  # The networks see vectors divided by 2.
  error = np.square(y / 2 / 2).mean(1)
  row = one(rows, 'mse', target='profile', given=['tags'])
  np.testing.assert_allclose(row['value'], error.mean(), rtol=1e-5)


def test_repetition_makes_no_average_more_certain(rows):
  """Whatever is given the same is generated: the mean is known as well as one."""
  for metric in ('f1', 'f1_by_entry', 'accuracy', 'r2', 'mse'):
    target = {'f1': 'tags', 'f1_by_entry': 'tags', 'accuracy': 'number'}.get(
      metric, 'profile'
    )
    single = [
      r for r in rows
      if r['metric'] == metric and r['target'] == target and r['num_given'] == 1
      and isinstance(r['given'], list)
    ]  # fmt: skip
    whole = one(rows, metric, given='mean', num_given=1)
    assert len(single) == 2
    np.testing.assert_allclose(whole['value'], single[0]['value'])
    # Where every influence is 0 there is no error.
    error = single[0]['stderr']
    assert whole['stderr'] == (error and pytest.approx(error))


def test_what_is_not_measured_is_said(fakes, problem, tmp_path, capsys):
  inference = fakes.FakeInference(Copies(problem.modalities))
  probe = fakes.EVALUATORS | {
    'linear_probe': {'num_train': 5},
    'likelihood': {'num_examples': 5},
  }
  fakes.run(tmp_path, fakes.make_plan(problem, (), evaluators=probe), inference)
  said = capsys.readouterr().err
  assert 'does not reconstruct' in said and 'no latents' in said
  assert 'no densities' in said


# --- metrics of the user's own --------------------------------------------------------


class Nearness:
  """Whether a vector is nearer than `radius`; a metric from outside of the package."""

  name, better = 'nearness', 'high'
  about = 'The share of vectors near the true one.'

  def __init__(self, radius: float):
    self.radius = radius

  def __call__(self, target):
    if target.modality.kind_name != 'vector':
      return None
    distance = np.linalg.norm(target.generated - target.real, axis=1)
    return distance < self.radius


class Broken(Nearness):
  def __call__(self, target):
    return np.zeros(3)


@pytest.fixture
def outside(monkeypatch):
  """This module, as one that can be imported by name."""
  import sys
  import types

  module = types.ModuleType('outside_metrics')
  module.Nearness, module.Broken = Nearness, Broken
  monkeypatch.setitem(sys.modules, 'outside_metrics', module)


@pytest.mark.usefixtures('outside')
def test_metric_from_outside_is_measured_like_the_others(fakes, problem, tmp_path):
  metrics = {
    'nearest': {'name': 'outside_metrics:Nearness', 'radius': 2.5},
    'near': {'name': 'outside_metrics:Nearness', 'radius': 3.5},
  }
  plan = fakes.make_plan(problem, (), metrics=metrics)
  inference = fakes.FakeInference(Copies(problem.modalities))
  rows = fakes.run(tmp_path, plan, inference)
  y = problem.dataset.splits['test'].arrays['profile']
  for name, radius in (('nearest', 2.5), ('near', 3.5)):
    hit = np.linalg.norm(y / 2, axis=1) < radius
    row = one(rows, name, given='mean', num_given=1)
    assert 0 < hit.mean() < 1
    np.testing.assert_allclose(row['value'], hit.mean())
    single = one(rows, name, given=['tags'], target='profile')
    np.testing.assert_allclose(
      single['stderr'], np.sqrt(hit.mean() * (1 - hit.mean()) / (NUM - 1))
    )


@pytest.mark.usefixtures('outside')
def test_mistakes_of_a_metric_from_outside(fakes, problem, tmp_path):
  for spec, message in (
    ({'name': 'outside_metrics:Nearnes'}, "near: 'outside_metrics:Nearnes' cannot be"),
    ({'name': 'outside_metrics:Nearness'}, "needs the argument 'radius'"),
    ({'name': 'fractions:Fraction'}, "config.evaluate.metrics.near: 'fractions:F.* no"),
  ):
    with pytest.raises(UserError, match=message):
      fakes.make_plan(problem, (), metrics={'near': spec})
  spec = {'name': 'outside_metrics:Broken', 'radius': 1.0}
  plan = fakes.make_plan(problem, (), metrics={'near': spec})
  inference = fakes.FakeInference(Copies(problem.modalities))
  with pytest.raises(UserError, match=r"'near' gave values of shape \(3,\) for 200"):
    fakes.run(tmp_path, plan, inference)
