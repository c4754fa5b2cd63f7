"""Examples that lack modalities or labels count for what they have."""

import dataclasses

import numpy as np
import pytest

from mmsbm.infra.errors import UserError

NUM = 120


@pytest.fixture
def holes():
  """b is missing from the first 30 examples, c from the last 20, a from 40 to 49."""
  present = np.ones((NUM, 3), bool)
  present[:30, 1] = present[-20:, 2] = present[40:50, 0] = False
  return present


def find(rows, metric, **fields):
  (row,) = [
    r for r in rows
    if r['metric'] == metric and all(r.get(k) == v for k, v in fields.items())
  ]  # fmt: skip
  return row


def test_counts_are_those_of_examples_with_given_and_target(fakes, holes, tmp_path):
  got = fakes.measure(tmp_path, 'first', fakes.digits_problem(NUM, holes))
  main = dict(sampling='default')
  for metric in ('coherence', 'mse'):
    assert find(got, metric, target='b', given=['a'], **main)['n'] == 80
    assert find(got, metric, target='c', given=['a', 'b'], **main)['n'] == 60
    assert find(got, metric, target='mean', given=['a'], **main)['n'] == 110
  assert find(got, 'coherence', target='b', given=['a'], **main)['value'] == 1.0
  # Everything that is right is counted once: a given, b and c; nothing else is sure.
  one = find(got, 'coherence', given='mean', num_given=1, **main)
  assert one['n'] == NUM and 'note' not in one
  total = 80 + 90 + 80 + 70 + 90 + 70
  singles = [
    r for r in got
    if r['metric'] == 'coherence' and r['num_given'] == 1 and r['sampling'] == 'default'
    and r['target'] != 'mean' and isinstance(r['given'], list)
  ]  # fmt: skip
  assert sum(r['n'] for r in singles) == total
  expected = sum(r['value'] * r['n'] for r in singles) / total
  np.testing.assert_allclose(one['value'], expected, rtol=1e-12)
  # Real examples that are absent are not compared with.
  assert find(got, 'frechet', target='b', num_given=0, **main)['n'] == 90
  assert find(got, 'joint_coherence', at_least=2, **main)['n'] == NUM
  assert find(got, 'reconstruction', target='c')['n'] == 100
  assert find(got, 'classifier_accuracy', target='a')['n'] == 110


def test_what_absent_examples_hold_is_of_no_influence(fakes, holes, tmp_path):
  problem = fakes.digits_problem(NUM, holes)
  part = problem.dataset.splits['test']
  filled = {name: array.copy() for name, array in part.arrays.items()}
  for i, array in enumerate(filled.values()):
    array[~holes[:, i]] = 7
  other = dataclasses.replace(part, arrays=filled)
  changed = fakes.make_problem(
    dict.fromkeys(('train', 'val', 'test'), other), problem.modalities
  )
  expected = fakes.measure(tmp_path / 'a', 'first', problem)
  assert fakes.measure(tmp_path / 'b', 'first', changed) == expected


def test_an_example_gets_the_same_noise_whichever_others_there_are(
  fakes, holes, tmp_path
):
  """So the values of those that are complete are the same in both."""
  inference = {}
  for name, present in (('holes', holes), ('whole', np.ones_like(holes))):
    problem = fakes.digits_problem(NUM, present)
    model = fakes.ClassModel('independent', problem.modalities)
    inference[name] = fakes.FakeInference(model)
    plan = fakes.make_plan(problem)
    from mmsbm.evaluators import Evaluation

    evaluation = Evaluation(
      plan, inference[name], {'digit': {}}, workdir='', identity={}
    )
    given = np.array([True, False, False])
    inference[name] = evaluation.generate(given, 'default')
  (some, x), (_, everything) = inference['holes'], inference['whole']
  np.testing.assert_array_equal(some, np.flatnonzero(holes[:, 0]))
  for part, whole in zip(x, everything, strict=True):
    np.testing.assert_array_equal(part[:, 0, 0], whole[some][:, 0, 0])


def test_an_average_says_what_it_is_without(fakes, tmp_path):
  """No example has b and c."""
  present = np.ones((NUM, 3), bool)
  present[::2, 1] = present[1::2, 2] = False
  got = fakes.measure(tmp_path, 'perfect', fakes.digits_problem(NUM, present))
  main = dict(sampling='default', given='mean', num_given=1)
  for metric in ('coherence', 'coherence_macro', 'mse'):
    row = find(got, metric, **main)
    assert row['note'] == (
      'without c given b (no example counts); b given c (no example counts)'
    )
  note = find(got, 'coherence', target='mean', given=['b'], sampling='default')['note']
  assert note == 'without c given b (no example counts)'
  # b and c are compared given a: nothing is missing there.
  assert 'note' not in find(got, 'recall', **main)
  # Given two modalities there is nothing left to measure.
  assert {r['num_given'] for r in got if r['metric'] == 'coherence'} == {1}


def test_distributions_of_few_examples_are_not_compared(fakes, tmp_path):
  present = np.ones((NUM, 3), bool)
  present[7:, 2] = False
  got = fakes.measure(tmp_path, 'perfect', fakes.digits_problem(NUM, present))
  frechet = [r for r in got if r['metric'] == 'frechet' and r['sampling'] == 'default']
  assert {r['target'] for r in frechet} == {'a', 'b', 'mean'}
  note = find(frechet, 'frechet', target='mean', num_given=0)['note']
  assert note == 'without c (fewer than 8 examples)'
  note = find(frechet, 'frechet', target='mean', num_given=1)['note']
  assert 'c given a (fewer than 8 examples)' in note


def test_examples_without_label_count_where_none_is_needed(fakes, tmp_path):
  problem = fakes.digits_problem(NUM)
  labels = problem.dataset.splits['test'].annotations['class'].copy()
  labels[::3] = -1
  problem = fakes.digits_problem(NUM, labels=labels)
  got = fakes.measure(tmp_path, 'perfect', problem)
  known = int((labels >= 0).sum())
  sizes = {}
  for r in got:
    sizes.setdefault(r['metric'], set()).add(r['n'])
  for metric in (
    'coherence',
    'coherence_macro',
    'reconstruction',
    'classifier_accuracy',
  ):
    assert sizes[metric] == {known}
    assert set(fakes.values(got, metric)) == {1.0}
  for metric in ('mse', 'frechet', 'joint_coherence', 'mean_agreement', 'recall'):
    assert sizes[metric] == {NUM}


def test_data_without_labels_have_all_other_rows(fakes, tmp_path):
  """A reader from a file needs no labels."""
  problem = fakes.digits_problem(NUM)
  part = dataclasses.replace(problem.dataset.splits['test'], annotations={})
  problem = fakes.make_problem(
    dict.fromkeys(('train', 'val', 'test'), part), problem.modalities, {}
  )
  got = fakes.measure(tmp_path / 'read', 'perfect', problem)
  compared = {
    'mse', 'frechet', 'precision', 'recall', 'joint_coherence',
    'joint_coherence_with_first', 'mean_agreement',
  }  # fmt: skip
  reconstructed = {f'reconstruction_{name}' for name in compared}
  assert {r['metric'] for r in got} == compared | reconstructed
  got = fakes.measure(tmp_path / 'none', 'perfect', problem, readers=())
  assert {r['metric'] for r in got} == {'reconstruction_mse', 'mse'}


def test_nothing_to_measure_is_said_before_training(fakes):
  model = fakes.ClassModel('perfect', [fakes.modality(n) for n in fakes.NAMES])
  empty = fakes.digits_problem(9, np.zeros((9, 3), bool))
  with pytest.raises(UserError, match='no test example has any modality'):
    fakes.make_plan(empty).check(model)
  alone = fakes.digits_problem(9, np.eye(3, dtype=bool)[np.arange(9) % 3])
  # Sizes that the config does not name are left out.
  fakes.make_plan(alone).check(model)
  plan = fakes.make_plan(alone, evaluators={'conditional': {'num_given': (1,)}})
  with pytest.raises(
    UserError, match='conditional: num_given: no test example has the'
  ):
    plan.check(model)
