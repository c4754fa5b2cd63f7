"""Images on their way into the Inception network, as published FIDs treat them.

Real and generated images both become 8-bit RGB (papers write PNG files first),
are resized to 299 x 299 and scaled to [-1, 1]. Each step changes the FID. These
are the steps of pytorch-fid, with which most multimodal papers were evaluated;
the TensorFlow original resizes with another pixel convention, and the numbers
differ by about 0.1.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.infra.errors import UserError
from mmsbm.nn import inception

INCEPTION_SIZE = (299, 299)


def quantize(images: np.ndarray) -> np.ndarray:
  """Clips floats [N, H, W, C] to [0, 1] and rounds to uint8, half up; uint8 passes.

  This is torchvision's `save_image`, floor(255 x + 0.5); the same code for real
  and generated images keeps the rounding from being a difference between them.
  """
  images = np.asarray(images)
  if images.dtype == np.uint8:
    return images
  if not np.isfinite(images).all():
    raise UserError(
      'Images to be evaluated contain NaN or infinity: the model has diverged; '
      'train again with a lower learning rate.'
    )
  return np.clip(images * 255 + 0.5, 0, 255).astype(np.uint8)


def to_rgb(images: jax.Array) -> jax.Array:
  """Repeats grey images [..., 1] to three channels; RGB passes unchanged."""
  if images.shape[-1] not in (1, 3):
    raise ValueError(f'Images have 1 or 3 channels, not {images.shape[-1]}.')
  return jnp.broadcast_to(images, (*images.shape[:-1], 3))


def _resize_axis(x: jax.Array, size: int, axis: int) -> jax.Array:
  length = x.shape[axis]
  # Pixel centres at half-integers; beyond the outer centres the edge repeats.
  source = (np.arange(size) + 0.5) * (length / size) - 0.5
  source = np.clip(source, 0, length - 1)
  low = np.floor(source).astype(int)
  high = np.minimum(low + 1, length - 1)
  shape = [1] * x.ndim
  shape[axis] = size
  fraction = (source - low).astype(np.float32).reshape(shape)
  return (1 - fraction) * jnp.take(x, low, axis) + fraction * jnp.take(x, high, axis)


def resize_bilinear(images: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Interpolates floats [B, H, W, C] to [B, *size, C], bilinear, not antialiased.

  Equals `torch.nn.functional.interpolate(mode='bilinear', align_corners=False)`.
  Interpolates rather than multiplying by a weight matrix: no reduced-precision
  product on accelerators.
  """
  return _resize_axis(_resize_axis(images, size[0], 1), size[1], 2)


def inception_input(images: jax.Array) -> jax.Array:
  """Maps uint8 images [B, H, W, 1 or 3] to floats in [-1, 1], [B, 299, 299, 3]."""
  if images.dtype != jnp.uint8:
    raise ValueError(f'Quantize images first: they are {images.dtype}, not uint8.')
  images = to_rgb(images).astype(jnp.float32) / 255
  return 2 * resize_bilinear(images, INCEPTION_SIZE) - 1


@jax.jit
def _features(variables, images):
  return inception.InceptionV3().apply(variables, inception_input(images))


def inception_features(
  variables: dict, images: np.ndarray, *, batch_size: int = 64
) -> np.ndarray:
  """Pool3 features, float32 [N, 2048], of images [N, H, W, 1 or 3]; see `quantize`.

  `variables` are those of `mmsbm.nn.inception.load_inception`. The result does not
  depend on the number of images at once, `batch_size`.
  """
  features = [np.zeros((0, inception.NUM_FEATURES), np.float32)]
  for start in range(0, len(images), batch_size):
    batch = quantize(images[start : start + batch_size])
    padding = [(0, batch_size - len(batch))] + [(0, 0)] * 3
    output = _features(variables, np.pad(batch, padding))
    features.append(np.asarray(output)[: len(batch)])
  return np.concatenate(features)
