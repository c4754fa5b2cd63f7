"""Decoders: latents z [B, d] to the parameters of a likelihood [B, *shape]."""

import math

import flax.linen as nn
import jax

from mmsbm.nn import blocks
from mmsbm.nn.encoders import check_width


class ResNetDecoder(nn.Module):
  """The published convolutional decoder; see `encoders.ResNetEncoder`.

  Dense, *ReLU*, then the blocks, one more block that keeps the size (always leaky
  ReLU), a 5x5 convolution. It starts at twice the encoder's last resolution.

  CelebAMask-HQ: blocks ((512, 512, 256, 2), (256, 256, 128, 2), (128, 128, 64, 2))
  for images, ((256, 256, 128, 4), (128, 128, 64, 4)) for masks, activation
  'exact_gelu', upsample 'bilinear', output 'sigmoid'.

  Attributes:
    shape: (H, W, C) of the modality.
    blocks: (in, mid, out, upsampling factor) of each block.
    pad: pixels computed on each side and cropped.
    activation: of the blocks, key of blocks.ACTIVATIONS.
    upsample: 'nearest' or 'bilinear'.
    output: 'linear' or 'sigmoid'.
  """

  shape: tuple[int, int, int]
  blocks: tuple[tuple[int, int, int, int], ...] = (
    (256, 128, 128, 2),
    (128, 128, 64, 2),
    (64, 64, 64, 2),
  )
  pad: int = 0
  activation: str = 'leaky_relu'
  upsample: str = 'nearest'
  output: str = 'linear'

  @nn.compact
  def __call__(self, z: jax.Array, train: bool) -> jax.Array:
    """Maps z [B, d] to [B, H, W, C]."""
    rate = math.prod(block[3] for block in self.blocks)
    if len(self.shape) != 3 or any((n + 2 * self.pad) % rate for n in self.shape[:2]):
      raise blocks.ShapeError(
        f'Decoder resnet multiplies height and width by {rate} and cannot give shape '
        f'{tuple(self.shape)} with pad={self.pad}: set `pad` so that it can.'
      )
    if self.output not in ('linear', 'sigmoid'):
      raise blocks.ShapeError(f"output={self.output!r}: use 'linear' or 'sigmoid'.")
    h, w = ((n + 2 * self.pad) // rate for n in self.shape[:2])
    start = self.blocks[0][0]
    x = nn.relu(blocks.linear(z, h * w * start, name='latent'))
    x = x.reshape(-1, h, w, start)
    for i, (width, mid, out, up) in enumerate(self.blocks):
      check_width(width, x)
      x = blocks.ResidualBlock(
        mid,
        out,
        up=up,
        activation=self.activation,
        upsample_method=self.upsample,
        name=f'block_{i}',
      )(x, train)
    out = x.shape[-1]
    x = blocks.ResidualBlock(out, out, name='last_block')(x, train)
    x = blocks.conv(x, self.shape[2], 5, name='output')
    if self.pad:
      x = x[:, self.pad : -self.pad, self.pad : -self.pad]
    return nn.sigmoid(x) if self.output == 'sigmoid' else x


class MLPDecoder(nn.Module):
  """Perceptron with linear output.

  Published for attributes: widths (512, 512, 512, 256, 128), norm 'batch',
  activation 'relu'.

  Attributes:
    shape: of the modality.
    widths: hidden sizes.
    norm: 'none', 'layer' or 'batch', before each activation.
    activation: key of blocks.ACTIVATIONS.
    linear: adds a linear function of the latent.
  """

  shape: tuple[int, ...]
  widths: tuple[int, ...] = (256, 256)
  norm: str = 'none'
  activation: str = 'gelu'
  linear: bool = False

  @nn.compact
  def __call__(self, z: jax.Array, train: bool) -> jax.Array:
    """Maps z [B, d] to [B, *shape]."""
    h = blocks.MLPStack(self.widths, self.norm, self.activation, name='stack')(z, train)
    out = nn.Dense(math.prod(self.shape), name='output')(h)
    if self.linear:
      out += nn.Dense(math.prod(self.shape), name='linear')(z)
    return out.reshape(-1, *self.shape)


class PatchDecoder(nn.Module):
  """Mirror image of `encoders.PatchEncoder`: one Dense, mixing layers, patches.

  Attributes:
    shape: (H, W, C) of the modality.
    patch: side of a patch; must divide height and width.
    width: channels of a token.
    num_layers: mixing layers.
    expansion: hidden size of a mixing layer over its input size.
    activation: of the mixing layers, key of blocks.ACTIVATIONS.
  """

  shape: tuple[int, int, int]
  patch: int = 4
  width: int = 64
  num_layers: int = 2
  expansion: int = 2
  activation: str = 'gelu'

  @nn.compact
  def __call__(self, z: jax.Array, train: bool) -> jax.Array:
    """Maps z [B, d] to [B, H, W, C]."""
    del train
    count = blocks.num_patches(self.shape, self.patch)
    # The bias of this layer is the position embedding of the tokens.
    x = nn.Dense(count * self.width, name='latent')(z)
    x = x.reshape(-1, count, self.width)
    for i in range(self.num_layers):
      x = blocks.MixerBlock(self.expansion, self.activation, name=f'mix_{i}')(x)
    x = nn.Dense(self.patch**2 * self.shape[2], name='output')(nn.LayerNorm()(x))
    return blocks.depth_to_space(x, self.shape, self.patch)


DECODERS = {
  'mlp': MLPDecoder,
  'patch': PatchDecoder,
  'resnet': ResNetDecoder,
}
