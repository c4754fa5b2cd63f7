"""What a dataset is: examples in splits, with what is known of them."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mmsbm.infra.errors import UserError
from mmsbm.modalities.base import Modality
from mmsbm.modalities.summary import Summary

SPLITS = ('train', 'val', 'test')
# The annotation of a dataset that has one sort of labels.
CLASS = 'class'

_BLOCK_BYTES = 1 << 24


@dataclasses.dataclass(frozen=True)
class Split:
  """The examples of one split; row i of every array is example i.

  Attributes:
    arrays: modality name -> [N, *shape]; may be `np.memmap`. Rows of absent
      modalities are zero.
    present: [N, M] bool, whether the example has the modality.
    annotations: name -> what is known of the examples and no modality: class labels
      [N] int32, -1 where unknown, or properties [N, A] uint8 of 0 and 1. The labels
      of a dataset that has one sort of them are called 'class'.
  """

  arrays: Mapping[str, np.ndarray]
  present: np.ndarray
  annotations: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    shape = len(self), len(self.arrays)
    for name, array in self.arrays.items():
      if array.ndim < 1 or len(array) != len(self):
        raise UserError(
          f'Modality {name!r} has shape {array.shape}, but there are {len(self)} '
          'examples: all modalities need the same number of rows.'
        )
      # Memory-mapped files were checked when they were written.
      if not isinstance(array, np.memmap):
        for start, rows in in_blocks(array):
          check_finite(name, rows, start)
    if self.present.shape != shape or self.present.dtype != bool:
      raise UserError(
        f"'present' is {self.present.dtype} {self.present.shape}; it must be bool "
        f'{shape}: [examples, modalities].'
      )
    for name, array in self.annotations.items():
      is_label = array.ndim == 1 and array.dtype == np.int32
      is_matrix = array.ndim == 2 and array.dtype == np.uint8
      if len(array) != len(self) or not (is_label or is_matrix):
        raise UserError(
          f'The annotation {name!r} is {array.dtype} {array.shape}; it must be int32 '
          f'{(len(self),)} or uint8 ({len(self)}, A).'
        )

  def __len__(self) -> int:
    return len(self.present)

  def take(self, indices: np.ndarray) -> dict[str, Any]:
    """Copies the rows with `indices` [n] into memory.

    Returns:
      {'x': {name: [n, *shape]}, 'present': [n, M] bool, 'annotations': {name: [n] or
      [n, A]}}.
    """
    indices = np.asarray(indices)
    return {
      'x': {name: np.asarray(a[indices]) for name, a in self.arrays.items()},
      'present': self.present[indices],
      'annotations': {name: a[indices] for name, a in self.annotations.items()},
    }


@dataclasses.dataclass(frozen=True)
class MultimodalDataset:
  """Train, validation and test split of the same modalities.

  Attributes:
    modalities: names, in the order of the columns of `Split.present`.
    splits: 'train', 'val' and 'test'.
    num_classes: number of classes of each annotation that holds class labels; one
      whose labels are all unknown has none.
    content_hash: hexadecimal digest of everything the content depends on.
    source: one line for people: what it is, sizes, photographs, licences.
  """

  modalities: tuple[str, ...]
  splits: Mapping[str, Split]
  num_classes: Mapping[str, int]
  content_hash: str
  source: str

  def __post_init__(self):
    if tuple(self.splits) != SPLITS:
      raise UserError(f'A dataset has the splits {SPLITS}, not {tuple(self.splits)}.')
    shapes, annotations = {}, self.splits['train'].annotations
    for split_name, split in self.splits.items():
      if not len(split):
        raise UserError(f'The {split_name} split has no examples.')
      if tuple(split.arrays) != tuple(self.modalities):
        raise UserError(
          f'The {split_name} split has the modalities {tuple(split.arrays)} instead '
          f'of {tuple(self.modalities)}.'
        )
      for name, array in split.arrays.items():
        expected = shapes.setdefault(name, array.shape[1:])
        if array.shape[1:] != expected:
          raise UserError(
            f'Modality {name!r} has shape {array.shape[1:]} in the {split_name} '
            f'split, but {expected} in the train split.'
          )
      if set(split.annotations) != set(annotations):
        raise UserError(
          f'The {split_name} split has the annotations {sorted(split.annotations)} '
          f'instead of {sorted(annotations)}.'
        )
      for name, num_classes in self.num_classes.items():
        labels = split.annotations.get(name)
        if labels is None or labels.ndim != 1 or labels.max() >= num_classes:
          raise UserError(
            f'The labels {name!r} of the {split_name} split are not all below '
            f'{num_classes}.'
          )

  def fit(self, modalities: Sequence[Modality]) -> dict[str, dict[str, Any]]:
    """What kinds measure on the training split: {modality: {field: value}}."""
    self._check_names(modalities)
    split, out = self.splits['train'], {}
    for i, modality in enumerate(modalities):
      if modality.kind.unfitted:
        summary = Summary()
        for start, rows in in_blocks(split.arrays[modality.name]):
          here = split.present[start : start + len(rows), i]
          summary.add(modality.kind.check(rows, modality.name)[here])
        out[modality.name] = modality.kind.fit(summary)
    return out

  def _check_names(self, modalities: Sequence[Modality]) -> None:
    names = tuple(modality.name for modality in modalities)
    if names != tuple(self.modalities):
      raise UserError(
        f'The data have the modalities {tuple(self.modalities)}, the config {names}.'
      )

  def check(self, modalities: Sequence[Modality]) -> None:
    """Refuses examples that are not what the config says of their modalities."""
    self._check_names(modalities)
    for split in self.splits.values():
      for modality in modalities:
        # By blocks: pictures may exceed memory, and are not read where their type
        # allows no wrong value.
        for _, rows in in_blocks(split.arrays[modality.name]):
          modality.check(rows)

  def digests(self) -> dict[str, str]:
    """Digests of the first training examples: do names mean the same in two runs?"""
    arrays = self.splits['train'].arrays
    first = {name: np.ascontiguousarray(arrays[name][:64]) for name in self.modalities}
    return {n: hashlib.sha1(a.tobytes()).hexdigest()[:16] for n, a in first.items()}


def check_finite(name: str, rows: np.ndarray, start: int = 0) -> None:
  """Refuses NaN and infinity in rows [n, ...], the first of which is row `start`."""
  if np.issubdtype(rows.dtype, np.floating) and not np.isfinite(rows).all():
    finite = np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)
    raise UserError(
      f'Modality {name!r} has NaN or infinite values, first in row '
      f'{start + int(np.argmin(finite))}.'
    )


def check_count(name: str, value: int, minimum: int = 1) -> int:
  """Returns `value` if it is a whole number of at least `minimum`."""
  if isinstance(value, bool) or int(value) != value or value < minimum:
    raise UserError(
      f'data.{name} is {value!r}; it must be a whole number of at least {minimum}.'
    )
  return int(value)


def check_counts(num_train: int, num_val: int, num_test: int) -> dict[str, int]:
  """Returns the numbers of examples by split, all of at least 1."""
  counts = dict(zip(SPLITS, (num_train, num_val, num_test), strict=True))
  return {split: check_count(f'num_{split}', num) for split, num in counts.items()}


def in_blocks(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
  """Yields (first row, rows) of a few megabytes each."""
  rows = max(1, _BLOCK_BYTES // max(1, array[:1].nbytes))
  for start in range(0, len(array), rows):
    yield start, array[start : start + rows]
