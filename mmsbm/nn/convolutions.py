"""Convolutions in forms that XLA's CPU backend computes fast; the values are the same.

That backend brings a convolution into its fast form only outside of loops and only if
it is written canonically; every other one is a naive loop, 50 to 100 times slower. The
gradients that JAX derives are not canonical, and training is a loop. On other backends
nothing is changed.
"""

import contextlib
import contextvars
import functools
import math
from collections.abc import Iterator, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

NHWC = ('NHWC', 'HWIO', 'NHWC')
# Largest picture, in pixels, for which a depthwise convolution is one product.
_DENSE_PIXELS = 256

_written_out = contextvars.ContextVar('gradients of convolutions', default=False)


@contextlib.contextmanager
def canonical_gradients() -> Iterator[None]:
  """Writes the gradients of convolutions out; for code that takes one reverse gradient.

  What is traced inside cannot be differentiated forward, nor twice.
  """
  token = _written_out.set(True)
  try:
    yield
  finally:
    _written_out.reset(token)


def general_dilated(
  x: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  *,
  feature_group_count: int = 1,
  **options,
) -> jax.Array:
  """`jax.lax.conv_general_dilated` of images, for `nn.Conv.conv_general_dilated`.

  Args:
    x: [B, H, W, C].
    kernel: [h, w, C / groups, C'].
    strides: of height and width.
    padding: 'SAME', 'VALID' or zeros before and after.
    feature_group_count: groups of channels.
    **options: dilations, precision and so on; with any that is set, nothing is changed.

  Returns:
    [B, H', W', C'].
  """
  numbers = options.pop('dimension_numbers')
  plain = {k: v for k, v in options.items() if v not in (None, (1, 1))}
  if jax.default_backend() != 'cpu' or plain:
    return jax.lax.conv_general_dilated(
      x, kernel, strides, padding, feature_group_count=feature_group_count,
      dimension_numbers=numbers, **options,
    )  # fmt: skip
  strides = tuple(strides)
  if isinstance(padding, str):
    padding = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
  pads = tuple((int(low), int(high)) for low, high in padding)
  is_pointwise = kernel.shape[:2] == strides == (1, 1) and pads == ((0, 0), (0, 0))
  if is_pointwise and feature_group_count == 1:
    return x @ kernel[0, 0]
  is_depthwise = feature_group_count == x.shape[-1] == kernel.shape[-1]
  if is_depthwise and strides == (1, 1) and x.shape[1] * x.shape[2] <= _DENSE_PIXELS:
    return _depthwise(x, kernel, pads)
  if feature_group_count == 1:
    inputs, outputs = math.prod(kernel.shape[:3]), kernel.shape[3]
    if min(x.shape[1:3]) < max(kernel.shape[:2]) or inputs <= outputs:
      return _as_product(x, kernel, strides, pads)
    if _written_out.get():
      return _canonical(x, kernel, strides, pads)
  return _convolve(x, kernel, strides, pads, feature_group_count)


def _convolve(x, kernel, strides, pads, groups=1, dilation=(1, 1)):
  return jax.lax.conv_general_dilated(
    x, kernel, strides, pads, lhs_dilation=dilation, dimension_numbers=NHWC,
    feature_group_count=groups,
  )  # fmt: skip


def _taps(x, size: Sequence[int], strides, pads) -> list[list[jax.Array]]:
  """What each place of a kernel sees of x: size[0] rows of size[1] [B, H', W', C]."""
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  out = [(n - k) // s + 1 for n, k, s in zip(x.shape[1:3], size, strides, strict=True)]
  (s, t), (h, w) = strides, ((n - 1) * s + 1 for n, s in zip(out, strides, strict=True))
  return [
    [x[:, i : i + h : s, j : j + w : t] for j in range(size[1])] for i in range(size[0])
  ]


def _as_product(x, kernel, strides, pads):
  """One matrix product: for small pictures, and where that takes no more memory."""
  rows = _taps(x, kernel.shape[:2], strides, pads)
  columns = jnp.concatenate([tap for row in rows for tap in row], axis=-1)
  return columns @ kernel.reshape(-1, kernel.shape[-1])


def _depthwise(x, kernel, pads):
  """One product for each channel with the [H W, H' W'] matrix of its kernel."""
  b, h, w, c = x.shape
  rows, columns = (
    _band(n, k, pad) for n, k, pad in zip((h, w), kernel.shape[:2], pads, strict=True)
  )
  matrix = jnp.einsum('hai,wbj,ijc->chwab', rows, columns, kernel[:, :, 0])
  matrix = matrix.reshape(c, h * w, -1)
  y = jnp.einsum('bpc,cpq->bqc', x.reshape(b, h * w, c), matrix)
  return y.reshape(b, rows.shape[1], columns.shape[1], c)


def _band(size: int, taps: int, pad: tuple[int, int]) -> np.ndarray:
  """[from, to, tap]: 1 where a place of the kernel takes `from` to `to`."""
  out = size + sum(pad) - taps + 1
  source, to, tap = np.ogrid[:size, :out, :taps]
  return (source + pad[0] == to + tap).astype(np.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _canonical(x, kernel, strides, pads):
  return _convolve(x, kernel, strides, pads)


def _forward(x, kernel, strides, pads):
  return _convolve(x, kernel, strides, pads), (x, kernel)


def _backward(strides, pads, saved, dy):
  x, kernel = saved
  before = [k - 1 - low for k, (low, _) in zip(kernel.shape, pads, strict=False)]
  spread = [(n - 1) * s + 1 for n, s in zip(dy.shape[1:3], strides, strict=True)]
  around = [
    (b, n - s - b + k - 1)
    for b, n, s, k in zip(before, x.shape[1:3], spread, kernel.shape, strict=False)
  ]
  turned = kernel[::-1, ::-1].swapaxes(2, 3)
  dx = _convolve(dy, turned, (1, 1), around, dilation=strides)
  # A row of the kernel at a time: one product, without k^2 copies of x at once.
  flat = dy.reshape(-1, dy.shape[-1])
  rows = [
    jnp.concatenate(row, axis=-1) for row in _taps(x, kernel.shape[:2], strides, pads)
  ]
  dw = jnp.stack([row.reshape(-1, row.shape[-1]).T @ flat for row in rows])
  return dx, dw.reshape(kernel.shape)


_canonical.defvjp(_forward, _backward)


class ConvTranspose(nn.Module):
  """PyTorch's transposed convolution of kernel 4, stride 2 and padding 1.

  Each of the four phases of the output is a convolution of 2 x 2. Parameters are those
  of `nn.ConvTranspose`.

  Attributes:
    features: output channels.
    kernel_init: of the kernel.
    bias_init: of the bias.
    use_bias: whether there is one.
  """

  features: int
  kernel_init: nn.initializers.Initializer
  bias_init: nn.initializers.Initializer
  use_bias: bool = True

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x [B, H, W, C] to [B, 2 H, 2 W, features]."""
    b, h, w, c = x.shape
    kernel = self.param('kernel', self.kernel_init, (4, 4, c, self.features))

    def phase(r, q):
      # Row 2 i + r of the output sees rows i - 1 + r and i + r of x.
      pads = ((1 - r, r), (1 - q, q))
      part = kernel[r::2, q::2]
      return general_dilated(x, part, (1, 1), pads, dimension_numbers=NHWC)

    rows = [jnp.stack([phase(r, 0), phase(r, 1)], axis=3) for r in (0, 1)]
    y = jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, self.features)
    if self.use_bias:
      y = y + self.param('bias', self.bias_init, (self.features,))
    return y
