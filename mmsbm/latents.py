"""How the latents of all modalities lie in one flat array."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

# What a modality is to a network that denoises the latents of several:
NOISY = 0  # at its time, to be denoised
OBSERVED = 1  # clean, at time 0
MISSING = 2  # nothing is known of it: its latent and its time have no meaning


@dataclasses.dataclass(frozen=True)
class LatentLayout:
  """Modality m occupies a contiguous slice of the last axis of z [B, D].

  Attributes:
    dims: latent size of each modality, in the order of the modalities. They
      may differ; D is their sum.
  """

  dims: tuple[int, ...]

  @property
  def total(self) -> int:
    return sum(self.dims)

  @property
  def num_modalities(self) -> int:
    return len(self.dims)

  @property
  def modality_of_dim(self) -> np.ndarray:
    """Index of the modality that each of the D dimensions belongs to, [D]."""
    return np.repeat(np.arange(len(self.dims)), self.dims)

  def expand(self, per_modality: jax.Array) -> jax.Array:
    """Repeats values per modality [..., M] for each of its dimensions [..., D]."""
    return per_modality[..., self.modality_of_dim]

  def split(self, z: jax.Array) -> tuple[jax.Array, ...]:
    """Cuts z [..., D] into one array [..., d_m] per modality."""
    return tuple(jnp.split(z, np.cumsum(self.dims)[:-1].tolist(), axis=-1))

  def join(self, parts: Sequence[jax.Array]) -> jax.Array:
    """Inverse of `split`."""
    return jnp.concatenate(list(parts), axis=-1)
