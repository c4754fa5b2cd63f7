"""Averages of what was measured on the same examples."""

import dataclasses
import types

import numpy as np
import pytest

from mmsbm.evaluators.aggregate import (
  BY_EXAMPLE,
  Number,
  Rows,
  by_example,
  compare_by_example,
  mean_of,
  mean_of_estimates,
  note_of,
)
from mmsbm.metrics.averages import clustered_mean, macro_mean
from mmsbm.metrics.base import Estimate, Target


def test_mean_of_values_with_and_without_gaps():
  values = np.array([[1.0, 0.0, np.nan, 0.5], [1.0, np.nan, np.nan, 1.0]])
  value, stderr, num = mean_of(values)
  assert (value, num) == (0.7, 3)
  assert stderr == clustered_mean(values, np.isfinite(values))[1]
  whole = np.random.default_rng(0).random((3, 50))
  assert mean_of(whole)[:2] == clustered_mean(whole)
  assert mean_of(whole[0])[:2] == clustered_mean(whole[0])


def test_mean_of_groups_counts_each_alike():
  values = np.array([[1.0, 1.0, 0.0, np.nan], [0.0, np.nan, 0.0, np.nan]])
  value, stderr, num = mean_of(values, np.array([3, 3, 5, 5]))
  assert (value, stderr) == macro_mean([0.5, 1.0, 0.0], [3, 3, 5]) and num == 3
  # Examples of an unknown group do not count.
  assert mean_of(values, np.array([3, 3, -1, -1]))[::2] == (0.75, 2)
  assert mean_of(values, np.full(4, -1))[2] == 0


def test_mean_of_independent_estimates():
  estimates = [Estimate(1.0, 0.3), Estimate(3.0, 0.4)]
  value, stderr = mean_of_estimates(estimates)
  assert value == 2 and stderr == pytest.approx(0.25)
  assert mean_of_estimates([*estimates, Estimate(2.0, None)]) == (2.0, None)


def test_mean_of_estimates_of_the_same_examples_knows_of_it():
  rng = np.random.default_rng(0)
  one, two = 0.01 * rng.normal(size=(2, 400))

  def estimate(influence):
    return Estimate(1.0, np.sqrt(np.sum(influence**2)), influence=influence)

  root = lambda a: np.sqrt(np.sum(a**2))  # noqa: E731
  same = mean_of_estimates([estimate(one), estimate(one)])[1]
  assert same == pytest.approx(root(one))
  assert mean_of_estimates([estimate(one), estimate(-one)])[1] == 0
  mixed = mean_of_estimates([estimate(one), estimate(two)])[1]
  assert mixed == pytest.approx(root(one + two) / 2)


def test_ways_of_sampling_are_compared_by_example():
  values = {'default': [1.0, 0.0, 1.0, np.nan, 1.0], 'other': [1.0, 0.0, 0.0, 1.0, 0.0]}
  rows = [
    {'metric': 'coherence', 'num_given': 1, 'sampling': name, BY_EXAMPLE: v}
    for name, v in values.items()
  ]
  known = {}
  (first,) = compare_by_example(rows[:1], known)
  (second,) = compare_by_example(rows[1:], known)
  assert first == {k: v for k, v in rows[0].items() if k != BY_EXAMPLE}
  # Of the four examples that both have: 0, 0, -1, -1.
  assert second['difference'] == -0.5
  assert second['difference_stderr'] == pytest.approx(np.sqrt(1 / 3 / 4))
  assert by_example(np.array([[1, np.nan, np.nan], [0, 0.25, np.nan]]))[:2] == [
    0.5,
    0.25,
  ]


def test_note_names_the_first_few():
  number = Number('m0', '', Estimate(np.nan, None), 0, 'few')
  assert note_of([]) == {}
  assert note_of([number]) == {'note': 'without m0 (few)'}
  missing = [
    dataclasses.replace(number, target=f'm{i}', place=' given a') for i in range(6)
  ]
  note = note_of(missing)['note']
  assert note.startswith('without m0 given a (few); m1') and note.endswith('and 2 more')


class Mean:
  """The mean of what was generated, as a metric of sets."""

  name, better, about, paired = 'mean', 'high', 'The mean.', True

  def __call__(self, target):
    x = target.generated
    influence = (x - x.mean()) / len(x)
    return [Estimate(x.mean(), np.sqrt(np.sum(influence**2)), influence=influence)]


def test_influences_are_those_of_the_examples_wherever_they_stand():
  """The same numbers for the same examples, of which each target lacks other ones."""
  x = np.random.default_rng(0).normal(size=10)
  present = np.ones((2, 10), bool)
  present[0, :3] = present[1, 6:] = False
  positions = np.arange(1, 10)
  targets = {
    name: Target(
      modality=None,
      generated=x[positions],
      real=x[positions],
      present=has[positions],
      annotations={},
      read_generated={},
      read_real={},
    )
    for name, has in zip('ab', present, strict=True)
  }
  evaluation = types.SimpleNamespace(
    row=lambda metric, value, stderr, **f: (f['target'], stderr),
    plan=types.SimpleNamespace(metrics={'m': Mean()}),
    rows=np.arange(10),
  )
  rows = Rows(evaluation, {})
  rows.add(targets, positions, {})
  total = np.zeros(10)
  for has in present:
    shown = has & (np.arange(10) > 0)
    total[shown] += (x[shown] - x[shown].mean()) / shown.sum()
  assert rows.rows[-1][0] == 'mean'
  assert rows.rows[-1][1] == pytest.approx(np.sqrt(np.sum(total**2)) / 2)
