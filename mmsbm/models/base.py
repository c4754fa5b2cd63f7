"""What a trained method can do: all that inference and evaluation may use.

A method takes examples and gives examples; what it encodes them to is its own
affair. What only some methods can do stands in protocols of their own, which an
evaluator asks for with `isinstance` and does without where they are missing.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from mmsbm.modalities import Modality

PyTree = Any
# A tree of arrays with one leading axis B.
Encoded = PyTree
# Examples as networks see them, [B, *model_shape] of every modality.
Outputs = tuple[jax.Array, ...]


class SampleKeys(NamedTuple):
  """Typed keys [B] of a draw: row i depends on its own keys only.

  Attributes:
    latents: for what is drawn first.
    outputs: for decoders that draw samples.
  """

  latents: jax.Array
  outputs: jax.Array


class MultimodalModel(Protocol):
  """A trained method. Arrays are in the order of `modalities`.

  The `variables` of its methods are the results of the method's steps by name.

  Attributes:
    modalities: the records.
    samplings: the ways in which it can draw samples, by name; the first is the one
      that it is judged by.
  """

  modalities: tuple[Modality, ...]
  samplings: Mapping[str, Any]

  def encode(self, variables: PyTree, x: tuple[jax.Array, ...]) -> Encoded:
    """Encodes raw examples, one array [B, *shape] per modality."""

  def sample(
    self,
    variables: PyTree,
    keys: SampleKeys,
    encoded: Encoded,
    observed: jax.Array,
    sampling: str,
  ) -> Outputs:
    """Draws all modalities given the observed ones.

    Args:
      variables: of all steps.
      keys: of every row.
      encoded: from `encode`; arbitrary where not observed.
      observed: [B, M] bool, a row of its own for every example.
      sampling: name in `samplings`.

    Returns:
      Means of likelihoods, or samples of decoders that draw them, as networks see
      them; of observed modalities their reconstruction.
    """

  def num_evaluations(self, sampling: str, num_given: int) -> int:
    """Returns how often score, energy and denoising networks run for a sample.

    Args:
      sampling: name in `samplings`.
      num_given: number of observed modalities.
    """

  def uses(self, sampling: str | None, decodes: bool = True) -> frozenset[str]:
    """Returns the names of the steps that a result depends on.

    Args:
      sampling: name in `samplings`; None where nothing is drawn.
      decodes: whether examples are made, or only encoded.
    """

  def describe(self, sampling: str) -> dict[str, str]:
    """Returns what results say of a sampling: sampler, conditioning, guidance."""

  def couples_rows(self, sampling: str) -> bool:
    """Returns whether samples depend on the other rows of their batch."""


@runtime_checkable
class HasLatents(Protocol):
  """A method with latents that can be looked at and decoded.

  Attributes:
    latent_dims: sizes of the parts of a latent by name, in their order: the names of
      the modalities, or 'shared' and perhaps private parts by modality.
    latents_are_shared: whether one part is decoded to all modalities.
  """

  latent_dims: Mapping[str, int]
  latents_are_shared: bool

  def latents(
    self, variables: PyTree, keys: jax.Array, encoded: Encoded, observed: jax.Array
  ) -> dict[str, jax.Array]:
    """Returns the latents {part: [B, d]} of what is observed [B, M].

    Without noise, but for the choice of a component where a posterior is a mixture.
    """

  def decode(
    self, variables: PyTree, keys: jax.Array, latents: Mapping[str, jax.Array]
  ) -> Outputs:
    """Decodes latents {part: [B, d]}; decoders that draw samples use the keys [B]."""


@runtime_checkable
class Reconstructs(Protocol):
  """A method that can encode and decode every modality alone."""

  def reconstruct(
    self, variables: PyTree, keys: jax.Array, encoded: Encoded
  ) -> Outputs:
    """Returns every modality, made from itself alone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DensityOptions:
  """How densities are computed.

  Attributes:
    num_importance_samples: draws from a posterior.
    num_steps: of the probability flow.
    num_probes: random directions of its divergence, at least 2; 0 is exact.
    time_min: where the flow ends.
  """

  num_importance_samples: int = 1000
  num_steps: int = 25
  num_probes: int = 0
  time_min: float = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class DensityEntry:
  """One number for each example.

  Attributes:
    metric: name of the rows.
    target: a modality, or 'all'.
    given: names of what is observed; None where that has no meaning.
    dimensions: entries of what the density is of.
    note: for people.
    of_data: whether it is a density of examples, which is said in bits per entry too;
      otherwise it is one of latents.
  """

  metric: str
  target: str
  given: tuple[str, ...] | None
  dimensions: int
  note: str
  of_data: bool = True


# Applies fn(variables, keys [n], *trees of [n, ...]) to rows: (fn, name, *trees).
PerRow = Callable[..., PyTree]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Density:
  """Nats per example, for several entries by one program.

  Attributes:
    name: of the measurement.
    entries: E of them.
    options: the fields of DensityOptions that it depends on.
    uses: names of the steps that it depends on.
    compute: (per_row, encoded, raw) -> nats [E, n], and what random directions add to
      their standard errors [E, n], or None.
  """

  name: str
  entries: tuple[DensityEntry, ...]
  options: tuple[str, ...]
  uses: frozenset[str]
  compute: Callable[
    [PerRow, Encoded, tuple[np.ndarray, ...]], tuple[np.ndarray, np.ndarray | None]
  ]


@runtime_checkable
class HasDensities(Protocol):
  """A method whose densities, or bounds of them, can be computed."""

  def densities(self, options: DensityOptions) -> tuple[Density, ...]:
    """Returns all that can be computed; none where decoders have no density."""
