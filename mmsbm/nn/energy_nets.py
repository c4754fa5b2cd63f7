"""Networks whose outputs make the energies of pairs of modalities.

Every network maps z [B, D] and a time per modality t [B, M] to two features
[B, M, K] of every modality on its own; what the energies of pairs are is the
learner's business.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmsbm.latents import LatentLayout
from mmsbm.nn import blocks


class Tower(nn.Module):
  """One perceptron for all modalities; only the layers into it are their own.

  Blocks x + MLP(LayerNorm(x) (1 + scale) + shift), scale and shift of the modality and
  its time. The first features are 0 at first, so that all energies are.

  Attributes:
    dims: latent sizes, any.
    width: channels.
    num_blocks: residual blocks.
    expansion: hidden size of a block over `width`.
    features: size K of each of the two outputs.
    time_features: size of the time embedding.
    dropout: rate inside the blocks.
  """

  dims: tuple[int, ...]
  width: int = 128
  num_blocks: int = 2
  expansion: int = 2
  features: int = 64
  time_features: int = 64
  dropout: float = 0.0

  @nn.compact
  def __call__(
    self, z: jax.Array, t: jax.Array, train: bool
  ) -> tuple[jax.Array, jax.Array]:
    """Maps z [B, D], t [B, M] to features [B, M, K] and [B, M, K]."""
    layout = LatentLayout(tuple(self.dims))
    x = [
      nn.Dense(self.width, name=f'in_{m}')(part)
      for m, part in enumerate(layout.split(z))
    ]
    x = jnp.stack(x, axis=1)
    shape = (layout.num_modalities, self.width)
    modality = self.param('modality', nn.initializers.normal(1.0), shape)
    time = blocks.sinusoidal_embedding(blocks.TIME_SCALE * t, self.time_features)
    condition = nn.Dense(self.width, name='condition_0')(time) + modality
    condition = nn.gelu(nn.Dense(self.width, name='condition_1')(nn.gelu(condition)))
    for i in range(self.num_blocks):
      x = _Block(self.expansion, self.dropout, name=f'block_{i}')(x, condition, train)
    # What belongs to one pair only (such as the sign of a correlation) needs features
    # that their modality turns up or down.
    shift, scale = blocks.modulation(condition, self.width, 2)
    x = x * (1 + scale) + shift
    zeros = nn.initializers.zeros
    first = nn.Dense(self.features, kernel_init=zeros, name='first')(x)
    return first, nn.Dense(self.features, name='second')(x)


class _Block(nn.Module):
  """A block of Tower."""

  expansion: int
  dropout: float

  @nn.compact
  def __call__(self, x: jax.Array, condition: jax.Array, train: bool) -> jax.Array:
    width = x.shape[-1]
    shift, scale = blocks.modulation(condition, width, 2)
    h = blocks.adaptive_norm(x, shift, scale)
    h = nn.gelu(nn.Dense(self.expansion * width, name='in')(h))
    h = nn.Dropout(self.dropout, deterministic=not train)(h)
    return x + nn.Dense(width, name='out')(h)


ENERGY_NETS = {'tower': Tower}
