"""Networks: an encoder, and a score network."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp


class SmallEncoder(nn.Module):
  """One hidden layer.

  Attributes:
    latent_dim: given by the program.
    width: of the hidden layer.
  """

  latent_dim: int
  width: int = 16

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
    """Maps x [B, ...] to mean and log variance, each [B, latent_dim]."""
    del train
    h = nn.gelu(nn.Dense(self.width)(x.reshape(x.shape[0], -1)))
    return nn.Dense(self.latent_dim)(h), nn.Dense(self.latent_dim)(h)


class SmallScoreNet(nn.Module):
  """Two layers that see latents, times and roles.

  Attributes:
    dims: latent sizes of the modalities, given by the program.
    width: of the hidden layer.
  """

  dims: Sequence[int]
  width: int = 32

  @nn.compact
  def __call__(
    self, z: jax.Array, t: jax.Array, role: jax.Array, train: bool
  ) -> jax.Array:
    """Maps z [B, D], t [B, M] and role [B, M] to [B, D]."""
    del train
    known = jnp.concatenate([z, t, role.astype(z.dtype)], axis=-1)
    return nn.Dense(sum(self.dims))(nn.gelu(nn.Dense(self.width)(known)))
