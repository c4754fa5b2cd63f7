"""Networks of the diffusion decoder: one noisy example, its noise level, a latent.

Every network maps x [B, *shape], log noise levels t [B] and latents z [B, d] to
[B, *shape]. What the output means is the parametrisation's business; it is 0 at first,
so that with `edm` the first denoiser is the linear one. t = log(sigma / alpha) means
the same for every SDE, which a time does not.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmsbm.nn import blocks, convolutions

# Sinusoids of log noise levels, which lie in about [-7, 5]: the fastest turns once in
# 0.8, the slow ones are as good as linear.
_LEVEL_SCALE = 8.0

_conv = functools.partial(
  nn.Conv, kernel_size=(3, 3), conv_general_dilated=convolutions.general_dilated
)

_DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


def _check_shape(x: jax.Array, shape: tuple[int, ...]) -> None:
  if x.shape[1:] != tuple(shape):
    raise blocks.ShapeError(
      f'A denoiser of examples of shape {tuple(shape)} was given {x.shape[1:]}.'
    )


class _Condition(nn.Module):
  """Noise level and latent condensed to the vector that modulates the blocks.

  Attributes:
    width: its size.
    level_features: size of the embedding of the noise level.
  """

  width: int
  level_features: int

  @nn.compact
  def __call__(self, t: jax.Array, z: jax.Array) -> jax.Array:
    """Maps t [B] and z [B, d] to [B, width]."""
    level = blocks.sinusoidal_embedding(_LEVEL_SCALE * t, self.level_features)
    h = jnp.concatenate([level, z], axis=-1)
    h = nn.gelu(nn.Dense(self.width, name='in')(h))
    return nn.gelu(nn.Dense(self.width, name='out')(h))


class MLPDenoiser(nn.Module):
  """Residual perceptron, for vectors and small images.

  Attributes:
    shape: of the modality, any.
    width: channels.
    num_blocks: residual blocks.
    expansion: hidden size of a block over `width`.
    condition_width: size of the vector that modulates the blocks.
    level_features: size of the embedding of the noise level.
    dropout: rate inside the blocks.
  """

  shape: tuple[int, ...]
  width: int = 512
  num_blocks: int = 3
  expansion: int = 1
  condition_width: int = 128
  level_features: int = 32
  dropout: float = 0.0

  @nn.compact
  def __call__(
    self, x: jax.Array, t: jax.Array, z: jax.Array, train: bool
  ) -> jax.Array:
    """Maps x [B, *shape], t [B], z [B, d] to [B, *shape]."""
    _check_shape(x, self.shape)
    flat = x.reshape(x.shape[0], -1)
    condition = _Condition(self.condition_width, self.level_features)(t, z)
    h = nn.Dense(self.width, name='input')(jnp.concatenate([flat, z], axis=-1))
    for i in range(self.num_blocks):
      h = blocks.ConditionedMLP(self.expansion, self.dropout, name=f'block_{i}')(
        h, condition, train
      )
    zeros = nn.initializers.zeros
    out = nn.Dense(flat.shape[-1], kernel_init=zeros, name='output')(nn.LayerNorm()(h))
    # Noise that does not fit through `width` channels goes past them.
    gain = nn.Dense(1, kernel_init=zeros, name='gain')(condition)
    return (out + gain * flat).reshape(x.shape)


class PatchDenoiser(nn.Module):
  """Patches, mixing layers, patches: matrix products only, for CPUs.

  Attributes:
    shape: (H, W, C) of the modality.
    patch: side of a patch; must divide height and width.
    width: channels of a token.
    num_layers: mixing layers.
    expansion: hidden size of a mixing layer over its input size.
    latent_width: hidden size of the perceptron that makes tokens of the latent.
    condition_width: size of the vector that modulates the layers.
    level_features: size of the embedding of the noise level.
    dropout: rate inside the layers.
  """

  shape: tuple[int, int, int]
  patch: int = 4
  width: int = 64
  num_layers: int = 3
  expansion: int = 2
  latent_width: int = 256
  condition_width: int = 128
  level_features: int = 32
  dropout: float = 0.0

  @nn.compact
  def __call__(
    self, x: jax.Array, t: jax.Array, z: jax.Array, train: bool
  ) -> jax.Array:
    """Maps x [B, H, W, C], t [B], z [B, d] to [B, H, W, C]."""
    count = blocks.num_patches(self.shape, self.patch)
    _check_shape(x, self.shape)
    condition = _Condition(self.condition_width, self.level_features)(t, z)
    tokens = blocks.space_to_depth(x, self.patch)
    # What z says of a picture as a whole, as a feed-forward decoder has it. The bias
    # of the second layer is the position embedding of the tokens.
    latent = nn.gelu(nn.Dense(self.latent_width, name='latent_in')(z))
    latent = nn.Dense(count * self.width, name='latent_out')(latent)
    h = nn.Dense(self.width, use_bias=False, name='embed')(tokens)
    h = h + latent.reshape(-1, count, self.width)
    for i in range(self.num_layers):
      h = blocks.ConditionedMixerBlock(self.expansion, self.dropout, name=f'mix_{i}')(
        h, condition, train
      )
    zeros = nn.initializers.zeros
    out = nn.Dense(tokens.shape[-1], kernel_init=zeros, name='output')(
      nn.LayerNorm()(h)
    )
    # Noise that does not fit through `width` channels goes past them.
    gain = nn.Dense(1, kernel_init=zeros, name='gain')(condition)
    out = out + gain[:, None] * tokens
    return blocks.depth_to_space(out, self.shape, self.patch)


class _UNetBlock(nn.Module):
  """Two 3x3 convolutions, the second after an adaptive group norm; then attention.

  Both branches end in a layer that is 0 at initialisation.

  Attributes:
    features: output channels.
    num_groups: groups of the norms.
    num_heads: attention heads; 0 for a block without attention.
    dropout: rate before the second convolution.
    dtype: of the computation.
  """

  features: int
  num_groups: int
  num_heads: int
  dropout: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, condition: jax.Array, train: bool) -> jax.Array:
    """Maps x [B, H, W, C] and a condition [B, K] to [B, H, W, features]."""
    dtype, zeros = self.dtype, nn.initializers.zeros
    h = nn.swish(nn.GroupNorm(self.num_groups, dtype=dtype, name='norm_0')(x))
    h = _conv(self.features, dtype=dtype, name='conv_0')(h)
    shift, scale = (
      m[:, None, None].astype(dtype)
      for m in blocks.modulation(condition, self.features, 2)
    )
    h = nn.GroupNorm(
      self.num_groups, use_bias=False, use_scale=False, dtype=dtype, name='norm_1'
    )(h)
    h = nn.swish(h * (1 + scale) + shift)
    h = nn.Dropout(self.dropout, deterministic=not train)(h)
    h = _conv(self.features, dtype=dtype, kernel_init=zeros, name='conv_1')(h)
    if x.shape[-1] != self.features:
      x = nn.Dense(self.features, use_bias=False, dtype=dtype, name='skip')(x)
    x = x + h
    if not self.num_heads:
      return x
    h = nn.GroupNorm(self.num_groups, dtype=dtype, name='attention_norm')(x)
    h = h.reshape(h.shape[0], -1, self.features)
    h = nn.MultiHeadDotProductAttention(
      self.num_heads, dtype=dtype, out_kernel_init=zeros, name='attention'
    )(h)
    return x + h.reshape(x.shape)


class UNet(nn.Module):
  """Convolutional U-Net whose blocks are modulated by noise level and latent.

  Residual blocks with adaptive group norm and self-attention as in arXiv 2105.05233,
  the latent in it as in arXiv 2111.15640; the U has one skip per block. Between stages
  it averages pixels or repeats them: gradients of strided and transposed convolutions
  are slow on CPUs.

  28 px: pad=2. 64 px: multipliers=(1, 2, 3, 4), attention=(16, 8). 128 px: the same
  with patch=2.

  Attributes:
    shape: (H, W, C) of the modality.
    width: channels of the first stage.
    multipliers: channels of each stage over `width`; each stage halves the side.
    num_blocks: blocks of a stage, down and up.
    attention: heights of the maps whose blocks attend.
    num_heads: attention heads.
    num_groups: groups of the norms; must divide `width`.
    condition_width: size of the vector that modulates the blocks.
    level_features: size of the embedding of the noise level.
    dropout: rate inside the blocks.
    pad: pixels added on each side and cropped.
    patch: side of the squares of pixels that are one pixel to the network.
    dtype: 'float32' or 'bfloat16' computation; parameters and output are float32.
    remat: recompute the blocks in the backward pass, to save memory.
  """

  shape: tuple[int, int, int]
  width: int = 64
  multipliers: tuple[int, ...] = (1, 2, 2)
  num_blocks: int = 2
  attention: tuple[int, ...] = (8,)
  num_heads: int = 4
  num_groups: int = 8
  condition_width: int = 256
  level_features: int = 64
  dropout: float = 0.0
  pad: int = 0
  patch: int = 1
  dtype: str = 'float32'
  remat: bool = False

  def _check(self) -> None:
    rate = self.patch * 2 ** (len(self.multipliers) - 1)
    if len(self.shape) != 3 or any((n + 2 * self.pad) % rate for n in self.shape[:2]):
      raise blocks.ShapeError(
        f'Denoiser unet divides height and width by {rate} and cannot take shape '
        f'{tuple(self.shape)} with pad={self.pad}: set `pad` so that it can.'
      )
    for name in ('num_heads', 'num_groups'):
      if self.width % getattr(self, name):
        raise blocks.ShapeError(
          f'{name}={getattr(self, name)} must divide width={self.width}.'
        )
    if self.dtype not in _DTYPES:
      raise blocks.ShapeError(f'dtype={self.dtype!r}: choose from {list(_DTYPES)}.')

  @nn.compact
  def __call__(
    self, x: jax.Array, t: jax.Array, z: jax.Array, train: bool
  ) -> jax.Array:
    """Maps x [B, H, W, C], t [B], z [B, d] to [B, H, W, C]."""
    self._check()
    _check_shape(x, self.shape)
    dtype = _DTYPES[self.dtype]
    condition = _Condition(self.condition_width, self.level_features)(t, z)
    block_type = _UNetBlock
    if self.remat:
      # Argument 3, after self, is `train`.
      block_type = nn.remat(_UNetBlock, static_argnums=(3,))

    def block(h, features, name):
      heads = self.num_heads if h.shape[1] in self.attention else 0
      return block_type(
        features, self.num_groups, heads, self.dropout, dtype, name=name
      )(h, condition, train)

    edge = (self.pad, self.pad)
    x = jnp.pad(x, ((0, 0), edge, edge, (0, 0)))
    padded, p = x.shape[1:], self.patch
    h = blocks.space_to_depth(x, p)
    channels = h.shape[-1]
    h = h.reshape(-1, padded[0] // p, padded[1] // p, channels)
    h = _conv(self.width, dtype=dtype, name='input')(h)

    widths = [self.width * m for m in self.multipliers]
    skips = []
    for i, width in enumerate(widths):
      if i:
        h = blocks.average_pool(h, 2)
      for j in range(self.num_blocks):
        h = block(h, width, f'down_{i}_{j}')
        skips.append(h)
    h = block(h, widths[-1], 'middle')
    for i, width in reversed(list(enumerate(widths))):
      for j in range(self.num_blocks):
        h = block(jnp.concatenate([h, skips.pop()], axis=-1), width, f'up_{i}_{j}')
      if i:
        h = blocks.upsample(h, 2)

    h = nn.swish(nn.GroupNorm(self.num_groups, dtype=dtype, name='output_norm')(h))
    zeros = nn.initializers.zeros
    h = _conv(channels, dtype=dtype, kernel_init=zeros, name='output')(h)
    h = blocks.depth_to_space(h.astype(jnp.float32), padded, p)
    return h[:, self.pad : padded[0] - self.pad, self.pad : padded[1] - self.pad]


DENOISERS = {
  'mixer': PatchDenoiser,
  'mlp': MLPDenoiser,
  'unet': UNet,
}
