"""Parts that several networks share.

Images are [B, H, W, C]. `linear` and `conv` create a layer of the module that is
being applied, with PyTorch's default initialisation, which the published networks
rely on; networks of our own use the Flax defaults.
"""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmsbm.infra.errors import UserError
from mmsbm.nn import convolutions
from mmsbm.nn.batch_norm import BatchNorm

# Sinusoids as in diffusion models of 1000 steps: times in [0, 1] fill the range of
# frequencies. The published U-Net embeds the raw time instead.
TIME_SCALE = 1000.0


class ShapeError(UserError, ValueError):
  """A network that cannot take the shape that it was configured with."""


def leaky_relu(x: jax.Array) -> jax.Array:
  """Leaky ReLU with the slope 0.2 of the published autoencoders (Flax has 0.01)."""
  return nn.leaky_relu(x, negative_slope=0.2)


def exact_gelu(x: jax.Array) -> jax.Array:
  """GELU with the error function, as in PyTorch (Flax approximates by tanh)."""
  return nn.gelu(x, approximate=False)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'exact_gelu': exact_gelu,
  'gelu': nn.gelu,
  'leaky_relu': leaky_relu,
  'relu': nn.relu,
}

# Variance 1 / (3 fan_in), that is U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
torch_kernel_init = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def torch_bias_init(fan_in: int) -> Callable[..., jax.Array]:
  """Returns an initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
  limit = fan_in**-0.5

  def init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -limit, limit)

  return init


def linear(
  x: jax.Array, features: int, *, use_bias: bool = True, name: str | None = None
) -> jax.Array:
  """A Dense layer with PyTorch's default initialisation."""
  return nn.Dense(
    features,
    use_bias=use_bias,
    kernel_init=torch_kernel_init,
    bias_init=torch_bias_init(x.shape[-1]),
    name=name,
  )(x)


def conv(
  x: jax.Array,
  features: int,
  size: int,
  *,
  stride: int = 1,
  padding: int | None = None,
  groups: int = 1,
  use_bias: bool = True,
  transpose: bool = False,
  name: str | None = None,
) -> jax.Array:
  """A square convolution with PyTorch's padding and default initialisation.

  Args:
    x: [B, H, W, C].
    features: output channels.
    size: side of the kernel.
    stride: step, or upsampling factor of a transposed convolution.
    padding: zeros on *each* side; size // 2 when None. Flax's 'SAME' would pad a
      strided convolution on one side only. Not used if `transpose`.
    groups: feature groups.
    use_bias: whether to add a bias.
    transpose: transposed convolution; 'SAME' is PyTorch's kernel 4, stride 2,
      padding 1.
    name: of the layer.

  Returns:
    [B, H', W', features].
  """
  pad = size // 2 if padding is None else padding
  common = {
    'features': features,
    'use_bias': use_bias,
    'kernel_init': torch_kernel_init,
    'bias_init': torch_bias_init(size * size * x.shape[-1] // groups),
    'name': name,
  }
  if transpose and (size, stride) == (4, 2) and jax.default_backend() == 'cpu':
    return convolutions.ConvTranspose(**common)(x)
  common |= {'kernel_size': (size, size), 'strides': (stride, stride)}
  if transpose:
    return nn.ConvTranspose(padding='SAME', **common)(x)
  return nn.Conv(
    padding=((pad, pad), (pad, pad)),
    feature_group_count=groups,
    conv_general_dilated=convolutions.general_dilated,
    **common,
  )(x)


def average_pool(x: jax.Array, rate: int) -> jax.Array:
  """Means of disjoint rate x rate squares of x [B, H, W, C]."""
  b, h, w, c = x.shape
  return x.reshape(b, h // rate, rate, w // rate, rate, c).mean((2, 4))


def upsample(x: jax.Array, rate: int, method: str = 'nearest') -> jax.Array:
  """Enlarges x [B, H, W, C] `rate` times; 'nearest', or 'bilinear' (half pixel)."""
  if method == 'nearest':
    # What `resize` gives, without its gather, whose gradient is 30 times slower on CPU.
    return x.repeat(rate, axis=1).repeat(rate, axis=2)
  b, h, w, c = x.shape
  return jax.image.resize(x, (b, h * rate, w * rate, c), method=method)


class ResidualBlock(nn.Module):
  """The published autoencoders' block: y = act(skip(x) + BN conv act BN conv x).

  Pooling or upsampling follows the last activation. The skip is the identity, or
  a 1x1 convolution if the number of channels changes.

  Attributes:
    mid: channels between the two 3x3 convolutions.
    out: output channels.
    down: average-pooling factor.
    up: upsampling factor.
    activation: key of ACTIVATIONS.
    upsample_method: 'nearest' or 'bilinear'.
  """

  mid: int
  out: int
  down: int = 1
  up: int = 1
  activation: str = 'leaky_relu'
  upsample_method: str = 'nearest'

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps x [B, H, W, C] to [B, H * up / down, W * up / down, out]."""
    act = ACTIVATIONS[self.activation]
    h = conv(x, self.mid, 3, use_bias=False, name='conv_0')
    h = act(BatchNorm(name='norm_0')(h, train))
    h = conv(h, self.out, 3, use_bias=False, name='conv_1')
    h = BatchNorm(name='norm_1')(h, train)
    if x.shape[-1] != self.out:
      x = conv(x, self.out, 1, use_bias=False, name='skip')
    h = act(x + h)
    if self.down > 1:
      h = average_pool(h, self.down)
    if self.up > 1:
      h = upsample(h, self.up, self.upsample_method)
    return h


def sinusoidal_embedding(t: jax.Array, dim: int) -> jax.Array:
  """Embeds t [...] as sin(t f_i) || cos(t f_i), [..., dim].

  Frequencies f_i = 10000^(-i / (dim/2 - 1)), i = 0 .. dim/2 - 1.
  """
  half = dim // 2
  frequencies = jnp.exp(-math.log(1e4) / (half - 1) * jnp.arange(half))
  angles = t[..., None] * frequencies
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def modulation(condition: jax.Array, width: int, num: int) -> Sequence[jax.Array]:
  """`num` vectors [..., width] from a condition; all zero at initialisation."""
  dense = nn.Dense(num * width, kernel_init=nn.initializers.zeros, name='modulation')
  return jnp.split(dense(condition), num, axis=-1)


def adaptive_norm(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
  """Layer norm whose shift and (1 + scale) come from outside (adaLN, DiT)."""
  return nn.LayerNorm(use_scale=False, use_bias=False)(x) * (1 + scale) + shift


def num_patches(shape: Sequence[int], patch: int) -> int:
  """Number of patch x patch squares in an image of shape (H, W, C)."""
  if len(shape) != 3 or shape[0] % patch or shape[1] % patch:
    raise ShapeError(
      f'Shape {tuple(shape)} cannot be cut into {patch}x{patch} patches: use a '
      '`patch` that divides height and width, or a network named mlp.'
    )
  return (shape[0] // patch) * (shape[1] // patch)


def space_to_depth(x: jax.Array, patch: int) -> jax.Array:
  """Cuts x [B, H, W, C] into tokens [B, H W / patch^2, patch^2 C], row by row."""
  b, h, w, c = x.shape
  x = x.reshape(b, h // patch, patch, w // patch, patch, c).swapaxes(2, 3)
  return x.reshape(b, -1, patch * patch * c)


def depth_to_space(x: jax.Array, shape: Sequence[int], patch: int) -> jax.Array:
  """Inverse of `space_to_depth`: tokens to images [B, *shape]."""
  h, w, c = shape
  x = x.reshape(-1, h // patch, w // patch, patch, patch, c).swapaxes(2, 3)
  return x.reshape(-1, h, w, c)


def _two_layers(
  x: jax.Array,
  expansion: int,
  act: Callable[[jax.Array], jax.Array],
  name: str,
  out_init: nn.initializers.Initializer = nn.linear.default_kernel_init,
) -> jax.Array:
  """A perceptron of the module that is being applied, over the last axis of x."""
  size = x.shape[-1]
  h = act(nn.Dense(expansion * size, name=f'{name}_in')(x))
  return nn.Dense(size, kernel_init=out_init, name=f'{name}_out')(h)


class MixerBlock(nn.Module):
  """Mixes tokens, then channels, each a residual MLP (arXiv 2105.01601, eq. 1).

  Only matrix products: on a CPU the gradients of XLA's strided and transposed
  convolutions cost many times what their arithmetic does.

  Attributes:
    expansion: hidden size of both MLPs over their input size.
    activation: key of ACTIVATIONS.
  """

  expansion: int = 2
  activation: str = 'gelu'

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps tokens x [B, N, W] to the same shape."""
    act = ACTIVATIONS[self.activation]
    h = nn.LayerNorm()(x).swapaxes(1, 2)
    x = x + _two_layers(h, self.expansion, act, 'tokens').swapaxes(1, 2)
    return x + _two_layers(nn.LayerNorm()(x), self.expansion, act, 'channels')


class ConditionedMixerBlock(nn.Module):
  """A MixerBlock whose norms and gates follow a condition; the identity at first.

  Attributes:
    expansion: hidden size of both MLPs over their input size.
    dropout: rate on both branches.
  """

  expansion: int
  dropout: float

  @nn.compact
  def __call__(self, x: jax.Array, condition: jax.Array, train: bool) -> jax.Array:
    """Maps tokens x [B, N, W] and a condition [B, C] to [B, N, W]."""
    shift_0, scale_0, gate_0, shift_1, scale_1, gate_1 = modulation(
      condition[:, None], x.shape[-1], 6
    )
    drop = nn.Dropout(self.dropout, deterministic=not train)
    zeros = nn.initializers.zeros
    h = adaptive_norm(x, shift_0, scale_0).swapaxes(1, 2)
    h = _two_layers(h, self.expansion, nn.gelu, 'tokens', zeros).swapaxes(1, 2)
    x = x + (1 + gate_0) * drop(h)
    h = adaptive_norm(x, shift_1, scale_1)
    h = _two_layers(h, self.expansion, nn.gelu, 'channels', zeros)
    return x + (1 + gate_1) * drop(h)


class ConditionedMLP(nn.Module):
  """x + (1 + gate) MLP(LayerNorm(x) (1 + scale) + shift); the identity at first.

  Gate, scale and shift come from a condition.

  Attributes:
    expansion: hidden size over the width of x.
    dropout: rate on the hidden layer.
  """

  expansion: int
  dropout: float

  @nn.compact
  def __call__(self, x: jax.Array, condition: jax.Array, train: bool) -> jax.Array:
    """Maps x [B, W] and a condition [B, C] to [B, W]."""
    width = x.shape[-1]
    shift, scale, gate = modulation(condition, width, 3)
    h = adaptive_norm(x, shift, scale)
    h = nn.gelu(nn.Dense(self.expansion * width, name='in')(h))
    h = nn.Dropout(self.dropout, deterministic=not train)(h)
    # Zero here and 1 + gate below: were both factors 0, neither would learn.
    h = nn.Dense(width, kernel_init=nn.initializers.zeros, name='out')(h)
    return x + (1 + gate) * h


class PatchTrunk(nn.Module):
  """Image -> tokens -> mixing layers -> flat features.

  Attributes:
    patch: side of a patch; must divide height and width.
    width: channels of a token.
    num_layers: number of MixerBlocks.
    expansion: of the MixerBlocks.
    activation: of the MixerBlocks, key of ACTIVATIONS.
  """

  patch: int
  width: int
  num_layers: int
  expansion: int = 2
  activation: str = 'gelu'

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x [B, H, W, C] to [B, N * width], N the number of patches."""
    count = num_patches(x.shape[1:], self.patch)
    x = nn.Dense(self.width, name='embed')(space_to_depth(x, self.patch))
    position_init = nn.initializers.normal(0.02)
    x = x + self.param('position', position_init, (count, self.width))
    for i in range(self.num_layers):
      x = MixerBlock(self.expansion, self.activation, name=f'mix_{i}')(x)
    return nn.LayerNorm()(x).reshape(x.shape[0], -1)


class MLPStack(nn.Module):
  """Hidden layers of a multilayer perceptron.

  Attributes:
    widths: size of each layer.
    norm: before the activation: 'none', 'layer', or 'batch' (published).
    activation: key of ACTIVATIONS.
  """

  widths: tuple[int, ...]
  norm: str = 'none'
  activation: str = 'gelu'

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps x [B, F] to [B, widths[-1]]."""
    if self.norm not in ('none', 'layer', 'batch'):
      raise ShapeError(f"norm={self.norm!r}: choose from 'none', 'layer', 'batch'.")
    for width in self.widths:
      x = nn.Dense(width)(x)
      if self.norm == 'layer':
        x = nn.LayerNorm()(x)
      elif self.norm == 'batch':
        x = BatchNorm()(x, train)
      x = ACTIVATIONS[self.activation](x)
    return x
