import dataclasses
import math
import types

import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.metrics import precision_recall as pr
from mmsbm.metrics.base import Reading, Target


def brute_force(real, generated, k):
  """The definition, in float64, all distances at once."""

  def share(x, points):
    between = np.linalg.norm(points[:, None] - points[None], axis=-1)
    radii = np.sort(between, axis=1)[:, k]  # column 0 is the point itself
    return np.mean(
      np.any(np.linalg.norm(x[:, None] - points[None], axis=-1) <= radii, 1)
    )

  return share(generated, real), share(real, generated)


def precision_recall(real, generated, **options):
  """Both shares and their standard errors, about the mean of the real features."""
  centre = np.mean(real, axis=0)
  precision = pr.share_inside(generated, real, centre, **options)
  recall = pr.share_inside(real, generated, centre, **options)
  return types.SimpleNamespace(
    precision=precision[0],
    precision_stderr=precision[1],
    recall=recall[0],
    recall_stderr=recall[1],
  )


@pytest.mark.parametrize(('k', 'chunk'), [(1, 512), (3, 512), (3, 7), (5, 512)])
def test_brute_force(k, chunk):
  rng = np.random.default_rng(k)
  real = rng.standard_normal((150, 6)) + 100
  generated = 1.3 * rng.standard_normal((110, 6)) + 100.5
  result = precision_recall(real, generated, k=k, chunk=chunk)
  expected = brute_force(real, generated, k)
  assert (result.precision, result.recall) == pytest.approx(expected, abs=1e-6)
  assert 0.05 < expected[0] != expected[1] < 0.99
  p, r = expected
  assert result.precision_stderr == pytest.approx(math.sqrt(p * (1 - p) / 109))
  assert result.recall_stderr == pytest.approx(math.sqrt(r * (1 - r) / 149))


def test_radii_of_a_line():
  points = jnp.array([[0.0], [1.0], [3.0], [7.0]])
  assert pr.squared_radii(points, k=1, chunk=3).tolist() == [1, 1, 4, 16]
  assert pr.squared_radii(points, k=2, chunk=3).tolist() == [9, 4, 9, 36]
  assert pr.squared_radii(points, k=3, chunk=3).tolist() == [49, 36, 16, 49]


def test_the_ball_is_closed():
  points, radii = jnp.array([[0.0]]), jnp.array([4.0])
  x = jnp.array([[-2.0], [2.0], [2.25]])
  assert pr.inside(x, points, radii, chunk=2).tolist() == [True, True, False]


def test_line():
  # Balls of the real points, k = 1: [-1, 1], [0, 2], [1, 5], [3, 11].
  real = np.array([[0.0], [1.0], [3.0], [7.0]])
  generated = np.array([[-0.5], [-1.5], [10.5], [11.5], [20.0]])
  # Balls of the generated ones: [-1.5, .5], [-2.5, -.5], [9.5, 11.5], [10.5, 12.5],
  # [11.5, 28.5]: only the real point 0 is inside one.
  result = precision_recall(real, generated, k=1)
  assert (result.precision, result.recall) == pytest.approx((0.4, 0.25))


def test_duplicates_have_no_extent():
  # Four copies of each: the 3rd neighbour is at distance 0.
  real = np.repeat(np.eye(3), 4, axis=0)
  assert precision_recall(real, real + 0.1).precision == 0


def test_quality_and_variety_are_told_apart():
  rng = np.random.default_rng(0)
  modes = np.array([[-6.0, 0.0], [6.0, 0.0]])
  real = np.concatenate([m + rng.standard_normal((300, 2)) for m in modes])
  collapsed = modes[0] + 0.5 * rng.standard_normal((600, 2))
  result = precision_recall(real, collapsed)
  assert result.precision > 0.97 and result.recall < 0.5
  swapped = precision_recall(collapsed, real)
  assert (swapped.precision, swapped.recall) == (result.recall, result.precision)
  same = precision_recall(real, real.copy())
  assert (same.precision, same.recall) == (1, 1)


def test_far_from_the_origin():
  # Without centring, float32 has no digits left for these distances.
  rng = np.random.default_rng(0)
  real, generated = rng.standard_normal((2, 100, 3))
  near = precision_recall(real, generated)
  assert precision_recall(real + 1e5, generated + 1e5) == near


def test_too_few_examples():
  with pytest.raises(ValueError, match='more than 3'):
    precision_recall(np.zeros((3, 2)), np.zeros((9, 2)))


def test_metrics_are_the_two_shares():
  rng = np.random.default_rng(0)
  real, generated = rng.normal(size=(80, 3)), 0.6 * rng.normal(size=(80, 3))
  target = Target(
    modality=None,
    generated=None,
    real=None,
    present=None,
    annotations={},
    read_generated={'one': Reading(None, generated)},
    read_real={'one': Reading(None, real)},
  )
  both = precision_recall(real, generated)
  (precision,), (recall,) = pr.Precision()(target), pr.Recall()(target)
  assert (precision.value, precision.stderr) == (both.precision, both.precision_stderr)
  assert (recall.value, recall.stderr) == (both.recall, both.recall_stderr)
  assert precision.fields == {'features': 'one'}
  wider = precision_recall(real, generated, k=5)
  assert pr.Recall(num_neighbours=5)(target)[0].value == wider.recall
  (few,) = pr.Recall()(
    dataclasses.replace(
      target,
      read_generated={'one': Reading(None, generated[:7])},
    )
  )
  assert math.isnan(few.value) and few.note == 'fewer than 8 examples'
