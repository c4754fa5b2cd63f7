"""Datasets that are prepared once and opened many times.

A builder (`mmsbm.data.DATASETS`) describes its result by everything that it
depends on, and `prepare` keeps one folder per description:

    <cache_dir>/<name>-<hash>/dataset.json
                              train.m0.npy  train.present.npy  train.labels.npy
                              train.annotation.speaker.npy ...

The folder is made under a scratch name and renamed when it is complete, so a
run that is killed leaves nothing that a later run would believe.
"""

import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mmsbm.data.dataset import (
  CLASS,
  SPLITS,
  MultimodalDataset,
  Split,
  check_finite,
  in_blocks,
)
from mmsbm.infra import files
from mmsbm.infra.errors import UserError
from mmsbm.modalities.base import check_name, check_names

# File names of what belongs to a split and is no modality: whether the examples have
# a modality, the annotation `CLASS`, and a beginning for all other annotations, which
# no modality has because names have no dot.
PRESENT, LABELS, _ANNOTATION = 'present', 'labels', 'annotation'

# Raise it when the meaning of the files changes: older folders are then unused.
_FORMAT = 1
# Larger files are identified by samples of their content, see `fingerprint`.
_FULL_DIGEST_BYTES = 1 << 30


class Writer:
  """Where a `build` function of `prepare` puts its arrays, by blocks or whole."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self.arrays = {}  # file name -> {'shape', 'dtype', 'bytes'}

  def write(self, split: str, name: str, array: np.ndarray) -> None:
    """Writes a modality or `PRESENT` of a split from one array."""
    blocks = (rows for _, rows in in_blocks(array))
    self.write_blocks(split, name, array.shape, array.dtype, blocks)

  def annotate(self, split: str, name: str, array: np.ndarray) -> None:
    """Writes an annotation of a split, see `Split.annotations`."""
    check_name('annotation', name)
    self.write(split, LABELS if name == CLASS else f'{_ANNOTATION}.{name}', array)

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
    name: begins the name of its folder in `cache_dir`.
    modalities: names, in order.
    cache_dir: folder of all prepared datasets.
    key_fields: everything the content depends on, as JSON: the version of the
      recipe, all arguments, digests of the source files (`fingerprint`).
    build: writes every modality of every split (and optionally `PRESENT` and
      annotations) and returns the line for `MultimodalDataset.source`.
    memory_limit_gb: a smaller dataset is read into memory; a larger one stays
      on disk as memory-mapped arrays.

  The `num_classes` of the result are the largest labels of any split plus one.
  """
  modalities = tuple(modalities)
  check_names(modalities)
  key = {'format': _FORMAT, 'name': name, 'modalities': modalities, **key_fields}
  digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
  folder = files.local_path(cache_dir) / f'{name}-{digest[:16]}'
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


def _open(
  folder: pathlib.Path,
  modalities: tuple[str, ...],
  digest: str,
  memory_limit_gb: float,
) -> MultimodalDataset:
  """Opens a prepared folder after checking that it is what was written."""
  advice = f'delete the folder {folder} to have it prepared again.'
  try:
    description = json.loads((folder / 'dataset.json').read_text('utf-8'))
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

    splits, num_classes = {}, {}
    for split in SPLITS:
      arrays = {m: load(f'{split}.{m}.npy') for m in modalities}
      annotations = {}
      for file_name in recorded:
        if name := _annotation(file_name, split):
          annotations[name] = labels = np.asarray(load(file_name))
          if labels.ndim == 1:
            top = int(labels.max(initial=-1)) + 1
            num_classes[name] = max(num_classes.get(name, 0), top)
      if f'{split}.{PRESENT}.npy' in recorded:
        present = np.asarray(load(f'{split}.{PRESENT}.npy'))
      else:
        num_examples = len(next(iter(arrays.values())))
        present = np.ones((num_examples, len(modalities)), bool)
      splits[split] = Split(arrays, present, annotations)
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    message = f'The prepared dataset cannot be read ({error}); {advice}'
    raise UserError(message) from error
  # Labels that are all unknown are no classes.
  num_classes = {name: count for name, count in num_classes.items() if count}
  return MultimodalDataset(modalities, splits, num_classes, digest, source)


def _annotation(file_name: str, split: str) -> str | None:
  """The annotation of the split that a file holds; None if it holds something else."""
  pattern = rf'{split}\.(?:{LABELS}|{_ANNOTATION}\.([^.]+))\.npy'
  match = re.fullmatch(pattern, file_name)
  return match and (match[1] or CLASS)
