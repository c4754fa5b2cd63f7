"""Score networks on the latents of all modalities.

Every network maps z [B, D], a time per modality t [B, M] and a role per modality
[B, M] (see latents.py) to [B, D]. Of a missing modality it uses neither latent nor
time. What the output means (score, noise, ...) is the parametrisation's business.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmsbm.latents import MISSING, OBSERVED, LatentLayout
from mmsbm.nn import blocks
from mmsbm.nn.hub import HubScoreNet

# Times below this are told apart only linearly, not by their logarithm.
_TIME_FLOOR = 1e-3


class ConvNeXtBlock(nn.Module):
  """Depthwise 7x7, time, then two 3x3 convolutions, with a skip (no dropout).

  Attributes:
    features: output channels.
    expansion: channels between the 3x3 convolutions over `features`.
  """

  features: int
  expansion: int = 2

  @nn.compact
  def __call__(self, x: jax.Array, time: jax.Array | None) -> jax.Array:
    """Maps x [B, H, W, C] and a time embedding [B, T] to [B, H, W, features]."""
    width = x.shape[-1]
    h = blocks.conv(x, width, 7, groups=width, name='depthwise')
    if time is not None:
      h += blocks.linear(blocks.exact_gelu(time), width, name='time')[:, None, None]
    h = blocks.conv(_norm(h, 'norm_0'), self.expansion * self.features, 3, name='in')
    h = blocks.conv(_norm(blocks.exact_gelu(h), 'norm_1'), self.features, 3, name='out')
    if width != self.features:
      x = blocks.conv(x, self.features, 1, name='skip')
    return x + h


def _norm(x: jax.Array, name: str) -> jax.Array:
  """Group norm with one group: over height, width and channels together."""
  return nn.GroupNorm(num_groups=1, epsilon=1e-5, name=name)(x)


class SpatialAttention(nn.Module):
  """Residual attention between the positions of a map, after a norm.

  Attributes:
    linear: linear attention (arXiv 1812.01243) instead of full attention.
    num_heads: number of heads.
    head_dim: size of a head.
  """

  linear: bool
  num_heads: int = 4
  head_dim: int = 32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x [B, H, W, C] to the same shape."""
    b, height, width, c = x.shape
    inner = self.num_heads * self.head_dim
    h = blocks.conv(_norm(x, 'norm'), 3 * inner, 1, use_bias=False, name='qkv')
    h = h.reshape(b, height * width, 3, self.num_heads, self.head_dim)
    q, k, v = h[:, :, 0], h[:, :, 1], h[:, :, 2]
    scale = self.head_dim**-0.5
    if self.linear:
      q = nn.softmax(q, axis=-1) * scale
      k = nn.softmax(k, axis=1)
      context = jnp.einsum('bnhd,bnhe->bhde', k, v)
      h = jnp.einsum('bhde,bnhd->bnhe', context, q)
    else:
      weights = nn.softmax(jnp.einsum('bihd,bjhd->bhij', q * scale, k), axis=-1)
      h = jnp.einsum('bhij,bjhd->bihd', weights, v)
    h = blocks.conv(h.reshape(b, height, width, inner), c, 1, name='out')
    return x + (_norm(h, 'out_norm') if self.linear else h)


class UNet(nn.Module):
  """The published U-Net: each latent is a square map, a modality is a channel.

  Parameters: 42.7 M (width 128, ten modalities), 11.0 M (64, five), 222.8 M (256,
  multipliers (1, 2, 2, 2, 2), three). As published, the highest-resolution skip is
  never used, and there is one time per row: here the largest of the row, so that
  observed modalities at time 0 do not count.

  Attributes:
    dims: latent sizes; equal, and a square number.
    width: base number of channels.
    multipliers: channels of each stage over `width`.
    time_scale: factor on the time before its embedding.
  """

  dims: tuple[int, ...]
  width: int = 128
  multipliers: tuple[int, ...] = (1, 2, 2, 2)
  time_scale: float = 1.0

  knows_one_time = True

  @nn.compact
  def __call__(
    self, z: jax.Array, t: jax.Array, role: jax.Array, train: bool
  ) -> jax.Array:
    """Maps z [B, D], t [B, M], role [B, M] (not used) to [B, D]."""
    del role, train
    side = math.isqrt(self.dims[0])
    if len(set(self.dims)) > 1 or side**2 != self.dims[0]:
      raise blocks.ShapeError(
        f'Score network unet needs equal square latent sizes (such as 64) and got '
        f'{tuple(self.dims)}: change them, or use the network mlp or transformer.'
      )
    x = z.reshape(-1, len(self.dims), side, side).transpose(0, 2, 3, 1)
    # The stages halve the side down to a whole number; 8 and 16 need no padding.
    padding = -side % 2 ** (len(self.multipliers) - 1)
    x = jnp.pad(x, ((0, 0), (0, padding), (0, padding), (0, 0)))

    time = blocks.sinusoidal_embedding(self.time_scale * t.max(axis=-1), self.width)
    time = blocks.linear(time, 4 * self.width, name='time_0')
    time = blocks.linear(blocks.exact_gelu(time), 4 * self.width, name='time_1')

    widths = [self.width // 3 * 2, *(self.width * m for m in self.multipliers)]
    x = blocks.conv(x, widths[0], 7, name='input')
    skips = []
    for i, out in enumerate(widths[1:]):
      x = ConvNeXtBlock(out, name=f'down_{i}_0')(x, time)
      x = ConvNeXtBlock(out, name=f'down_{i}_1')(x, time)
      x = SpatialAttention(linear=True, name=f'down_{i}_attention')(x)
      skips.append(x)
      if i < len(self.multipliers) - 1:
        x = blocks.conv(x, out, 4, stride=2, padding=1, name=f'down_{i}_pool')
    x = ConvNeXtBlock(widths[-1], name='middle_0')(x, time)
    x = SpatialAttention(linear=False, name='middle_attention')(x)
    x = ConvNeXtBlock(widths[-1], name='middle_1')(x, time)
    for i in reversed(range(1, len(self.multipliers))):
      x = jnp.concatenate([x, skips[i]], axis=-1)
      x = ConvNeXtBlock(widths[i], name=f'up_{i}_0')(x, time)
      x = ConvNeXtBlock(widths[i], name=f'up_{i}_1')(x, time)
      x = SpatialAttention(linear=True, name=f'up_{i}_attention')(x)
      x = blocks.conv(
        x, widths[i], 4, stride=2, transpose=True, name=f'up_{i}_upsample'
      )
    x = ConvNeXtBlock(self.width, name='last_block')(x, None)
    x = blocks.conv(x, len(self.dims), 1, name='output')
    return x[:, :side, :side].transpose(0, 3, 1, 2).reshape(z.shape)


class MLPScoreNet(nn.Module):
  """Residual perceptron on all latents at once; the fast default.

  Blocks x + (1 + gate) MLP(LayerNorm(x) (1 + scale) + shift), where gate, scale and
  shift come from the times and the roles. To stay cheap with many
  modalities only the largest time of a row is embedded; the others enter through
  their difference and their log ratio to it. The output is 0 at first.

  Attributes:
    dims: latent sizes, any.
    width: channels.
    num_blocks: residual blocks.
    expansion: hidden size of a block over `width`.
    time_features: size of the time embedding.
    condition_width: size of what times and roles are condensed to. It is small because
      the layers that modulate the blocks cost as much as the blocks if it is not.
    dropout: rate inside the blocks.
  """

  dims: tuple[int, ...]
  width: int = 256
  num_blocks: int = 4
  expansion: int = 2
  time_features: int = 64
  condition_width: int = 64
  dropout: float = 0.0

  @nn.compact
  def __call__(
    self, z: jax.Array, t: jax.Array, role: jax.Array, train: bool
  ) -> jax.Array:
    """Maps z [B, D], t [B, M], role [B, M] to [B, D]."""
    missing = role == MISSING
    flags = jnp.concatenate([role == OBSERVED, missing], -1).astype(z.dtype)
    latest = jnp.where(missing, 0.0, t).max(axis=-1, keepdims=True)
    t = jnp.where(missing, latest, t)
    ratio = jnp.log((t + _TIME_FLOOR) / (latest + _TIME_FLOOR))
    sinusoids = blocks.sinusoidal_embedding(
      blocks.TIME_SCALE * latest[:, 0], self.time_features
    )
    condition = jnp.concatenate([sinusoids, t - latest, ratio, flags], axis=-1)
    condition = nn.gelu(nn.Dense(self.condition_width, name='condition_0')(condition))
    condition = nn.gelu(nn.Dense(self.condition_width, name='condition_1')(condition))

    known = ~LatentLayout(tuple(self.dims)).expand(missing)
    x = jnp.concatenate([jnp.where(known, z, 0.0), flags], axis=-1)
    x = nn.Dense(self.width, name='input')(x)
    for i in range(self.num_blocks):
      x = blocks.ConditionedMLP(self.expansion, self.dropout, name=f'block_{i}')(
        x, condition, train
      )
    x = nn.LayerNorm()(x)
    return nn.Dense(sum(self.dims), kernel_init=nn.initializers.zeros, name='output')(x)


class Transformer(nn.Module):
  """A token per modality, each with its own time (adaLN-zero, arXiv 2212.09748).

  Apart from the embeddings and the layers in and out, which belong to a modality,
  the network does not know their order. A missing one has a token without content.
  The output is 0 at first.

  Attributes:
    dims: latent sizes, any.
    width: channels of a token.
    num_layers: layers.
    num_heads: attention heads; must divide `width`.
    expansion: hidden size of the MLPs over `width`.
    time_features: size of the time embedding.
    dropout: rate on both branches of a layer.
  """

  dims: tuple[int, ...]
  width: int = 192
  num_layers: int = 4
  num_heads: int = 4
  expansion: int = 2
  time_features: int = 64
  dropout: float = 0.0

  @nn.compact
  def __call__(
    self, z: jax.Array, t: jax.Array, role: jax.Array, train: bool
  ) -> jax.Array:
    """Maps z [B, D], t [B, M], role [B, M] to [B, D]."""
    if self.width % self.num_heads:
      raise blocks.ShapeError(
        f'num_heads={self.num_heads} must divide width={self.width}.'
      )
    layout = LatentLayout(tuple(self.dims))
    tokens = [
      nn.Dense(self.width, name=f'in_{m}')(part)
      for m, part in enumerate(layout.split(z))
    ]
    missing = (role == MISSING)[..., None]
    x = jnp.where(missing, 0.0, jnp.stack(tokens, axis=1))
    shape = (layout.num_modalities, self.width)
    x = x + self.param('modality', nn.initializers.normal(0.02), shape)

    condition = blocks.sinusoidal_embedding(blocks.TIME_SCALE * t, self.time_features)
    flags = jnp.stack([role == OBSERVED, role == MISSING], -1).astype(z.dtype)
    condition = jnp.concatenate([jnp.where(missing, 0.0, condition), flags], axis=-1)
    condition = nn.gelu(nn.Dense(self.width, name='condition_0')(condition))
    condition = nn.gelu(nn.Dense(self.width, name='condition_1')(condition))

    for i in range(self.num_layers):
      x = _TransformerLayer(
        self.num_heads, self.expansion, self.dropout, name=f'layer_{i}'
      )(x, condition, train)
    x = nn.LayerNorm()(x)
    zeros = nn.initializers.zeros
    return layout.join(
      [
        nn.Dense(dim, kernel_init=zeros, name=f'out_{m}')(x[:, m])
        for m, dim in enumerate(self.dims)
      ]
    )


class _TransformerLayer(nn.Module):
  """Attention and MLP, both behind a gate that is 0 at initialisation."""

  num_heads: int
  expansion: int
  dropout: float

  @nn.compact
  def __call__(self, x: jax.Array, condition: jax.Array, train: bool) -> jax.Array:
    width = x.shape[-1]
    shift_0, scale_0, gate_0, shift_1, scale_1, gate_1 = blocks.modulation(
      condition, width, 6
    )
    drop = nn.Dropout(self.dropout, deterministic=not train)
    h = blocks.adaptive_norm(x, shift_0, scale_0)
    attention = nn.MultiHeadDotProductAttention(self.num_heads, name='attention')
    x = x + gate_0 * drop(attention(h))
    h = blocks.adaptive_norm(x, shift_1, scale_1)
    h = nn.gelu(nn.Dense(self.expansion * width, name='in')(h))
    return x + gate_1 * drop(nn.Dense(width, name='out')(h))


SCORE_NETS = {
  'hub': HubScoreNet,
  'mlp': MLPScoreNet,
  'transformer': Transformer,
  'unet': UNet,
}
