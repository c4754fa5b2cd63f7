"""Features of pictures that no class was trained on: a fixed random network.

Features of a classifier see what tells classes apart and little else. Random
convolutions see shapes and colours of all sorts. The size of a distance on them means
nothing by itself: compare it with that of real examples.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

WIDTHS = (16, 32, 16)


def random_weights(
  channels: int, seed: int, widths: Sequence[int] = WIDTHS
) -> dict[str, np.ndarray]:
  """Draws kernels {'conv_i': [3, 3, in, out]}, normal with variance 2 / (9 in).

  They are a function of the arguments alone: NumPy's streams do not depend on versions
  and switches of JAX.
  """
  rng, out = np.random.default_rng(seed), {}
  for i, width in enumerate(widths):
    std = np.sqrt(2 / (9 * channels))
    kernel = std * rng.standard_normal((3, 3, channels, width))
    out[f'conv_{i}'], channels = kernel.astype(np.float32), width
  return out


def random_features(weights: dict[str, jax.Array], x: jax.Array) -> jax.Array:
  """Features [B, 4 C] of pictures x [B, H, W, channels], as networks see them.

  After each convolution follow ReLU and, while there are 4 pixels, the mean over 2 x 2
  of them; last the mean over each quarter of the picture of the C channels.
  """
  for i in range(len(weights)):
    x = jax.lax.conv_general_dilated(
      x, weights[f'conv_{i}'], (1, 1), 'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      precision=jax.lax.Precision.HIGHEST,
    )  # fmt: skip
    x = jnp.maximum(x, 0.0)
    if min(x.shape[1:3]) >= 4:
      height, width = (side // 2 * 2 for side in x.shape[1:3])
      x = x[:, :height, :width]
      x = x.reshape(len(x), height // 2, 2, width // 2, 2, -1).mean((2, 4))
  height, width = x.shape[1:3]
  halves = [
    [slice(0, -(-side // 2)), slice(side // 2, side)] for side in (height, width)
  ]
  quarters = [x[:, rows, columns].mean((1, 2)) for rows in halves[0]
              for columns in halves[1]]  # fmt: skip
  return jnp.concatenate(quarters, axis=1)
