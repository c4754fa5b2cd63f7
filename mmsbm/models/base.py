"""What every method can do once it is trained: all that evaluation may use."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax

from mmsbm.guidance import Guidance
from mmsbm.latents import LatentLayout
from mmsbm.modalities import Modality

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Setup:
  """How samples are drawn; one of these and the weights give the distribution.

  Attributes:
    sampler: one of samplers.SAMPLERS.
    conditioning: how observed latents are shown, one of samplers.CONDITIONING.
    guidance: what is added to the score.
  """

  sampler: Any
  conditioning: Any
  guidance: tuple[Guidance, ...] = ()

  @property
  def couples_rows(self) -> bool:
    """Whether samples depend on the other rows of their batch, as published."""
    return getattr(self.sampler, 'batch_norms', False)


class MultimodalModel(Protocol):
  """A trained method. Arrays are in the order of `modalities`.

  Attributes:
    modalities: the records.
    layout: where their latents lie in z. A joint VAE has one shared latent.
    setups: the ways in which it can draw samples, by name.
  """

  modalities: tuple[Modality, ...]
  layout: LatentLayout
  setups: Mapping[str, Setup]

  def encode(self, variables: PyTree, x: tuple[jax.Array, ...]) -> jax.Array:
    """Raw examples, one array [B, *shape] per modality, to latents z [B, D]."""

  def num_evaluations(self, setup: str) -> int:
    """Evaluations of networks per sample, exactly; `setup` is a name in `setups`."""

  def sample_latents(
    self,
    variables: PyTree,
    keys: jax.Array,
    z: jax.Array,
    observed: jax.Array,
    setup: str,
  ) -> jax.Array:
    """Draws the unobserved latents given the observed ones.

    Args:
      variables: of all networks.
      keys: typed keys [B]; row i depends on keys[i], z[i] and observed[i] only.
      z: latents [B, D]; arbitrary where not observed.
      observed: [B, M] bool, a row of its own for every example.
      setup: name in `setups`.

    Returns:
      z [B, D], the observed part unchanged.
    """

  def decode(self, variables: PyTree, z: jax.Array) -> tuple[jax.Array, ...]:
    """Latents [B, D] to raw examples, one array [B, *shape] per modality."""
