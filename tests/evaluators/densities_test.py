"""Rows of densities that are known."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.infra.errors import UserError
from mmsbm.infra.rng import fold_in_name
from mmsbm.models.base import Density, DensityEntry

NUM = 40


def entry(metric, target, given, dimensions, of_data=True):
  return DensityEntry(
    metric=metric, target=target, given=given, dimensions=dimensions, note='known',
    of_data=of_data,
  )  # fmt: skip


class Known:
  """The density of an example is its class, of a conditional half of it."""

  latents_are_shared = False

  def __init__(self, fakes, problem, factor=1.0):
    self._model = fakes.ClassModel('first', problem.modalities)
    self.factor = factor

  def __getattr__(self, name):
    return getattr(self._model, name)

  def densities(self, options):
    def latent(per_row, encoded, raw):
      assert len(encoded) == len(raw[0])
      fn = lambda variables, keys, z: self.factor * z[:, 0]  # noqa: E731
      nats = per_row(fn, 'latent likelihood', encoded)
      return np.stack([nats, nats / 2]), np.full((2, len(nats)), 0.3)

    def joint(per_row, encoded, raw):
      draws = options.num_importance_samples
      fn = lambda variables, keys, x: x[:, 0, 0, 0] * jnp.float32(draws)  # noqa: E731
      return per_row(fn, 'joint likelihood', raw[0])[None], None

    return (
      Density(
        name='latent_likelihood',
        entries=(
          entry('latent_log_likelihood', 'all', (), 3, of_data=False),
          entry('latent_log_likelihood', 'b', ('a',), 1, of_data=False),
        ),
        options=('num_steps', 'num_probes'),
        uses=frozenset(('unimodal', 'score')),
        compute=latent,
      ),
      Density(
        name='joint_likelihood',
        entries=(entry('joint_log_likelihood_bound', 'all', None, 12),),
        options=('num_importance_samples',),
        uses=frozenset(('joint',)),
        compute=joint,
      ),
    )


def measure(fakes, workdir, problem=None, factor=1.0, identity=None, **options):
  problem = problem or fakes.digits_problem(NUM)
  spec = dict(num_examples=20, num_importance_samples=3, num_probes=2) | options
  plan = fakes.make_plan(problem, evaluators={'likelihood': spec})
  inference = fakes.FakeInference(Known(fakes, problem, factor), chunk_size=7)
  return fakes.run(workdir, plan, inference, identity)


def chosen(problem, num=20):
  """Classes of the examples that are measured."""
  order = np.random.default_rng(4).permutation(NUM)
  return problem.dataset.splits['test'].annotations['class'][np.sort(order[:num])]


def test_rows_are_means_with_all_that_they_depend_on(fakes, tmp_path):
  rows = measure(fakes, tmp_path)
  said = [(r['metric'], r['target'], r.get('given')) for r in rows]
  assert said == [
    ('latent_log_likelihood', 'all', []),
    ('latent_log_likelihood', 'b', ['a']),
    ('joint_log_likelihood_bound', 'all', None),
  ]
  label = chosen(fakes.digits_problem(NUM))
  for r, factor in zip(rows, (1, 0.5, 3), strict=True):
    assert r['n'] == 20 and r['unit'] == 'nats' and r['note'] == 'known'
    np.testing.assert_allclose(r['value'], factor * label.mean())
    np.testing.assert_allclose(r['stderr'], factor * label.std(ddof=1) / 20**0.5)
  for r in rows[:2]:
    assert r['num_steps'] == 25 and r['num_probes'] == 2
    assert 'num_importance_samples' not in r
    np.testing.assert_allclose(r['probe_stderr'], 0.3 / 20**0.5)
    assert r['per_dimension'] == r['value'] / r['dimensions']
  assert rows[1]['num_given'] == 1
  assert rows[2]['num_importance_samples'] == 3 and 'num_steps' not in rows[2]
  bits = -rows[2]['value'] / math.log(2) / 12
  np.testing.assert_allclose(rows[2]['bits_per_dimension'], bits)


def test_none_by_default_and_of_all_examples_at_most(fakes, tmp_path):
  assert measure(fakes, tmp_path, num_examples=0) == []
  assert {r['n'] for r in measure(fakes, tmp_path, num_examples=99)} == {NUM}


def test_examples_count_where_they_have_what_it_is_about(fakes, tmp_path):
  present = np.ones((NUM, 3), bool)
  present[:5, 0] = present[-8:, 1] = present[10:12, 2] = False
  problem = fakes.digits_problem(NUM, present)
  rows = measure(fakes, tmp_path, problem, num_examples=99)
  # The second one is about a and b alone.
  assert [r['n'] for r in rows] == [NUM - 15, NUM - 13, NUM - 15]
  label = problem.dataset.splits['test'].annotations['class']
  np.testing.assert_allclose(rows[0]['value'], label[present.all(1)].mean())
  np.testing.assert_allclose(rows[1]['value'], label[5:-8].mean() / 2)
  alone = fakes.digits_problem(NUM, np.eye(3, dtype=bool)[np.arange(NUM) % 3])
  rows = measure(fakes, tmp_path / 'alone', alone, num_examples=99)
  assert all(r['value'] is None and r['n'] == 0 for r in rows)
  assert all('no example has the modalities' in r['note'] for r in rows)


def test_options_concern_what_uses_them(fakes, tmp_path):
  def made(**options):
    folder = tmp_path / 'evaluation'
    before = set(folder.glob('*-*.json'))
    measure(fakes, tmp_path, **options)
    return {p.name.rpartition('-')[0] for p in set(folder.glob('*-*.json')) - before}

  both = {'latent_likelihood', 'joint_likelihood'}
  assert made() == both and made() == set()
  assert made(num_importance_samples=2) == {'joint_likelihood'}
  assert made(num_steps=5) == {'latent_likelihood'}
  assert made(time_min=1e-3) == set()
  assert made(num_examples=9) == both
  assert made(identity={'score': 'y@20'}) == {'latent_likelihood'}


def test_infinite_densities_end_the_run_with_one_line(fakes, tmp_path):
  with pytest.raises(UserError, match='latent_log_likelihood is not finite: set a lar'):
    measure(fakes, tmp_path, factor=float('inf'))


def test_keys_of_rows_are_those_of_the_name(fakes, tmp_path, monkeypatch):
  seen = []
  original = fakes.FakeInference.per_row

  def spy(self, fn, key, *trees, name):
    seen.append((name, key))
    return original(self, fn, key, *trees, name=name)

  monkeypatch.setattr(fakes.FakeInference, 'per_row', spy)
  measure(fakes, tmp_path)
  import jax

  key = fold_in_name(jax.random.key(4), 'evaluate')
  for name, used in seen:
    short = name.removeprefix('evaluate ')
    assert used == fold_in_name(key, short)


def test_options_of_the_evaluator_are_those_of_densities():
  from mmsbm.evaluators.likelihood import Likelihood
  from mmsbm.models.base import DensityOptions

  options = dict(num_importance_samples=9, num_steps=8, num_probes=2, time_min=0.1)
  assert Likelihood(**options).options == DensityOptions(**options)
  names = {f.name for f in dataclasses.fields(Likelihood)}
  assert names - {'num_examples'} == set(options)
