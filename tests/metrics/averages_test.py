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
  # p (1 - p) / (n - 1) is the unbiased estimate of the variance of a share.
  assert stderr == pytest.approx(math.sqrt(0.625 * 0.375 / 7))


@pytest.mark.parametrize(
  'measure',
  [share, clustered_mean, lambda x: macro_mean(x, np.arange(len(x)) % 3)],
)
@pytest.mark.parametrize('outcome', [True, False])
def test_errors_of_0_and_1_do_not_vanish(measure, outcome):
  for n in (2, 10, 1000):
    value, stderr = measure(np.full(n, outcome))
    # Between that of one example of the other kind, and half of it.
    assert value == outcome and 0.5 / n < stderr < 1 / n or n == 2 and stderr > 0.3
  assert measure(np.full(1, outcome)) == (outcome, None)


def test_equal_numbers_that_are_no_shares_have_no_error():
  assert clustered_mean(np.full((3, 50), 0.1)) == (pytest.approx(0.1), None)
  assert macro_mean(np.full(6, 0.1), np.arange(6) % 2) == (pytest.approx(0.1), None)
  # Several targets of one tuple are one tuple.
  assert clustered_mean([[True], [False], [True]]) == (pytest.approx(2 / 3), None)


@pytest.mark.parametrize('per_class', [1, 3])
def test_macro_mean_of_few_examples_a_class(per_class):
  rng, label = np.random.default_rng(0), np.repeat(np.arange(10), per_class)
  draws = [macro_mean(rng.random(len(label)) < 0.5, label) for _ in range(2000)]
  values, errors = np.array(draws).T
  assert np.sqrt(np.mean(errors**2)) == pytest.approx(values.std(), rel=0.06)


def test_macro_mean_of_classes_that_differ_and_do_not_vary():
  # Nothing is known of the variance within classes; that of all is 0.25 * 4 / 3.
  assert macro_mean([1, 1, 0, 0], [5, 5, 6, 6])[1] == pytest.approx(math.sqrt(1 / 12))


def test_macro_mean_of_hits():
  value, stderr = macro_mean(CORRECT, LABEL)
  assert value == pytest.approx(2 / 3)
  # Classes have 3, 3, 2 examples and accuracies 2/3, 1/3, 1.
  assert stderr == pytest.approx(math.sqrt(2 * (1 / 3) / 3) / 3)


def test_macro_mean_of_shares():
  value, stderr = macro_mean([1.0, 0.5, 0.0, 0.5], [3, 3, 3, 8])
  assert value == 0.5
  # Variances 1/4 of three examples, and 1/6 of one, which is that of all four.
  assert stderr == pytest.approx(math.sqrt(1 / 12 + 1 / 6) / 2)


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
    # Per-tuple means 1, 1/2, 0: mean 1/2, variance 1/4.
    value, stderr = clustered_mean([[1, 0, 0], [1, 1, 0]])
    assert (value, stderr) == pytest.approx((0.5, math.sqrt(1 / 4 / 3)))

  def test_counted_outcomes(self):
    correct = np.array([[1.0, np.nan, 0.0], [1.0, 1.0, 0.0]])
    value, stderr = clustered_mean(correct, np.isfinite(correct))
    # Ratio 3/5; residuals of the tuples 0.8, 0.4, -1.2, and 3 / 2 for three tuples.
    assert (value, stderr) == pytest.approx((0.6, math.sqrt(2.24 * 1.5) / 5))
    assert clustered_mean(correct[1], [True] * 3) == pytest.approx(
      clustered_mean(correct[1])
    )
    value, stderr = clustered_mean(correct, correct > 9)
    assert math.isnan(value) and stderr is None

  def test_stderr_covers_dependent_subsets(self):
    rng = np.random.default_rng(1)
    results = []
    for _ in range(500):
      difficulty = rng.random(200)
      results.append(clustered_mean(rng.random((6, 200)) < difficulty))
    values, errors = np.array(results).T
    assert values.std() == pytest.approx(errors.mean(), rel=0.12)
