"""Linear probes of models whose latents are known."""

import dataclasses

import numpy as np
import pytest

from mmsbm.infra.errors import UserError


def probed(fakes, workdir, problem, num_train, model=None, split='val', **options):
  plan = fakes.make_plan(
    problem,
    evaluators={'linear_probe': {'num_train': num_train, **options}},
    split=split,
  )
  model = model or fakes.ClassModel('first', problem.modalities)
  return fakes.run(workdir, plan, fakes.FakeInference(model))


def true_labels(fakes, problem):
  """The problem with the right classes in the training split."""
  splits = dict(problem.dataset.splits)
  known = splits['test'].annotations
  splits['train'] = dataclasses.replace(splits['train'], annotations=known)
  return fakes.make_problem(splits, problem.modalities)


def single_sets(rows):
  return {tuple(r['given']): r for r in rows if r['given'] != 'mean'}


def test_probe_of_every_number_of_modalities(fakes, tmp_path):
  """The latents of the model that looks at a only say nothing of the others."""
  rows = probed(fakes, tmp_path, fakes.digits_problem(290), 120)
  assert {r['metric'] for r in rows} == {'latent_accuracy'}
  assert {r['num_train'] for r in rows} == {120} and {r['n'] for r in rows} == {290}
  assert not any('sampling' in r for r in rows)
  single = single_sets(rows)
  assert len(single) == 7
  mean = {r['num_given']: r['value'] for r in rows if r['given'] == 'mean'}
  for k in (1, 2, 3):
    own = [row['value'] for given, row in single.items() if len(given) == k]
    np.testing.assert_allclose(mean[k], np.mean(own))
  # Nothing is learned from what is evaluated: the training labels are wrong.
  assert max(row['value'] for row in single.values()) < 0.25


def test_probe_reads_what_it_was_fitted_to(fakes, tmp_path):
  problem = true_labels(fakes, fakes.digits_problem(300))
  rows = probed(fakes, tmp_path, problem, 200, split='test', num_given=(1,))
  single = single_sets(rows)
  assert set(single) == {('a',), ('b',), ('c',), ('a', 'b', 'c')}
  for given, row in single.items():
    # One pixel orders the classes, which a linear classifier tells apart in part.
    assert row['value'] > 0.4 if 'a' in given else row['value'] < 0.25


def test_shared_latents_are_probed_without_the_private_ones(fakes, tmp_path):
  class Shared(fakes.ClassModel):
    latents_are_shared = True

    def latents(self, variables, keys, encoded, observed):
      seen = observed.any(1, keepdims=True)
      shared = (encoded[:, :1] == np.arange(10)) & seen
      return {'shared': shared.astype('float32'), 'a': encoded * np.nan}

  problem = true_labels(fakes, fakes.digits_problem(300))
  model = Shared('first', problem.modalities)
  rows = probed(fakes, tmp_path, problem, 200, model, split='test')
  assert {row['value'] for row in rows} == {1.0}


def test_examples_count_for_the_sets_that_they_have(fakes, tmp_path):
  present = np.ones((300, 3), bool)
  present[:100, 0] = present[200:, 1] = False
  labels = fakes.digits_problem(300).dataset.splits['test'].annotations['class'].copy()
  labels[::10] = -1
  problem = true_labels(fakes, fakes.digits_problem(300, present, labels))
  rows = probed(fakes, tmp_path, problem, 1_000, split='test')
  single = single_sets(rows)
  assert single['a',]['n'] == single['a',]['num_train'] == 180
  assert single['a', 'b']['n'] == 90 and single['c',]['n'] == 270
  (mean,) = [r for r in rows if r['given'] == 'mean' and r['num_given'] == 1]
  assert mean['n'] == mean['num_train'] == 270 and 'note' not in mean
  one = [single[name,] for name in 'abc']
  expected = sum(r['value'] * r['n'] for r in one) / sum(r['n'] for r in one)
  np.testing.assert_allclose(mean['value'], expected)


def test_sets_that_nobody_has_are_said(fakes, tmp_path):
  present = np.ones((100, 3), bool)
  present[::2, 0] = present[1::2, 1] = False
  problem = true_labels(fakes, fakes.digits_problem(100, present))
  rows = probed(fakes, tmp_path, problem, 90, split='test')
  assert {r['num_given'] for r in rows} == {1, 2}
  (mean,) = [r for r in rows if r['given'] == 'mean' and r['num_given'] == 2]
  assert mean['note'] == 'without 1 of 3 sets that too few examples have'


@pytest.mark.parametrize(
  'options', [dict(num_train=0), dict(num_train=50, split='train'),
              dict(num_train=50, annotation='writer')]
)  # fmt: skip
def test_no_probe_where_it_would_mean_nothing(fakes, options, tmp_path):
  assert probed(fakes, tmp_path, fakes.digits_problem(30), **options) == []


def test_num_given_leaves_something_to_give(fakes, tmp_path):
  with pytest.raises(UserError, match='linear_probe: num_given: of 3 modalities'):
    probed(fakes, tmp_path, fakes.digits_problem(30), 9, num_given=(4,))
