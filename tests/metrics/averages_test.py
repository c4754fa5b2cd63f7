"""Means and their errors against closed forms and repetitions."""

import math

import numpy as np
import pytest

from mmsbm.metrics.averages import clustered_mean, macro_mean, share

CORRECT = np.array([1, 1, 0, 1, 1, 1, 0, 0], bool)
LABEL = np.array([0, 0, 0, 1, 2, 2, 1, 1])


def test_share_is_binomial():
  value, stderr = share(CORRECT)
  assert value == 0.625
  assert stderr == pytest.approx(math.sqrt(0.625 * 0.375 / 8))


def test_macro_mean_of_hits():
  value, stderr = macro_mean(CORRECT, LABEL)
  assert value == pytest.approx(2 / 3)
  # Classes have 3, 3, 2 examples and accuracies 2/3, 1/3, 1.
  assert stderr == pytest.approx(math.sqrt(2 * (2 / 9) / 3) / 3)


def test_macro_mean_of_shares():
  value, stderr = macro_mean([1.0, 0.5, 0.0, 0.5], [3, 3, 3, 8])
  assert value == 0.5
  # Variances 1/6 of three examples, and 0 of one.
  assert stderr == pytest.approx(math.sqrt(1 / 18) / 2)


def test_macro_mean_ignores_classes_without_examples():
  assert macro_mean([False, True], [1, 7])[0] == 0.5


@pytest.mark.parametrize('measure', [lambda right, label: share(right), macro_mean])
def test_stderr_is_the_spread_over_repetitions(measure):
  rng = np.random.default_rng(0)
  label = np.repeat([0, 1], [90, 10])
  results = []
  for _ in range(1000):
    right = rng.random(100) < np.where(label == 0, 0.9, 0.5)
    results.append(measure(right, label))
  values, errors = np.array(results).T
  assert values.std() == pytest.approx(np.sqrt(np.mean(errors**2)), rel=0.12)


class TestClusteredMean:
  def test_one_subset_is_binomial(self):
    expected = share(CORRECT)
    assert clustered_mean(CORRECT) == pytest.approx(expected)
    assert clustered_mean(CORRECT[None]) == pytest.approx(expected)

  def test_copies_of_a_subset_add_nothing(self):
    copies = np.broadcast_to(CORRECT, (3, 5, 8))
    assert clustered_mean(copies) == pytest.approx(clustered_mean(CORRECT))

  def test_closed_form(self):
    # Per-tuple means 1, 1/2, 0: mean 1/2, variance 1/6.
    value, stderr = clustered_mean([[1, 0, 0], [1, 1, 0]])
    assert (value, stderr) == pytest.approx((0.5, math.sqrt(1 / 6 / 3)))

  def test_counted_outcomes(self):
    correct = np.array([[1.0, np.nan, 0.0], [1.0, 1.0, 0.0]])
    value, stderr = clustered_mean(correct, np.isfinite(correct))
    # Ratio 3/5; residuals of the tuples 0.8, 0.4, -1.2.
    assert (value, stderr) == pytest.approx((0.6, math.sqrt(2.24) / 5))
    assert clustered_mean(correct[1], [True] * 3) == pytest.approx(
      clustered_mean(correct[1])
    )
    assert all(map(math.isnan, clustered_mean(correct, correct > 9)))

  def test_stderr_covers_dependent_subsets(self):
    rng = np.random.default_rng(1)
    results = []
    for _ in range(500):
      difficulty = rng.random(200)
      results.append(clustered_mean(rng.random((6, 200)) < difficulty))
    values, errors = np.array(results).T
    assert values.std() == pytest.approx(errors.mean(), rel=0.12)
