import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.evaluators import inception as images
from mmsbm.infra.errors import UserError
from mmsbm.nn import inception


def direct_resize(image, size):
  """Bilinear interpolation pixel by pixel, [H, W, C] -> [*size, C]."""
  height, width, channels = image.shape
  out = np.zeros((*size, channels))
  for i in range(size[0]):
    for j in range(size[1]):
      y = min(max((i + 0.5) * height / size[0] - 0.5, 0), height - 1)
      x = min(max((j + 0.5) * width / size[1] - 0.5, 0), width - 1)
      y0, x0 = int(y), int(x)
      y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
      v, u = y - y0, x - x0
      top = (1 - u) * image[y0, x0] + u * image[y0, x1]
      bottom = (1 - u) * image[y1, x0] + u * image[y1, x1]
      out[i, j] = (1 - v) * top + v * bottom
  return out


class TestQuantize:
  def test_rounds_half_up_and_clips(self):
    x = np.array([-0.2, 0, 0.5 / 255, 0.49 / 255, 3 / 510, 0.5, 0.9999, 1, 1.7])
    # As computed by x.mul(255).add_(0.5).clamp_(0, 255).to(uint8) of torch 2.13.
    expected = [0, 0, 1, 0, 2, 128, 255, 255, 255]
    assert images.quantize(x.astype(np.float32)).tolist() == expected

  def test_8_bit_images_pass_unchanged(self):
    x = np.arange(256, dtype=np.uint8)
    assert images.quantize(x) is x
    np.testing.assert_array_equal(images.quantize(x / np.float32(255)), x)

  def test_diverged_model(self):
    with pytest.raises(UserError, match='NaN'):
      images.quantize(np.array([0.5, np.nan]))


class TestResize:
  @pytest.mark.parametrize('size', [(2, 3), (5, 7), (11, 4), (13, 19), (1, 1)])
  def test_direct_formula(self, size):
    x = np.random.default_rng(0).random((2, 5, 7, 3)).astype(np.float32)
    out = images.resize_bilinear(jnp.asarray(x), size)
    expected = [direct_resize(image, size) for image in x]
    np.testing.assert_allclose(out, expected, atol=1e-6)

  def test_torch(self):
    # interpolate(mode='bilinear', align_corners=False) of torch 2.13, last rows of
    # the second channel: down, up, and no antialiasing.
    x = np.sin(np.arange(70) * 1.7).reshape(2, 5, 7).transpose(1, 2, 0)[None]
    out = images.resize_bilinear(jnp.asarray(x, jnp.float32), (11, 4))
    expected = [0.519394, -0.550768, 0.5316, -0.321924]
    np.testing.assert_allclose(out[0, -1, :, 1], expected, atol=1e-5)
    out = images.resize_bilinear(jnp.asarray(x, jnp.float32), (3, 13))
    expected = [0.45955, 0.554074, 0.719492, 0.219105, -0.547604, -0.629573]
    np.testing.assert_allclose(out[0, -1, :6, 1], expected, atol=1e-5)


class TestInceptionInput:
  def test_range_and_grey(self):
    x = np.array([0, 255], np.uint8).reshape(1, 1, 2, 1)
    out = np.asarray(images.inception_input(jnp.asarray(x)))
    assert out.shape == (1, 299, 299, 3)
    assert (out.min(), out.max()) == (-1, 1)
    # Pixel centres of the source are at columns 74.25 and 223.75.
    np.testing.assert_allclose(out[0, 0, 149], 0, atol=1e-6)
    np.testing.assert_array_equal(out[0, 7, :, 0], out[0, 200, :, 2])
    assert (np.diff(out[0, 0, :, 0]) >= 0).all()

  def test_mistakes(self):
    with pytest.raises(ValueError, match='Quantize'):
      images.inception_input(jnp.zeros((1, 4, 4, 3)))
    with pytest.raises(ValueError, match='channels'):
      images.to_rgb(jnp.zeros((1, 4, 4, 2)))


def test_features_do_not_depend_on_the_batch(monkeypatch):
  def pretend(variables, x):
    return variables + x.astype(jnp.float32).mean(axis=(1, 2))

  monkeypatch.setattr(images, '_features', jax.jit(pretend))
  monkeypatch.setattr(inception, 'NUM_FEATURES', 3)
  x = np.random.default_rng(0).uniform(-0.3, 1.3, (5, 4, 4, 3))
  whole = images.inception_features(1.0, x, batch_size=5)
  # Floats and the 8-bit images that would be stored are one path: floats as they leave
  # a decoder, which some evaluators take, give other features.
  eight_bits = images.inception_features(1.0, images.quantize(x), batch_size=5)
  np.testing.assert_array_equal(eight_bits, whole)
  assert (np.abs(1 + 255 * x.mean(axis=(1, 2)) - whole) > 1e-3).all()
  np.testing.assert_allclose(whole, 1 + images.quantize(x).mean(axis=(1, 2)), rtol=1e-6)
  for batch_size in (1, 2, 64):
    part = images.inception_features(1.0, x, batch_size=batch_size)
    np.testing.assert_array_equal(part, whole)
  assert images.inception_features(1.0, x[:0], batch_size=2).shape == (0, 3)
