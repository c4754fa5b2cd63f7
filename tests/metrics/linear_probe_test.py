"""The linear probe against the best possible classifier of two Gaussians."""

import math

import numpy as np

from mmsbm.metrics.linear_probe import linear_probe


def gaussians(num, seed):
  """Classes 3 and 8 at -1 and 1 in the first of three dimensions, [num, 3]."""
  rng = np.random.default_rng(seed)
  label = rng.choice([3, 8], num)
  z = rng.normal(size=(num, 3))
  z[:, 0] += np.where(label == 8, 1.0, -1.0)
  return z, label


def test_two_gaussians_are_told_apart_as_well_as_can_be():
  z, label = gaussians(4_000, 0)
  test, true = gaussians(20_000, 1)
  accuracy = (linear_probe(z, label, test) == true).mean()
  # The best rule is the sign of the first dimension: Phi(1).
  best = 0.5 * (1 + math.erf(1 / math.sqrt(2)))
  assert abs(accuracy - best) < 4 * math.sqrt(best * (1 - best) / len(true))


def test_the_scale_of_a_dimension_does_not_matter():
  z, label = gaussians(300, 0)
  test, _ = gaussians(300, 1)
  scale, shift = np.array([1e-3, 1.0, 1e4]), np.array([5.0, 0.0, -1e3])
  expected = linear_probe(z, label, test)
  np.testing.assert_array_equal(
    linear_probe(scale * z + shift, label, scale * test + shift), expected
  )
  # Constants, too, say nothing.
  constant = [np.concatenate([a, np.full((300, 1), 7.0)], 1) for a in (z, test)]
  np.testing.assert_array_equal(linear_probe(constant[0], label, constant[1]), expected)


def test_nothing_to_read_and_nothing_to_tell_apart():
  z, label = np.zeros((50, 2)), np.repeat([0, 4], [20, 30])
  np.testing.assert_array_equal(linear_probe(z, label, np.ones((5, 2))), 4)
  np.testing.assert_array_equal(linear_probe(z, np.full(50, 6), np.ones((5, 2))), 6)
