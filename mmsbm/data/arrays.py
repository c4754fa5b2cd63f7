"""Dataset 'arrays': the user's own data, as .npy or .npz files.

The rows of a split are copied to the prepared dataset, so that batches are read
from one contiguous file. A .npy file is memory-mapped while it is copied and
need not fit in memory; a member of an .npz has to.
"""

import contextlib
import functools
import pathlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mmsbm.data import digits, store
from mmsbm.data.dataset import CLASS, SPLITS, MultimodalDataset, check_count
from mmsbm.infra import files as files_lib
from mmsbm.infra.errors import UserError
from mmsbm.modalities.base import Modality, check_name

_VERSION = 1
_BLOCK_BYTES = 1 << 24


def build(
  modalities: Sequence[Modality],
  cache_dir: str,
  *,
  files: Mapping[str, str] | str = '',
  labels: str = '',
  annotations: Mapping[str, str] | None = None,
  present: str = '',
  split: Sequence[float] = (0.8, 0.1, 0.1),
  split_file: str = '',
  standin: bool = False,
  seed: int = 0,
  memory_limit_gb: float = 8.0,
) -> MultimodalDataset:
  """Builds the dataset, or opens it where it was built before.

  Every location is 'path.npy', 'path.npz' or 'path.npz:member'. Without a member
  the one named like the modality or annotation ('labels', 'present', 'split') is
  meant, or the only one.

  Args:
    modalities: in the order of the columns of `present`.
    cache_dir: folder of prepared datasets.
    files: the location of each modality, [N, ...]; or one .npz that has all of
      them, and perhaps members 'labels' and 'present'. Floating-point data become
      float32, truth values uint8.
    labels: location of integers [N], -1 where unknown: the annotation 'class'; empty
      for none.
    annotations: locations of what else is known of the examples: integers [N] as
      above, or 0/1 [N, A].
    present: location of [N, M] truth values; empty: a row of floating-point data
      that is NaN throughout is missing.
    split: shares of train, val and test, drawn at random.
    split_file: location of [N] integers, 0 train, 1 val, 2 test, in place of
      `split`.
    standin: without `files`, read the file of `write_standin`: for trying the
      program.
    seed: of the random split.
    memory_limit_gb: see `store.prepare`.
  """
  names = tuple(modality.name for modality in modalities)
  annotations = dict(annotations or {})
  for name in annotations:
    check_name('annotation', name)
  if labels and CLASS in annotations:
    raise UserError(
      f'data.labels and data.annotations[{CLASS!r}] mean the same; give one of them.'
    )
  labels = annotations.pop(CLASS, '') or labels
  if standin and not files:
    files = _standin_file(cache_dir)
  if not files:
    raise UserError(
      f'data.files is empty: give --config.data.files=FILE.npz with the members '
      f'{list(names)}, or in the config the location of each of them.'
    )
  if isinstance(files, str):
    members = _members(files_lib.local_path(files))
    labels = labels or (files if store.LABELS in members else '')
    present = present or (files if store.PRESENT in members else '')
    files = {name: f'{files}:{name}' for name in names}
  if set(files) != set(names):
    raise UserError(
      f'data.files names {sorted(files)}, but the modalities are {list(names)}.'
    )
  arrays = {name: _load(files[name], name) for name in names}
  num = len(arrays[names[0]])
  for name, array in arrays.items():
    _check_rows(f'Modality {name!r}', array, num, names[0])
    if array.dtype.kind not in 'biuf':
      raise UserError(f'Modality {name!r} holds {array.dtype}, not numbers.')

  def load(location: str, member: str) -> np.ndarray:
    array = np.asarray(_load(location, member))
    _check_rows(location, array, num, names[0])
    return array

  known = {n: _annotation(n, load(where, n), where) for n, where in annotations.items()}
  if labels:
    known[CLASS] = _labels(load(labels, store.LABELS), labels)
  given = _load_present(present, num, len(names)) if present else None
  seed = check_count('seed', seed, minimum=0)
  if split_file:
    which = _integers(load(split_file, 'split'), split_file)
    if not np.isin(which, (0, 1, 2)).all():
      raise UserError(f'{split_file} must hold 0 (train), 1 (val) and 2 (test) only.')
    rows = {name: np.flatnonzero(which == i) for i, name in enumerate(SPLITS)}
  else:
    rows = _draw_split(num, tuple(split), seed)
  for name, indices in rows.items():
    if not len(indices):
      raise UserError(f'The {name} split of the {num} examples is empty.')

  def write(writer: store.Writer) -> str:
    for split_name, indices in rows.items():
      found = (
        np.ones((len(indices), len(names)), bool) if given is None else given[indices]
      )
      for (name, array), here in zip(arrays.items(), found.T, strict=True):
        dtype = {'f': np.float32, 'b': np.uint8}.get(array.dtype.kind, array.dtype)
        blocks = _blocks(name, array, indices, here, given is None, dtype)
        shape = (len(indices), *array.shape[1:])
        writer.write_blocks(split_name, name, shape, dtype, blocks)
      writer.write(split_name, store.PRESENT, found)
      for name, values in known.items():
        writer.annotate(split_name, name, values[indices])
    kinds = ', '.join(f'{n} {list(a.shape[1:])} {a.dtype}' for n, a in arrays.items())
    numbers = '/'.join(f'{len(indices):,}' for indices in rows.values())
    return f'arrays: {kinds}; {numbers} train/val/test examples'

  @functools.cache
  def fingerprint(path: pathlib.Path) -> str:
    return store.fingerprint(path)

  def content(location: str) -> list[str] | None:
    """Content, not place: a folder that was moved is the same dataset."""
    path, member = _parse(location)
    return [fingerprint(path), member] if location else None

  locations = [*(files[name] for name in names), labels, present, split_file]
  key = {
    'recipe': _VERSION,
    'files': [content(location) for location in locations],
    'split': None if split_file else [[float(s) for s in split], seed],
  }
  if annotations:
    key['annotations'] = {n: content(where) for n, where in annotations.items()}
  return store.prepare(
    'arrays', names, cache_dir, key, write, memory_limit_gb=memory_limit_gb
  )


def _blocks(
  name: str,
  array: np.ndarray,
  indices: np.ndarray,
  found: np.ndarray,
  find_missing: bool,
  dtype: np.dtype,
) -> Iterator[np.ndarray]:
  """Yields rows of a modality; those that are not `found` [n] become zero.

  With `find_missing` that column is filled in.
  """
  step = max(1, _BLOCK_BYTES // max(1, array[:1].nbytes))
  for start in range(0, len(indices), step):
    part = indices[start : start + step]
    block, here = array[part], found[start : start + step]
    if array.dtype.kind == 'f':
      flat = block.reshape(len(block), -1)
      if find_missing:
        here[:] = ~np.isnan(flat).all(axis=1)
      finite = np.isfinite(flat).all(axis=1) | ~here
      if not finite.all():
        raise UserError(
          f'Modality {name!r} has NaN or infinite values in row '
          f'{part[np.argmin(finite)]} of its file; a missing example is NaN '
          'throughout, or False in data.present.'
        )
    block = block.astype(dtype)
    block[~here] = 0
    yield block


def _parse(location: str) -> tuple[pathlib.Path, str]:
  """Splits 'path.npz:member'; the member is '' if there is none."""
  head, separator, member = location.rpartition(':')
  if separator and head.endswith('.npz'):
    return files_lib.local_path(head), member
  return files_lib.local_path(location), ''


def _members(path: pathlib.Path) -> list[str]:
  """Names in an .npz."""
  if path.suffix != '.npz':
    raise UserError(
      f'data.files is {str(path)!r}; give one .npz that has all modalities, or a '
      'location for each of them.'
    )
  with _readable(path), open(path, 'rb') as f, np.load(f) as archive:
    return archive.files


def _load(location: str, default_member: str) -> np.ndarray:
  """Opens an array; a .npy stays on disk."""
  path, member = _parse(location)
  if path.suffix == '.npy':
    with _readable(path):
      array = np.load(path, mmap_mode='r')
  elif path.suffix == '.npz':
    # Opened here: numpy leaves a damaged file open.
    with _readable(path), open(path, 'rb') as f, np.load(f) as archive:
      names = archive.files
      if not member:
        member = names[0] if len(names) == 1 else default_member
      if member not in names:
        raise UserError(f'{path} has no member {member!r}; it has {sorted(names)}.')
      array = archive[member]
  else:
    raise UserError(f'{path} is neither a .npy nor a .npz file.')
  if array.ndim == 0:
    raise UserError(f'{location} holds a single number, not one row per example.')
  return array


@contextlib.contextmanager
def _readable(path: pathlib.Path) -> Iterator[None]:
  """Reports what can be wrong with a file in one line."""
  if not path.is_file():
    raise UserError(f'The file {path} does not exist.')
  try:
    yield
  except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
    if 'Object arrays' in str(error) or 'Python objects' in str(error):
      raise UserError(
        f'{path} holds Python objects, which are not read (unpickling runs code); '
        'save a plain array of numbers.'
      ) from error
    reason = str(error).partition('\n')[0]
    if 'pickled' in reason:  # What numpy supposes of any unknown content.
      reason = 'it is not a numpy file'
    raise UserError(f'{path} cannot be read, it may be damaged: {reason}') from error
  except (TypeError, AttributeError) as error:  # An .npy that is called .npz.
    raise UserError(f'{path} is not an .npz archive.') from error


def _check_rows(what: str, array: np.ndarray, num: int, first: str) -> None:
  if len(array) != num:
    raise UserError(
      f'{what} has {len(array)} rows, but modality {first!r} has {num}; every '
      'example needs a row in every array.'
    )


def _integers(array: np.ndarray, location: str) -> np.ndarray:
  """Whole numbers [N] as int64."""
  if array.ndim != 1 or array.dtype.kind not in 'iu':
    raise UserError(
      f'{location} is {array.dtype} {array.shape}; it must be integers ({len(array)},).'
    )
  return array.astype(np.int64)


def _labels(array: np.ndarray, location: str) -> np.ndarray:
  """Class labels [N] as int32."""
  labels = _integers(array, location)
  if labels.min(initial=0) < -1 or labels.max(initial=0) >= 2**31 - 1:
    raise UserError(
      f'The labels in {location} must be 0 to K - 1, or -1 where unknown; they are '
      f'{labels.min()} to {labels.max()}.'
    )
  return labels.astype(np.int32)


def _annotation(name: str, array: np.ndarray, location: str) -> np.ndarray:
  """Class labels [N] as int32 or properties [N, A] as uint8."""
  if array.ndim == 1:
    return _labels(array, location)
  is_binary = array.dtype.kind in 'biu' and np.isin(array, (0, 1)).all()
  if array.ndim != 2 or not is_binary:
    raise UserError(
      f'{location} is {array.dtype} {array.shape}; the annotation {name!r} must be '
      f'integers ({len(array)},), or 0 and 1 ({len(array)}, A).'
    )
  return array.astype(np.uint8)


def _load_present(location: str, num: int, num_modalities: int) -> np.ndarray:
  present = np.asarray(_load(location, store.PRESENT))
  if present.shape != (num, num_modalities) or not np.isin(present, (0, 1)).all():
    raise UserError(
      f'{location} is {present.dtype} {present.shape}; it must be True or False for '
      f'each of {num} examples and {num_modalities} modalities.'
    )
  return present.astype(bool)


def _draw_split(
  num: int, shares: tuple[float, ...], seed: int
) -> dict[str, np.ndarray]:
  """Shares out the rows at random; within a split they keep their order."""
  if len(shares) != 3 or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
    raise UserError(
      f'data.split is {shares}; it must be three positive shares that sum to 1.'
    )
  order = np.random.default_rng(seed).permutation(num)
  bounds = np.rint(np.cumsum(shares)[:2] * num).astype(int)
  parts = np.split(order, bounds)
  return {n: np.sort(p) for n, p in zip(SPLITS, parts, strict=True)}


def _standin_file(cache_dir: str) -> str:
  """The file of `write_standin`; written where it is not there yet."""
  path = files_lib.local_path(cache_dir) / f'arrays-standin-{_VERSION}.npz'
  if not path.is_file():
    write_standin(path)
  return str(path)


def write_standin(path: pathlib.Path, num: int = 600, seed: int = 0) -> None:
  """Writes a small .npz as a user may have it: four kinds, some examples missing.

  Made from the digits of scikit-learn; the profile is sums over rows and columns of
  *another* instance of the digit, a tenth of them missing.
  """
  pixels, labels = digits.load_instances()
  rng = np.random.default_rng(seed)
  rows = rng.permutation(len(labels))[:num]
  label = labels[rows]
  # Modalities share the digit and nothing else.
  other = np.array([rng.choice(np.flatnonzero(labels == k)) for k in label])
  profile = np.concatenate([pixels[other].sum(1), pixels[other].sum(2)], 1) / 64
  properties = [label % 2, label > 4, np.isin(label, (0, 6, 8, 9)), label % 3 == 0]
  profile[rng.random(num) < 0.1] = np.nan
  image = np.rint(digits.warp(pixels[rows], 16) * (255 / 16)).astype(np.uint8)
  with files_lib.atomic_path(path) as temporary, open(temporary, 'wb') as f:
    np.savez(
      f,
      image=image[..., None],
      attributes=np.stack(properties, 1).astype(np.uint8),
      profile=profile,
      number=label,
      labels=label,
    )
