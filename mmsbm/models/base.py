"""What every method can do once it is trained: all that evaluation may use."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax

from mmsbm.latents import LatentLayout
from mmsbm.modalities import Modality

PyTree = Any


class MultimodalModel(Protocol):
  """A trained method. Arrays are in the order of `modalities`.

  Attributes:
    modalities: the records.
    layout: where their latents lie in z. A joint VAE has one shared latent.
    samplers: the samplers it can use, by name.
  """

  modalities: tuple[Modality, ...]
  layout: LatentLayout
  samplers: Mapping[str, Any]

  def encode(self, variables: PyTree, x: tuple[jax.Array, ...]) -> jax.Array:
    """Raw examples, one array [B, *shape] per modality, to latents z [B, D]."""

  def sample_latents(
    self,
    variables: PyTree,
    keys: jax.Array,
    z: jax.Array,
    observed: jax.Array,
    sampler: str,
  ) -> jax.Array:
    """Draws the unobserved latents given the observed ones.

    Args:
      variables: of all networks.
      keys: typed keys [B]; row i depends on keys[i], z[i] and observed[i] only.
      z: latents [B, D]; arbitrary where not observed.
      observed: [B, M] bool, a row of its own for every example.
      sampler: name in `samplers`.

    Returns:
      z [B, D], the observed part unchanged.
    """

  def decode(self, variables: PyTree, z: jax.Array) -> tuple[jax.Array, ...]:
    """Latents [B, D] to raw examples, one array [B, *shape] per modality."""
