"""Entry by entry metrics."""

import numpy as np
import pytest

from mmsbm.evaluators.agreement import agreement, f1_per_example


def test_f1_by_hand():
  true = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
  predicted = np.array([[1, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
  # Precision and recall 1/2; perfect; no true positive; nothing at all.
  np.testing.assert_allclose(f1_per_example(predicted, true), [0.5, 1, 0, 0])


def test_f1_is_the_published_one():
  sklearn = pytest.importorskip('sklearn.metrics')
  rng = np.random.default_rng(0)
  true = rng.random((50, 18)) < 0.3
  predicted = rng.random((50, 18)) < 0.4
  expected = sklearn.f1_score(true, predicted, average='samples', zero_division=0)
  np.testing.assert_allclose(f1_per_example(predicted, true).mean(), expected)
  masks = f1_per_example(predicted.reshape(50, 6, 3, 1), true.reshape(50, 6, 3, 1))
  np.testing.assert_allclose(masks, f1_per_example(predicted, true))


def test_the_metric_fits_the_kind():
  name, values = agreement('label', np.array([1, 2, 3]), np.array([1, 0, 3]))
  assert (name, values.tolist()) == ('accuracy', [1, 0, 1])
  assert agreement('mask', np.ones((2, 3, 3, 1)), np.ones((2, 3, 3, 1)))[0] == 'f1'
  assert agreement('image', np.ones(2), np.ones(2)) is None
