"""What a method is asked to do: modalities and examples of them."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from mmsbm.data.dataset import MultimodalDataset
from mmsbm.data.loader import padded_chunks
from mmsbm.infra.rng import make_key
from mmsbm.modalities import Modality

# Fixed, so that latents do not depend on the config.
_ENCODE_CHUNK = 500


@dataclasses.dataclass(frozen=True)
class Problem:
  """Modalities, examples of them, and the randomness of the run.

  Attributes:
    modalities: the records.
    open_dataset: prepares or opens the data. A trained run is loaded without them, so
      recipes do not look at data; checks and sources of steps do.
    seed: of the run.
    recorded_classes: number of classes of every annotation, of a run that is loaded
      without its data.
  """

  modalities: tuple[Modality, ...]
  open_dataset: Callable[[], MultimodalDataset]
  seed: int
  recorded_classes: Mapping[str, int] | None = None

  @functools.cached_property
  def dataset(self) -> MultimodalDataset:
    return self.open_dataset()

  @functools.cached_property
  def key(self) -> jax.Array:
    """The key of the run."""
    return make_key(self.seed)

  @property
  def num_classes(self) -> Mapping[str, int]:
    """Number of classes of every annotation that consists of class labels."""
    if self.recorded_classes is not None:
      return self.recorded_classes
    return self.dataset.num_classes

  @property
  def names(self) -> tuple[str, ...]:
    return tuple(m.name for m in self.modalities)

  @property
  def present(self) -> np.ndarray:
    """[N, M] bool: which training example has which modality."""
    return np.asarray(self.dataset.splits['train'].present)

  @property
  def blank(self) -> dict[str, Any]:
    """A batch of one example without content and annotations."""
    return {
      'x': {m.name: np.zeros((1, *m.shape), m.kind.dtype) for m in self.modalities},
      'present': np.ones((1, len(self.modalities)), bool),
      'annotations': {},
    }

  def examples(self, inputs: Any = None, split: str = 'train') -> dict[str, Any]:
    """Returns a split as the tree that batches are drawn from."""
    del inputs
    part = self.dataset.splits[split]
    return {
      'x': dict(part.arrays),
      'present': part.present,
      'annotations': dict(part.annotations),
    }

  @property
  def can_hold_out(self) -> bool:
    """Whether the validation split has examples of every modality."""
    return bool(np.asarray(self.dataset.splits['val'].present).any(0).all())

  def held_out(self, inputs: Any = None) -> dict[str, Any] | None:
    """Returns the validation split as `examples`; None where it lacks a modality."""
    return self.examples(inputs, 'val') if self.can_hold_out else None

  def map_split(self, fn: Callable, *args: Any, split: str = 'train') -> Any:
    """Applies fn(*args, rows, x, present) to all examples, chunk by chunk.

    Args:
      fn: returns a tree of arrays [B, ...].
      *args: passed on, e.g. variables.
      split: which examples.

    Returns:
      The tree with arrays [N, ...].
    """
    part, run, out = self.dataset.splits[split], jax.jit(fn), []
    for indices, mask in padded_chunks(len(part), _ENCODE_CHUNK):
      x = tuple(np.asarray(part.arrays[name][indices]) for name in self.names)
      chunk = jax.device_get(run(*args, indices, x, np.asarray(part.present[indices])))
      out.append(jax.tree.map(lambda a, mask=mask: a[mask], chunk))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *out)
