"""Features of random convolutions."""

import numpy as np
import pytest
import scipy.signal

from mmsbm.nn.random_conv import random_features, random_weights


def _expected(weights, x):
  """The same by SciPy's correlation, one channel after the other."""
  for i in range(len(weights)):
    w = weights[f'conv_{i}']
    x = np.stack([
      sum(
        scipy.signal.correlate2d(x[..., c], w[..., c, k], mode='same')
        for c in range(x.shape[-1])
      )
      for k in range(w.shape[-1])
    ], axis=-1).clip(0)  # fmt: skip
    if min(x.shape[:2]) >= 4:
      x = x[: x.shape[0] // 2 * 2, : x.shape[1] // 2 * 2]
      x = (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4
  h, w = x.shape[:2]
  rows, columns = [slice(-(-h // 2)), slice(h // 2, h)], [
    slice(-(-w // 2)), slice(w // 2, w)
  ]  # fmt: skip
  return np.concatenate([x[r, c].mean((0, 1)) for r in rows for c in columns])


@pytest.mark.parametrize('shape', [(16, 16, 3), (9, 13, 1), (1, 2, 2)])
def test_features_are_those_of_convolutions_by_scipy(shape):
  weights = random_weights(shape[-1], seed=3)
  x = np.random.default_rng(0).random((2, *shape)).astype(np.float32)
  found = np.asarray(random_features(weights, x))
  assert found.shape == (2, 64)
  for features, picture in zip(found, x, strict=True):
    np.testing.assert_allclose(features, _expected(weights, picture), atol=1e-5)


def test_weights_are_a_function_of_channels_and_seed():
  one, same, other = (random_weights(3, seed) for seed in (0, 0, 1))
  for name, kernel in one.items():
    np.testing.assert_array_equal(kernel, same[name])
    assert not np.array_equal(kernel, other[name])
    std = np.sqrt(2 / (9 * kernel.shape[2]))
    assert kernel.std() == pytest.approx(std, rel=0.1)
  # Pinned: distances of different versions of the program are on the same features.
  first = [0.03421943, -0.03595439, 0.17430097]
  np.testing.assert_allclose(one['conv_0'].ravel()[:3], first, rtol=1e-5)
