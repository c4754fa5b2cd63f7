"""What a dataset is, and how it is prepared once and opened many times.

A builder (`mmsbm.data.DATASETS`) describes its result by everything that it
depends on, and `prepare` keeps one folder per description:

    <cache_dir>/<name>-<hash>/dataset.json
                              train.m0.npy  train.present.npy  train.labels.npy ...

The folder is made under a scratch name and renamed when it is complete, so a
run that is killed leaves nothing that a later run would believe.
"""

import dataclasses
import errno
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mmsbm.infra import files
from mmsbm.infra.errors import UserError

SPLITS = ('train', 'val', 'test')
PRESENT, LABELS = 'present', 'labels'

# Raise it when the meaning of the files changes: older folders are then unused.
_FORMAT = 1
_BLOCK_BYTES = 1 << 24
# Larger files are identified by samples of their content, see `fingerprint`.
_FULL_DIGEST_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True)
class Split:
  """The examples of one split; row i of every array is example i.

  Attributes:
    arrays: modality name -> [N, *shape]; may be `np.memmap`. Rows of absent
      modalities are zero.
    present: [N, M] bool, whether the example has the modality; columns in the
      order of the dataset's modalities.
    labels: [N] int32, -1 where unknown; None when the dataset has no labels.
  """

  arrays: Mapping[str, np.ndarray]
  present: np.ndarray
  labels: np.ndarray | None = None

  def __post_init__(self):
    for name, array in self.arrays.items():
      if array.ndim < 1 or len(array) != len(self):
        raise UserError(
          f'Modality {name!r} has shape {array.shape}, but there are {len(self)} '
          'examples: all modalities need the same number of rows.'
        )
      # Memory-mapped files were checked when they were written.
      if not isinstance(array, np.memmap):
        for start, rows in _blocks(array):
          check_finite(name, rows, start)
    if self.present.shape != (len(self), len(self.arrays)) or (
      self.present.dtype != bool
    ):
      raise UserError(
        f"'present' is {self.present.dtype} {self.present.shape}; it must be bool "
        f'{(len(self), len(self.arrays))}: [examples, modalities].'
      )
    if self.labels is not None and (
      self.labels.shape != (len(self),) or self.labels.dtype != np.int32
    ):
      raise UserError(
        f'The labels are {self.labels.dtype} {self.labels.shape}; they must be '
        f'int32 {(len(self),)}.'
      )

  def __len__(self) -> int:
    return len(self.present)

  def take(self, indices: np.ndarray) -> dict[str, Any]:
    """Copies rows into memory.

    Args:
      indices: [n] int.

    Returns:
      {'x': {name: [n, *shape]}, 'present': [n, M] bool, 'label': [n] int32},
      label -1 where it is unknown.
    """
    indices = np.asarray(indices)
    if self.labels is None:
      label = np.full(len(indices), -1, np.int32)
    else:
      label = self.labels[indices]
    return {
      'x': {name: np.asarray(a[indices]) for name, a in self.arrays.items()},
      'present': self.present[indices],
      'label': label,
    }


@dataclasses.dataclass(frozen=True)
class MultimodalDataset:
  """Train, validation and test split of the same modalities.

  Attributes:
    modalities: names, in the order of the columns of `Split.present`.
    splits: 'train', 'val' and 'test'.
    num_classes: number of labels; None without labels.
    content_hash: hexadecimal digest of everything the content depends on.
    source: one line for people: what it is, sizes, photographs, licences.
  """

  modalities: tuple[str, ...]
  splits: Mapping[str, Split]
  num_classes: int | None
  content_hash: str
  source: str

  def __post_init__(self):
    if tuple(self.splits) != SPLITS:
      raise UserError(f'A dataset has the splits {SPLITS}, not {tuple(self.splits)}.')
    shapes = {}
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
      if self.num_classes is not None and (
        split.labels is None or split.labels.max() >= self.num_classes
      ):
        raise UserError(
          f'The labels of the {split_name} split are not all below {self.num_classes}.'
        )


class Writer:
  """Where a `build` function of `prepare` puts its arrays.

  Streams blocks to disk: neither a split nor a modality has to fit in memory.
  """

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self.arrays = {}  # file name -> {'shape', 'dtype', 'bytes'}

  def write(self, split: str, name: str, array: np.ndarray) -> None:
    """Writes a modality, `PRESENT` or `LABELS` of a split from one array."""
    blocks = (rows for _, rows in _blocks(array))
    self.write_blocks(split, name, array.shape, array.dtype, blocks)

  def write_blocks(
    self,
    split: str,
    name: str,
    shape: tuple[int, ...],
    dtype: np.typing.DTypeLike,
    blocks: Iterable[np.ndarray],
  ) -> None:
    """Writes an array of `shape` [N, ...] that arrives as blocks of rows."""
    path = self._folder / f'{split}.{name}.npy'
    header = {
      'descr': np.lib.format.dtype_to_descr(np.dtype(dtype)),
      'fortran_order': False,
      'shape': tuple(int(n) for n in shape),
    }
    row = 0
    # Plain writes, not a memory map: a full disk is then an OSError that can be
    # reported, where a memory map ends the process with SIGBUS.
    with open(path, 'wb') as f:
      np.lib.format.write_array_header_2_0(f, header)
      for block in blocks:
        check_finite(name, block, row)
        f.write(np.ascontiguousarray(block, dtype).data)
        row += len(block)
      # The rename must not reach the disk before the content does.
      f.flush()
      os.fsync(f.fileno())
    if row != shape[0]:
      raise ValueError(f'{path.name}: {row} rows were written, not {shape[0]}.')
    self.arrays[path.name] = {
      'shape': header['shape'],
      'dtype': header['descr'],
      'bytes': path.stat().st_size,
    }


def prepare(
  name: str,
  modalities: Sequence[str],
  cache_dir: str,
  key_fields: Mapping[str, Any],
  build: Callable[[Writer], str],
  *,
  memory_limit_gb: float = 8.0,
) -> MultimodalDataset:
  """Opens the prepared dataset, building it first where it is not there yet.

  Args:
    name: of the dataset; begins the name of its folder.
    modalities: names, in order.
    cache_dir: folder that holds all prepared datasets.
    key_fields: everything the content depends on, as JSON: the version of the
      recipe, all arguments, digests of the source files (`fingerprint`).
    build: writes every modality of every split (and optionally `PRESENT` and
      `LABELS`) and returns the line for `MultimodalDataset.source`.
    memory_limit_gb: a smaller dataset is read into memory; a larger one stays
      on disk as memory-mapped arrays.

  Returns:
    The dataset. Its `num_classes` is the largest label of any split plus one.
  """
  modalities = tuple(modalities)
  _check_names(modalities)
  key = {'format': _FORMAT, 'name': name, 'modalities': modalities, **key_fields}
  digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
  folder = pathlib.Path(cache_dir).expanduser() / f'{name}-{digest[:16]}'
  try:
    if not (folder / 'dataset.json').is_file():
      # A rename brings the description along with the arrays, so a folder
      # without one is no dataset of ours that anybody could be reading.
      if folder.is_dir():
        shutil.rmtree(folder)
      with files.atomic_path(folder) as scratch:
        scratch.mkdir()
        writer = Writer(scratch)
        source = build(writer)
        description = {'source': source, 'key': key, 'arrays': writer.arrays}
        files.write_atomic(scratch / 'dataset.json', json.dumps(description, indent=1))
  except OSError as error:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
      raise UserError(
        f'The disk is full: the dataset {name!r} could not be written to '
        f'{folder.parent}; free some space or set another cache folder.'
      ) from error
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
      raise UserError(
        f'The dataset {name!r} could not be prepared in {folder.parent}: {error}; '
        'set a cache folder that you may write to.'
      ) from error
    raise
  return _open(folder, modalities, digest, memory_limit_gb)


def fingerprint(path: pathlib.Path) -> str:
  """Digest of a file's content.

  Of files beyond 1 GiB, only 64 evenly spaced blocks are read, and the size and
  time of change are added: a digest of everything would cost minutes per start.
  """
  path = pathlib.Path(path)
  with open(path, 'rb') as f:
    size = path.stat().st_size
    if size <= _FULL_DIGEST_BYTES:
      return hashlib.file_digest(f, 'md5').hexdigest()
    digest = hashlib.md5(f'{size} {path.stat().st_mtime_ns}'.encode())
    for offset in np.linspace(0, size - (1 << 20), 64).astype(int).tolist():
      f.seek(offset)
      digest.update(f.read(1 << 20))
  return digest.hexdigest()


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


def _check_names(modalities: tuple[str, ...]) -> None:
  """Modality names become parts of file names."""
  if not modalities or len(set(modalities)) != len(modalities):
    raise UserError(f'Modality names must differ and exist; got {modalities}.')
  for name in modalities:
    if name in (PRESENT, LABELS) or not name or set(name) & set('/\\.:'):
      raise UserError(
        f"The modality name {name!r} is not possible: '{PRESENT}' and '{LABELS}' are "
        'taken, and a name has no slash, dot or colon.'
      )


def _open(
  folder: pathlib.Path,
  modalities: tuple[str, ...],
  digest: str,
  memory_limit_gb: float,
) -> MultimodalDataset:
  """Opens a prepared folder after checking that it is what was written."""
  advice = f'delete the folder {folder} to have it prepared again.'
  try:
    description = json.loads((folder / 'dataset.json').read_text())
    recorded, source = description['arrays'], description['source']
    for file_name, entry in recorded.items():
      size = (folder / file_name).stat().st_size
      if size != entry['bytes']:
        raise UserError(
          f'The prepared dataset is damaged: {file_name} has {size:,} bytes instead '
          f'of {entry["bytes"]:,}; {advice}'
        )
    total = sum(entry['bytes'] for entry in recorded.values())
    in_memory = total <= memory_limit_gb * 1e9

    def load(file_name):
      array = np.load(folder / file_name, mmap_mode=None if in_memory else 'r')
      entry = recorded[file_name]
      if array.shape != tuple(entry['shape']) or array.dtype.str != entry['dtype']:
        raise UserError(
          f'The prepared dataset is damaged: {file_name} holds {array.dtype} '
          f'{array.shape}; {advice}'
        )
      return array

    splits, num_classes = {}, None
    for split in SPLITS:
      arrays = {m: load(f'{split}.{m}.npy') for m in modalities}
      labels = present = None
      if f'{split}.{LABELS}.npy' in recorded:
        labels = np.asarray(load(f'{split}.{LABELS}.npy'))
        num_classes = max(num_classes or 0, int(labels.max(initial=-1)) + 1)
      if f'{split}.{PRESENT}.npy' in recorded:
        present = np.asarray(load(f'{split}.{PRESENT}.npy'))
      else:
        num_examples = len(next(iter(arrays.values())))
        present = np.ones((num_examples, len(modalities)), bool)
      splits[split] = Split(arrays, present, labels)
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(f'The prepared dataset cannot be read ({error}); {advice}') from (
      error
    )
  # Labels that are all unknown are no classes.
  return MultimodalDataset(modalities, splits, num_classes or None, digest, source)


def _blocks(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
  """Yields (first row, rows) of a few megabytes each."""
  rows = max(1, _BLOCK_BYTES // max(1, array[:1].nbytes))
  for start in range(0, len(array), rows):
    yield start, array[start : start + rows]
