"""Real examples in the place of samples, and several samples for one example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.infra.errors import UserError

METRICS = dict.fromkeys(
  ('joint_coherence', 'frechet', 'recall', 'variance_ratio', 'class_balance_kl',
   'brier', 'log_score', 'target_agreement', 'target_agreement_apart',
   'coherence', 'coherence_second', 'joint_coherence_second'), {},
)  # fmt: skip
DRAWS = {'draws': {'num_draws': 5, 'num_examples': 400}}
REAL = {'real_data': {'num_draws': 5}, 'readers': {}}


def row_of(rows, metric, **fields):
  (row,) = [
    r for r in rows
    if r['metric'] == metric and all(r.get(k) == v for k, v in fields.items())
  ]  # fmt: skip
  return row


def mean(rows, metric, count):
  row = row_of(rows, metric, target='mean', given='mean', num_given=count)
  assert row['sampling'] == 'default' and row['num_draws'] == 5 and row['nfe'] == 5
  return row


def test_draws_of_models_whose_probabilities_are_known(fakes, tmp_path):
  spec = dict(evaluators=DRAWS, metrics=METRICS)
  perfect = fakes.measure(tmp_path / 'p', 'perfect', **spec)
  chance = fakes.measure(tmp_path / 'i', 'independent', **spec)
  for count in (1, 2):
    assert mean(perfect, 'brier', count)['value'] == 0
    log = mean(perfect, 'log_score', count)
    assert log['value'] == pytest.approx(np.log(6 / 5.5)) and log['n'] == 400
    # 0.9^2 + 9 * 0.1^2.
    row = mean(chance, 'brier', count)
    assert row['value'] == pytest.approx(0.9, abs=4.5 * row['stderr'])
    assert 0 < row['stderr'] < 0.02
  row = mean(perfect, 'target_agreement', 1)
  assert row['value'] == 1 and 0 < row['stderr'] < 1 / 400
  for metric in ('target_agreement', 'target_agreement_apart'):
    row = mean(chance, metric, 1)
    assert row['value'] == pytest.approx(0.1, abs=4.5 * row['stderr'])
    # Given all but one there is no pair.
    assert not fakes.values(chance, metric, num_given=2)
  # Of each set of given modalities, and of other ways of sampling none.
  assert len(fakes.values(chance, 'brier', target='a', given=['b'])) == 1
  assert {r['sampling'] for r in chance} == {'default'}


def test_agreement_about_what_is_not_observed(fakes, tmp_path):
  """Hidden modalities show one class, whichever is given: they say nothing of it."""

  class Agreeing(fakes.ClassModel):
    def sample(self, variables, keys, z, observed, sampling):
      drawn = jax.vmap(lambda key: jax.random.randint(key, (1,), 0, 10))(keys)
      z = jnp.where(observed, z, drawn.astype(jnp.float32))
      return self.decode(variables, keys, z)

  problem = fakes.digits_problem()
  plan = fakes.make_plan(problem, evaluators=DRAWS, metrics=METRICS)
  inference = fakes.FakeInference(Agreeing('', problem.modalities))
  rows = fakes.run(tmp_path, plan, inference)
  assert mean(rows, 'target_agreement', 1)['value'] == 1
  for metric, value in (('target_agreement_apart', 0.1), ('brier', 0.9)):
    row = mean(rows, metric, 1)
    assert row['value'] == pytest.approx(value, abs=4.5 * row['stderr'])


def test_draws_without_anything_that_reads_a_class_are_not_made(fakes, tmp_path):
  problem = fakes.digits_problem(60)
  plan = fakes.make_plan(problem, (), evaluators=DRAWS, metrics=METRICS)
  inference = fakes.FakeInference(fakes.ClassModel('perfect', problem.modalities))
  assert fakes.run(tmp_path, plan, inference) == [] and not inference.drawn


def test_real_rows_are_those_of_a_perfect_model(fakes, tmp_path):
  readers = fakes.ReadClass(), fakes.ReadClass(name='second', error=1)
  rows = fakes.measure(
    tmp_path, 'perfect', readers=readers, evaluators=REAL, metrics=METRICS
  )
  # The three pictures of an example are equal, and so are others of its class.
  assert row_of(rows, 'real_joint_coherence', at_least=3)['value'] == 1
  assert row_of(rows, 'real_brier', target='mean')['value'] == 0
  log = row_of(rows, 'real_log_score', target='mean')
  assert log['value'] == pytest.approx(np.log(6 / 5.5)) and log['num_draws'] == 5
  assert row_of(rows, 'real_target_agreement_apart', target='mean')['value'] == 1
  # The training split has the test split's pictures.
  for features in ('digit', 'second'):
    fields = dict(target='mean', features=features)
    distance = row_of(rows, 'real_train_frechet', **fields)
    assert distance['value'] < 1e-9 and distance['n'] == 997
    assert row_of(rows, 'real_train_recall', **fields)['value'] == 1
    ratio = row_of(rows, 'real_train_variance_ratio', **fields)
    assert ratio['value'] == pytest.approx(1)
    half = row_of(rows, 'real_half_frechet', **fields)
    assert 0 < half['value'] < 1e-3 and half['n'] == 498
    ratio = row_of(rows, 'real_half_variance_ratio', **fields)
    assert ratio['value'] == pytest.approx(1, abs=5 * ratio['stderr'])
  # The first reader is right, the second never.
  accuracy = fakes.values(rows, 'classifier_accuracy', target='mean')
  assert accuracy == [1, 0]
  assert not [r for r in rows if 'sampling' in r]


def test_second_judge_is_asked_beside_the_first(fakes, tmp_path):
  readers = fakes.ReadClass(), fakes.ReadClass(name='second', error=1)
  kinds = dict(conditional={'num_given': (1,)}, unconditional={})
  rows = fakes.measure(
    tmp_path, 'perfect', readers=readers, evaluators=kinds, metrics=METRICS
  )
  for metric, value in (('coherence', 1), ('coherence_second', 0)):
    fields = dict(given='mean', num_given=1, target='mean')
    assert fakes.values(rows, metric, **fields) == [value]
  joint = fakes.values(rows, 'joint_coherence_second', at_least=3, sampling='default')
  assert joint == [1]
  alone = fakes.measure(tmp_path / 'b', 'perfect', evaluators=kinds, metrics=METRICS)
  assert not [r for r in alone if r['metric'].endswith('_second')]


def test_real_rows_of_examples_that_lack_modalities_and_labels(fakes, tmp_path):
  present = np.ones((90, 3), bool)
  present[:40, 0] = present[50:, 1] = False
  labels = np.where(np.arange(90) < 45, -1, np.arange(90) % 2).astype(np.int32)
  problem = fakes.digits_problem(90, present, labels)
  rows = fakes.measure(tmp_path, 'perfect', problem, evaluators=REAL, metrics=METRICS)
  sizes = {
    r['target']: r['n'] for r in rows if r['metric'] == 'real_train_frechet'
  }  # fmt: skip
  assert sizes == {'a': 50, 'b': 50, 'c': 90, 'mean': 90}
  # Of the ten complete examples five have a label: none has five others of its class.
  assert row_of(rows, 'real_joint_coherence', at_least=3)['n'] == 10
  assert not fakes.values(rows, 'real_brier')


def test_mistakes(fakes):
  model = fakes.ClassModel('perfect', ())
  for evaluators, message in (
    ({'draws': {'num_draws': 1}}, 'draws: num_draws is 1; it must be at least 2'),
    ({'draws': {'num_given': (3,)}}, 'draws: num_given: of 3 modalities'),
    ({'draws': {'num_examples': 0}}, 'num_examples is 0; it must be at least 1'),
    ({'real_data': {'num_draws': 1}}, 'real_data: num_draws is 1; it must be at least'),
  ):
    with pytest.raises(UserError, match=message):
      fakes.make_plan(fakes.digits_problem(20), evaluators=evaluators).check(model)
