"""Balance and variance of classes, against closed forms."""

import types

import numpy as np
import pytest

from mmsbm.metrics import METRICS
from mmsbm.metrics.base import Reading, Target
from mmsbm.metrics.variety import balance_kl, within_class


def test_balance_of_the_same_frequencies_is_minus_the_bias():
  classes = np.repeat(np.arange(10), 45)
  value, stderr = balance_kl(classes, classes)
  assert value == pytest.approx(-9 / 900)
  # The linearisation is 0 there, and chi^2 of 9 degrees of freedom is left.
  assert stderr == pytest.approx(np.sqrt(9 / 2) / 450)


def test_balance_in_closed_form():
  true = np.repeat([0, 1], 500_000)
  value, stderr = balance_kl(np.repeat([0, 1], [300_000, 700_000]), true)
  assert value == pytest.approx(0.3 * np.log(0.6) + 0.7 * np.log(1.4), abs=1e-5)
  spread = np.sqrt(0.3 * 0.7) * np.log(7 / 3)
  assert stderr == pytest.approx(spread / 1000, rel=1e-3)


def test_balance_of_samples_of_the_data_is_0_on_average():
  rng, true = np.random.default_rng(0), np.repeat(np.arange(10), 45)
  values, errors = np.array(
    [balance_kl(rng.integers(0, 10, 450), true) for _ in range(400)]
  ).T
  assert abs(values.mean()) < 4 * values.std() / 20
  assert np.sqrt(np.mean(errors**2)) == pytest.approx(values.std(), rel=0.25)
  # A class that no example has is unlikely, not impossible.
  assert np.isfinite(balance_kl(np.array([3] * 9), np.array([4] * 9))[0])


def test_variance_within_classes_is_the_trace_of_the_unbiased_covariance():
  rng = np.random.default_rng(0)
  features, label = rng.normal(size=(60, 3)), np.repeat([0, 1, 2], [20, 39, 1])
  features[label == 1] += 100
  squares = within_class(features, label)
  traces = [np.trace(np.cov(features[label == c].T)) for c in (0, 1)]
  assert squares.mean() == pytest.approx((20 * traces[0] + 39 * traces[1]) / 59)
  assert within_class(features[:3], np.arange(3)) is None


def target(generated, real, label):
  def read(features):
    return {
      'digit': Reading(label, None, 'class'), 'conv': Reading(None, features)
    }  # fmt: skip

  return Target(
    modality=types.SimpleNamespace(kind=types.SimpleNamespace(metrics=())),
    generated=generated, real=real, present=np.ones(len(label), bool),
    annotations={'class': label}, read_generated=read(generated), read_real=read(real),
  )  # fmt: skip


def test_variance_ratio_knows_prototypes_from_samples():
  rng, label = np.random.default_rng(0), np.repeat([0, 1], 500)
  means = np.where(label == 0, -50.0, 50.0)[:, None]
  real, more = means + rng.normal(size=(2, 1000, 2)) * [[[1.0]], [[2.0]]]
  ratio = METRICS['variance_ratio']()
  (wide,) = ratio(target(more, real, label))
  assert wide.value == pytest.approx(4, abs=4 * wide.stderr)
  # Of a chi^2 of 2,000 degrees of freedom on either side.
  assert wide.stderr == pytest.approx(4 * np.sqrt(2 * 2 / 2000), rel=0.1)
  assert wide.fields == {'features': 'conv'}
  (averages,) = ratio(target(np.broadcast_to(means, real.shape), real, label))
  assert averages.value == 0
  (few,) = ratio(target(more[:5], real[:5], label[:5]))
  assert np.isnan(few.value)


def test_class_balance_is_that_of_each_modality():
  label = np.repeat(np.arange(10), 100)
  fair = target(label[:, None], label[:, None], label)
  (estimate,) = METRICS['class_balance_kl']()({'a': fair, 'b': fair})
  assert estimate.value == pytest.approx(-9 / 2000)
