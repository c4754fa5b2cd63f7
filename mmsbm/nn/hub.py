"""A score network whose cost grows linearly with the number of modalities.

Every modality has a token and a small network of its own, one batched product for all
of them; the tokens meet in one wide vector, the hub, and nowhere else. Attention
between M tokens costs M^2; a perceptron on all latents at once has to pass everything
that is private to a modality through its width.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.latents import MISSING, OBSERVED, LatentLayout
from mmsbm.nn import blocks


class HubScoreNet(nn.Module):
  """Tokens that read from and write to a hub; see `_HubBlock`.

  The hub also begins with all latents at once and ends in all outputs at once, so
  that with few modalities the network is no less than a perceptron. Modalities are
  told apart only by the parameters that belong to them; what is known of a modality
  (its time, its role) reaches its token as shift and scale (adaLN, arXiv 2212.09748;
  without its gate, for every array over the tokens costs as much as a product). The
  token of a missing one holds a learned vector, and the hub does not read it. The
  output is 0 at first.

  Attributes:
    dims: latent sizes, any. Tokens are as expensive as the largest makes them.
    token_width: channels of a token.
    hub_width: channels of the hub.
    num_blocks: blocks.
    expansion: hidden sizes of a block over `token_width` and `hub_width`.
    num_heads: weighted means in which the hub reads a block's hidden units; must
      divide `expansion * token_width`.
    condition_width: channels to which times and roles are condensed, for the hub; half
      as many for a token.
    time_features: size of the time embedding.
    dropout: rate inside the blocks.
  """

  dims: tuple[int, ...]
  token_width: int = 64
  hub_width: int = 192
  num_blocks: int = 3
  expansion: int = 2
  num_heads: int = 8
  condition_width: int = 64
  time_features: int = 32
  dropout: float = 0.0

  @nn.compact
  def __call__(
    self, z: jax.Array, t: jax.Array, role: jax.Array, train: bool
  ) -> jax.Array:
    """Maps z [B, D], t [B, M], role [B, M] to [B, D]."""
    if self.expansion * self.token_width % self.num_heads:
      raise blocks.ShapeError(
        f'num_heads={self.num_heads} must divide expansion * token_width='
        f'{self.expansion * self.token_width}.'
      )
    dims = tuple(self.dims)
    missing = role == MISSING
    z = jnp.where(LatentLayout(dims).expand(missing), 0.0, z)
    t = jnp.where(missing, 0.0, t)
    flags = jnp.stack([role == OBSERVED, missing], -1).astype(z.dtype)

    # Modalities come first in tokens, [M, B, .], as batched products want them.
    condition = jnp.concatenate([self._embed_time(t), flags], -1).swapaxes(0, 1)
    condition = nn.Dense(self.condition_width // 2, name='condition')(condition)
    condition = nn.gelu(condition + self._per_modality('modality', condition.shape))
    gone = missing.T[..., None]
    x = _PrivateDense(self.token_width, fan_in=dims, name='in')(_to_tokens(z, dims))
    x = jnp.where(gone, self._per_modality('missing', x.shape), x)

    shown = jnp.concatenate([z, flags.reshape(z.shape[0], -1)], -1)
    hub = nn.Dense(self.hub_width, name='hub_in')(shown)
    known = jnp.concatenate([self._embed_time(t.max(-1)), flags.mean(1)], -1)
    known = nn.gelu(nn.Dense(self.condition_width, name='hub_condition_0')(known))
    known = nn.gelu(nn.Dense(self.condition_width, name='hub_condition_1')(known))

    for i in range(self.num_blocks):
      x, hub = _HubBlock(
        self.expansion, self.num_heads, self.dropout, name=f'block_{i}'
      )(x, hub, condition, known, gone, train)

    zeros = nn.initializers.zeros
    x = _PrivateDense(max(dims), kernel_init=zeros, name='out')(nn.LayerNorm()(x))
    hub = nn.Dense(z.shape[-1], kernel_init=zeros, name='hub_out')(nn.LayerNorm()(hub))
    return _from_tokens(x, dims) + hub

  def _embed_time(self, t: jax.Array) -> jax.Array:
    return blocks.sinusoidal_embedding(blocks.TIME_SCALE * t, self.time_features)

  def _per_modality(self, name: str, shape: Sequence[int]) -> jax.Array:
    """A learned vector for each modality, for tokens of `shape` [M, B, C]."""
    m, _, c = shape
    return self.param(name, nn.initializers.normal(0.02), (m, c))[:, None]


class _HubBlock(nn.Module):
  """Tokens hear the hub, work each for itself, and the hub hears what they found.

  With n a norm whose shift and scale come from the condition, tokens x_m and hub h:

    u_m = gelu(A_m n(x_m) + B n(h))      the hidden units of modality m
    x_m <- x_m + C_m u_m
    h   <- h + (1 + gate) F gelu(E [n(h), mean_m u_m])

  The mean is over the modalities that are not missing, if there are any. There are
  `num_heads` of them, each of its own part of the hidden units and with weights
  softmax_m(G_m u_m), because one clean modality tells more than many noisy ones. The
  block is the identity at initialisation, and the weights are equal.
  """

  expansion: int
  num_heads: int
  dropout: float

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    hub: jax.Array,
    condition: jax.Array,
    hub_condition: jax.Array,
    missing: jax.Array,
    train: bool,
  ) -> tuple[jax.Array, jax.Array]:
    """Maps tokens [M, B, C] and the hub [B, H] to the same shapes."""
    zeros = nn.initializers.zeros
    drop = nn.Dropout(self.dropout, deterministic=not train)
    hub_width, width = hub.shape[-1], x.shape[-1]
    shift, scale = blocks.modulation(condition, width, 2)
    hub_shift, hub_scale, hub_gate = _HubModulation(hub_width, name='hub')(
      hub_condition
    )
    heard = blocks.adaptive_norm(hub, hub_shift, hub_scale)

    size = self.expansion * width
    u = _PrivateDense(size, name='in')(blocks.adaptive_norm(x, shift, scale))
    u = drop(nn.gelu(u + nn.Dense(size, use_bias=False, name='hear')(heard)))
    x = x + _PrivateDense(width, kernel_init=zeros, name='out')(u)

    weight = _PrivateDense(self.num_heads, kernel_init=zeros, name='weight')(u)
    # Not -inf, by which softmax would not be finite where all of them are missing.
    # There the hub reads their tokens, which know nothing.
    weight = nn.softmax(jnp.where(missing, jnp.finfo(x.dtype).min, weight), axis=0)
    found = (weight[..., None] * u.reshape(*weight.shape, -1)).sum(0)
    g = jnp.concatenate([heard, found.reshape(hub.shape[0], size)], -1)
    g = drop(nn.gelu(nn.Dense(self.expansion * hub_width, name='hub_mlp')(g)))
    g = nn.Dense(hub_width, kernel_init=zeros, name='hub_out')(g)
    return x, hub + (1 + hub_gate) * g


class _HubModulation(nn.Module):
  """Shift, scale and gate of the hub, under a name of their own."""

  width: int

  @nn.compact
  def __call__(self, condition: jax.Array) -> Sequence[jax.Array]:
    return blocks.modulation(condition, self.width, 3)


class _PrivateDense(nn.Module):
  """A Dense layer for each modality: x [M, B, I] to [M, B, features].

  Attributes:
    features: output channels.
    fan_in: how many of the I inputs each modality has, [M]; None for all. The rest of
      them are 0.
    kernel_init: instead of a normal one with variance 1 / fan_in.
  """

  features: int
  fan_in: tuple[int, ...] | None = None
  kernel_init: nn.initializers.Initializer | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    m, _, inputs = x.shape
    fan_in = np.array(self.fan_in or (inputs,) * m, np.float32)

    def init(key, shape):
      return jax.random.normal(key, shape) / np.sqrt(fan_in)[:, None, None]

    kernel = self.param('kernel', self.kernel_init or init, (m, inputs, self.features))
    bias = self.param('bias', nn.initializers.zeros, (m, self.features))
    return jnp.einsum('mbi,mio->mbo', x, kernel) + bias[:, None]


def _places(dims: tuple[int, ...]) -> np.ndarray:
  """Where the D dimensions lie among those of M latents of the largest size, [D]."""
  return np.flatnonzero(np.arange(max(dims)) < np.array(dims)[:, None])


def _to_tokens(z: jax.Array, dims: tuple[int, ...]) -> jax.Array:
  """Latents [B, D] to [M, B, max(dims)], zeros behind the shorter ones."""
  shape = (len(dims), max(dims), z.shape[0])
  rows = z.T
  if len(set(dims)) > 1:
    padded = jnp.zeros((shape[0] * shape[1], shape[2]), z.dtype)
    rows = padded.at[_places(dims)].set(rows, unique_indices=True)
  return rows.reshape(shape).swapaxes(1, 2)


def _from_tokens(x: jax.Array, dims: tuple[int, ...]) -> jax.Array:
  """Inverse of `_to_tokens`, which drops what lies behind the shorter latents.

  One gather for all modalities: a slice for each would have a gradient of M arrays of
  M tokens.
  """
  rows = x.swapaxes(1, 2).reshape(len(dims) * max(dims), -1)
  if len(set(dims)) > 1:
    rows = rows.at[_places(dims)].get(unique_indices=True)
  return rows.T
