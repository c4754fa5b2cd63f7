"""Encoders: x [B, *shape] to a diagonal Gaussian (mean, log_var), each [B, d]."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmsbm.nn import blocks
from mmsbm.nn.batch_norm import BatchNorm


class ResNetEncoder(nn.Module):
  """The published convolutional encoder.

  The defaults are PolyMNIST's, with `pad=2`. Mean and log_var are linear in
  *different halves* of the last channels. Together with the decoder it has
  2,417,475 parameters; the 2.43 M of the published program count 12,288 more: the
  1x1 convolutions that it allocates in blocks with an identity skip, never used.

  CelebAMask-HQ: blocks ((64, 128, 128, 2), (128, 256, 256, 2), (256, 512, 512, 2))
  for images, ((64, 128, 128, 4), (128, 256, 256, 4)) for masks, latent_dim 256,
  activation 'exact_gelu', stem_slope 0.1.

  Attributes:
    latent_dim: d.
    stem: channels after the first convolution.
    blocks: (in, mid, out, pooling factor) of each block; `in` is what the block
      before gives, and is only checked.
    pad: zeros added on each side of the image.
    activation: of the blocks, key of blocks.ACTIVATIONS.
    stem_slope: of the leaky ReLU after the first convolution.
  """

  latent_dim: int
  stem: int = 64
  blocks: tuple[tuple[int, int, int, int], ...] = (
    (64, 64, 64, 2),
    (64, 128, 128, 2),
    (128, 256, 256, 2),
  )
  pad: int = 0
  activation: str = 'leaky_relu'
  stem_slope: float = 0.2

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
    """Maps x [B, H, W, C] to mean and log_var, each [B, d]."""
    rate = 2 * math.prod(block[3] for block in self.blocks)
    if x.ndim != 4 or any((n + 2 * self.pad) % rate for n in x.shape[1:3]):
      raise blocks.ShapeError(
        f'Encoder resnet divides height and width by {rate} and cannot take shape '
        f'{x.shape[1:]} with pad={self.pad}: set `pad` so that it can.'
      )
    x = jnp.pad(x, ((0, 0), (self.pad, self.pad), (self.pad, self.pad), (0, 0)))
    x = BatchNorm(name='stem_norm')(blocks.conv(x, self.stem, 5, name='stem'), train)
    x = blocks.average_pool(nn.leaky_relu(x, negative_slope=self.stem_slope), 2)
    for i, (width, mid, out, down) in enumerate(self.blocks):
      check_width(width, x)
      x = blocks.ResidualBlock(
        mid, out, down=down, activation=self.activation, name=f'block_{i}'
      )(x, train)
    mean, log_var = jnp.split(x, 2, axis=-1)
    mean, log_var = (h.reshape(h.shape[0], -1) for h in (mean, log_var))
    return (
      blocks.linear(mean, self.latent_dim, name='mean'),
      blocks.linear(log_var, self.latent_dim, name='log_var'),
    )


def check_width(width: int, x: jax.Array) -> None:
  """Raises if a block of the configuration does not fit the one before."""
  if x.shape[-1] != width:
    raise blocks.ShapeError(
      f'A resnet block expects {width} channels and gets {x.shape[-1]}: make the '
      'first number of each block the third of the one before.'
    )


def gaussian_heads(h: jax.Array, latent_dim: int) -> tuple[jax.Array, jax.Array]:
  """Mean and log_var [B, d] from features h [B, F]; unit variance at first."""
  log_var = nn.Dense(latent_dim, kernel_init=nn.initializers.zeros, name='log_var')
  return nn.Dense(latent_dim, name='mean')(h), log_var(h)


class MLPEncoder(nn.Module):
  """Perceptron on flattened inputs: vectors, labels, attributes, small images.

  Published for attributes: widths (128, 256, 512, 512, 512), norm 'batch',
  activation 'relu', latent_dim 256.

  Attributes:
    latent_dim: d.
    widths: hidden sizes.
    norm: 'none', 'layer' or 'batch', before each activation.
    activation: key of blocks.ACTIVATIONS.
    linear: adds a linear function of the input to the mean.
  """

  latent_dim: int
  widths: tuple[int, ...] = (256, 256)
  norm: str = 'none'
  activation: str = 'gelu'
  linear: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
    """Maps x [B, ...] to mean and log_var, each [B, d]."""
    x = x.reshape(x.shape[0], -1)
    h = blocks.MLPStack(self.widths, self.norm, self.activation, name='stack')(x, train)
    mean, log_var = gaussian_heads(h, self.latent_dim)
    if self.linear:
      mean += nn.Dense(self.latent_dim, name='linear')(x)
    return mean, log_var


class PatchEncoder(nn.Module):
  """Patches, mixing layers, one Dense: images on a CPU, no convolutions.

  Attributes:
    latent_dim: d.
    patch: side of a patch; must divide height and width.
    width: channels of a token.
    num_layers: mixing layers.
    expansion: hidden size of a mixing layer over its input size.
    activation: of the mixing layers, key of blocks.ACTIVATIONS.
  """

  latent_dim: int
  patch: int = 4
  width: int = 64
  num_layers: int = 2
  expansion: int = 2
  activation: str = 'gelu'

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
    """Maps x [B, H, W, C] to mean and log_var, each [B, d]."""
    del train
    trunk = blocks.PatchTrunk(
      self.patch, self.width, self.num_layers, self.expansion, self.activation
    )
    return gaussian_heads(trunk(x), self.latent_dim)


ENCODERS = {
  'mlp': MLPEncoder,
  'patch': PatchEncoder,
  'resnet': ResNetEncoder,
}
