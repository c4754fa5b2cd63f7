"""What every method can do once it is trained: all that evaluation may use."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax

from mmsbm.guidance import Guidance
from mmsbm.modalities import Modality

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Setup:
  """How samples are drawn; one of these and the weights give the distribution.

  Attributes:
    sampler: one of samplers.SAMPLERS or, of a joint VAE, of models.joint_vae.PRIORS.
    conditioning: how observed latents are shown to a score model, one of
      samplers.CONDITIONING; None of a joint VAE, whose encoders need no such rule.
    guidance: what is added to the score.
  """

  sampler: Any
  conditioning: Any = None
  guidance: tuple[Guidance, ...] = ()

  @property
  def couples_rows(self) -> bool:
    """Whether samples depend on the other rows of their batch, as published."""
    return getattr(self.sampler, 'batch_norms', False)


class MultimodalModel(Protocol):
  """A trained method. Arrays are in the order of `modalities`.

  An example is encoded to a code [C], of which any modalities may be used; a latent [D]
  is what is decoded. Where every modality has a latent of its own they are the same.

  Attributes:
    modalities: the records.
    setups: the ways in which it can draw samples, by name.
    code_dim: C.
    latent_dims: sizes of the parts of a latent by name, in their order.
  """

  modalities: tuple[Modality, ...]
  setups: Mapping[str, Setup]
  code_dim: int
  latent_dims: Mapping[str, int]

  def encode(self, variables: PyTree, x: tuple[jax.Array, ...]) -> jax.Array:
    """Raw examples, one array [B, *shape] per modality, to codes [B, C]."""

  def num_evaluations(self, setup: str, num_given: int) -> int:
    """Evaluations of score, energy and denoising networks per sample, exactly.

    Args:
      setup: a name in `setups`.
      num_given: number of observed modalities.
    """

  def sample_latents(
    self,
    variables: PyTree,
    keys: jax.Array,
    codes: jax.Array,
    observed: jax.Array,
    setup: str,
  ) -> jax.Array:
    """Draws latents given the observed modalities.

    Args:
      variables: of all networks.
      keys: typed keys [B]; row i depends on keys[i], codes[i] and observed[i] only.
      codes: [B, C]; arbitrary where not observed.
      observed: [B, M] bool, a row of its own for every example.
      setup: name in `setups`.

    Returns:
      Latents [B, D].
    """

  def mean_latents(
    self, variables: PyTree, keys: jax.Array, codes: jax.Array, observed: jax.Array
  ) -> jax.Array:
    """Latents [B, D] that the encoders alone give for what is observed [B, M].

    Without noise, but for the choice of a component where a posterior is a mixture.
    """

  def reconstruct(
    self, variables: PyTree, keys: jax.Array, codes: jax.Array
  ) -> tuple[jax.Array, ...]:
    """Every modality from itself alone; see `decode`."""

  def decode(
    self, variables: PyTree, keys: jax.Array, latents: jax.Array
  ) -> tuple[jax.Array, ...]:
    """Latents [B, D] to examples as the networks see them, [B, *model_shape] each.

    Means of likelihoods, or samples of diffusion decoders. `Generator` turns them into
    raw examples, as data files hold them.

    Decoders that draw samples use the typed keys [B], a row its own.
    """
