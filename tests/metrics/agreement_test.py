"""Entry by entry metrics against closed forms, scikit-learn and repetitions."""

import types

import numpy as np
import pytest

from mmsbm.metrics import agreement
from mmsbm.metrics.base import Target


def target(names, generated, real, scale=1.0):
  """A target of a kind with the metrics `names`."""
  kind = types.SimpleNamespace(metrics=names, to_model=lambda raw: raw / scale)
  num = len(real)
  return Target(
    modality=types.SimpleNamespace(kind=kind),
    generated=np.asarray(generated),
    real=np.asarray(real),
    present=np.ones(num, bool),
    annotations={},
    read_generated={},
    read_real={},
  )


class TestF1PerExample:
  def test_by_hand(self):
    true = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    predicted = np.array([[1, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    # Precision and recall 1/2; perfect; no true positive; nothing at all.
    got = agreement.f1_per_example(predicted, true)
    np.testing.assert_allclose(got, [0.5, 1, 0, 0])
    np.testing.assert_array_equal(agreement.F1()(target(('f1',), predicted, true)), got)

  def test_is_the_published_one(self):
    sklearn = pytest.importorskip('sklearn.metrics')
    rng = np.random.default_rng(0)
    true = rng.random((50, 18)) < 0.3
    predicted = rng.random((50, 18)) < 0.4
    expected = sklearn.f1_score(true, predicted, average='samples', zero_division=0)
    got = agreement.f1_per_example(predicted, true)
    np.testing.assert_allclose(got.mean(), expected)
    masks = [a.reshape(50, 6, 3, 1) for a in (predicted, true)]
    np.testing.assert_allclose(agreement.f1_per_example(*masks), got)


class TestF1ByEntry:
  def test_by_hand(self):
    true = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 0]])
    predicted = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0]])
    f1, usable, influence = agreement.f1_by_entry(predicted, true)
    # Two of three found, none wrong; one true, another one found; nothing to find.
    np.testing.assert_allclose(f1, [0.8, 0.0])
    assert usable.tolist() == [True, True, False]
    # (2 b - F d) / D of both entries, and their mean.
    expected = np.array([(2 - 1.6) / 5, (0 - 0.8) / 5, (2 - 1.6) / 5]) / 2
    np.testing.assert_allclose(influence, expected, atol=1e-15)

  def test_is_that_of_scikit_learn(self):
    sklearn = pytest.importorskip('sklearn.metrics')
    rng = np.random.default_rng(0)
    true, predicted = rng.random((700, 7)) < 0.3, rng.random((700, 7)) < 0.4
    expected = sklearn.f1_score(true, predicted, average='macro')
    f1, _, influence = agreement.f1_by_entry(predicted, true)
    np.testing.assert_allclose(f1.mean(), expected)
    # Ratios have no first-order change when all examples count a little more.
    np.testing.assert_allclose(influence.sum(), 0, atol=1e-12)

  def test_influence_is_the_change_without_an_example(self):
    rng = np.random.default_rng(1)
    true, predicted = rng.random((400, 3)) < 0.5, rng.random((400, 3)) < 0.5
    f1, _, influence = agreement.f1_by_entry(predicted, true)
    for row in range(5):
      keep = np.arange(400) != row
      without = agreement.f1_by_entry(predicted[keep], true[keep])[0]
      change = f1.mean() - without.mean()
      np.testing.assert_allclose(change, influence[row], rtol=0.02, atol=5e-6)

  def test_stderr_is_the_spread_over_repetitions(self):
    rng = np.random.default_rng(2)
    results = []
    for _ in range(600):
      # Entries of an example depend on each other.
      hard = rng.random((150, 1))
      true = rng.random((150, 4)) < 0.4
      predicted = np.where(rng.random((150, 4)) < hard, ~true, true)
      (got,) = agreement.F1ByEntry()(target(('f1',), predicted, true))
      results.append((got.value, got.stderr))
    values, errors = np.array(results).T
    assert values.std() == pytest.approx(np.sqrt(np.mean(errors**2)), rel=0.1)

  def test_says_what_it_leaves_out(self):
    true = np.zeros((9, 3), int)
    (got,) = agreement.F1ByEntry()(target(('f1',), true, true))
    assert np.isnan(got.value) and got.note == 'no entry is positive'
    true[:, 1] = 1
    (got,) = agreement.F1ByEntry()(target(('f1',), true, true))
    assert (got.value, got.stderr) == (1.0, 0.0)
    assert got.note == 'without 2 of 3 entries that are never positive'
    (got,) = agreement.F1ByEntry()(target(('f1',), true[:7], true[:7]))
    assert np.isnan(got.value) and got.note == 'fewer than 8 examples'


class TestR2:
  def test_by_hand(self):
    true = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]])
    predicted = np.array([[1.0, 1.0], [2.0, 3.0], [4.0, 4.0]])
    # Squares 1, 4, 0; about the mean (2, 2): 5, 1, 8.
    value, influence = agreement.explained_variance(predicted, true)
    assert value == pytest.approx(1 - 5 / 14)
    ratio = 5 / 14
    expected = -np.array([1 - 5 * ratio, 4 - ratio, 0 - 8 * ratio]) / 14
    np.testing.assert_allclose(influence, expected)

  def test_is_that_of_scikit_learn(self):
    sklearn = pytest.importorskip('sklearn.metrics')
    rng = np.random.default_rng(0)
    true = rng.normal(size=(60, 5)) * np.arange(1, 6)
    predicted = true + rng.normal(size=(60, 5))
    expected = sklearn.r2_score(true, predicted, multioutput='variance_weighted')
    np.testing.assert_allclose(
      agreement.explained_variance(predicted, true)[0], expected
    )

  def test_of_the_mean_and_of_a_perfect_model(self):
    true = np.random.default_rng(0).normal(size=(20, 2))
    assert agreement.explained_variance(true, true)[0] == 1
    mean = np.broadcast_to(true.mean(0), true.shape)
    np.testing.assert_allclose(
      agreement.explained_variance(mean, true)[0], 0, atol=1e-12
    )

  def test_value_and_stderr_of_gaussians(self):
    """y = x + noise of variance 1 and x of variance 3: R2 is 3/4, or 1/2 if drawn."""
    rng = np.random.default_rng(3)
    for drawn, expected in ((False, 0.75), (True, 0.5)):
      results = []
      for _ in range(500):
        x = np.sqrt(3) * rng.normal(size=(200, 1))
        noise = rng.normal(size=(2, 200, 1))
        guess = x + noise[1] if drawn else x
        (got,) = agreement.R2()(target(('r2',), guess, x + noise[0]))
        results.append((got.value, got.stderr))
      values, errors = np.array(results).T
      assert values.mean() == pytest.approx(expected, abs=0.01)
      assert values.std() == pytest.approx(np.sqrt(np.mean(errors**2)), rel=0.1)

  def test_of_constants_is_not_measurable(self):
    ones = np.ones((9, 2))
    (got,) = agreement.R2()(target(('r2',), ones * 2, ones))
    assert np.isnan(got.value) and got.note == 'the true vectors do not vary'


def test_squared_error_is_taken_as_networks_see_it(monkeypatch):
  monkeypatch.setattr(agreement, '_ROWS', 2)
  true = np.array([[[0, 4]], [[2, 2]], [[1, 1]]], np.uint8)
  predicted = np.array([[[2, 4]], [[0, 0]], [[1, 1]]], np.uint8)
  got = agreement.SquaredError()(target(('mse',), predicted, true, scale=2.0))
  np.testing.assert_allclose(got, [0.5, 1, 0])


def test_metrics_are_of_the_kinds_that_ask_for_them():
  label = target(('accuracy',), np.array([1, 2, 3]), np.array([1, 0, 3]))
  assert agreement.Accuracy()(label).tolist() == [1, 0, 1]
  for metric in (agreement.F1(), agreement.SquaredError()):
    assert metric(label) is None
  for metric in (agreement.F1ByEntry(), agreement.R2()):
    assert metric(label) == []
  assert agreement.Accuracy()(target((), np.ones(2), np.ones(2))) is None
