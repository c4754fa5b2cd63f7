"""Digests: every file of a run is compared with what it was when it was written.

A digest is the SHA-256 of the content and of `of`, which says what it is the content
of, so that no file stands in for another one. It lies in digests.json beside the files
of a folder, or within an .npz or .json file. Changed bits, edits, cut files and files
in the place of others are found; who computes digests anew is not.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import pathlib
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mmsbm.infra.errors import UserError
from mmsbm.infra.files import UNREADABLE, atomic_path, write_atomic

NAME = 'digests.json'
# Of a member of an .npz, without its suffix, and of a key of a .json file.
KEY = 'digest'


class Damaged(UserError):
  """A file is not what was written there; what it holds is not believed."""


@contextlib.contextmanager
def reading(path: str | os.PathLike, remedy: str = '') -> Iterator[None]:
  """Turns what reading a file can raise into one line; an absent file stays one.

  Raises:
    Damaged: the content makes no sense.
    UserError: the file cannot be read, which says nothing of its content.
  """
  try:
    yield
  except (FileNotFoundError, UserError):
    raise
  except UNREADABLE as e:
    # NumPy and zipfile raise OSErrors of their own, without a number or by bad seeks.
    if isinstance(e, OSError) and e.errno not in (None, errno.EINVAL):
      raise UserError(
        f'{path} cannot be read ({e.strerror}); its content may be whole: make it '
        'readable and run the same command again.'
      ) from e
    what = ' '.join(str(e).split())[:100] or type(e).__name__
    raise Damaged(f'{path} is damaged ({what}). {remedy}'.rstrip()) from e


def differs(path: str | os.PathLike, remedy: str = '') -> Damaged:
  """The error for a file with another content than the one that was written."""
  text = f'{path} is not as it was written: damaged or changed. {remedy}'
  return Damaged(text.rstrip())


@functools.lru_cache(maxsize=4096)
def _sha256(path: str, size: int, changed: int) -> str:
  """Digest of a file; read once by a process while size and time are the same."""
  del size, changed
  with open(path, 'rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()


def sha256(path: str | os.PathLike) -> str:
  """Hexadecimal SHA-256 of a file."""
  stat = os.stat(path)
  return _sha256(os.path.abspath(path), stat.st_size, stat.st_mtime_ns)


@functools.cache
def warn(text: str) -> None:
  """Says once in a process that it goes on without a file."""
  print(f'warning: {text}', file=sys.stderr)


# --- JSON -----------------------------------------------------------------------


def _of_json(content: Mapping[str, Any], of: str) -> str:
  text = json.dumps([of, content], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def to_json(content: Mapping[str, Any], of: str = '') -> str:
  """An object as JSON, with its digest."""
  # As it is read back: tuples are lists, and keys texts.
  content = json.loads(json.dumps(content))
  return json.dumps(content | {KEY: _of_json(content, of)}, indent=1) + '\n'


def read_json(
  path: str | os.PathLike, of: str = '', *, remedy: str = '', required: bool = True
) -> dict[str, Any]:
  """Returns the object that `to_json` wrote, without its digest.

  Args:
    path: of the file.
    of: what it must be of.
    remedy: a sentence that ends the messages of errors.
    required: whether one without a digest, of an older version, is refused.

  Raises:
    FileNotFoundError: there is none.
    Damaged: it is not what was written.
    UserError: it cannot be read.
  """
  with reading(path, remedy):
    content = json.loads(pathlib.Path(path).read_bytes())
    if not isinstance(content, dict):
      raise ValueError('not an object')
    found = content.pop(KEY, None)
    if (required or found is not None) and found != _of_json(content, of):
      raise differs(path, remedy)
  return content


# --- arrays -----------------------------------------------------------------------


def _of_members(archive: zipfile.ZipFile, of: str) -> str:
  digest = hashlib.sha256(of.encode())
  for name in sorted(set(archive.namelist()) - {f'{KEY}.npy'}):
    digest.update(f'\0{name}\0{archive.getinfo(name).file_size}\0'.encode())
    with archive.open(name) as f:
      while block := f.read(1 << 20):
        digest.update(block)
  return digest.hexdigest()


def write_npz(
  path: str | os.PathLike, arrays: Mapping[str, Any], of: str, *, compress: bool = False
) -> None:
  """Writes arrays with their digest to an .npz file, at once."""
  arrays = {name: array for name, array in arrays.items() if name != KEY}
  with atomic_path(path) as temporary:
    with open(temporary, 'wb') as f:
      (np.savez_compressed if compress else np.savez)(f, **arrays)
    with zipfile.ZipFile(temporary, 'a') as archive:
      digest = np.array(_of_members(archive, of))
      with archive.open(f'{KEY}.npy', 'w') as f:
        np.lib.format.write_array(f, digest)


def read_npz(
  path: str | os.PathLike, of: str | None = None, *, remedy: str = ''
) -> dict[str, np.ndarray]:
  """Returns the arrays that `write_npz` wrote, without their digest.

  Args:
    path: of the file.
    of: what they must be of; None: what the array `stamp` in it says.
    remedy: a sentence that ends the messages of errors.

  Raises:
    FileNotFoundError: there is none.
    Damaged: it is not what was written, or of something else.
    UserError: it cannot be read.
  """
  with reading(path, remedy):
    # NumPy leaves a file open that turns out to be no archive.
    with open(path, 'rb') as f, zipfile.ZipFile(f) as archive:
      with archive.open(f'{KEY}.npy') as member:
        found = str(np.lib.format.read_array(member))
      if of is None:
        with archive.open('stamp.npy') as member:
          of = str(np.lib.format.read_array(member))
      if found != _of_members(archive, of):
        raise differs(path, remedy)
    with open(path, 'rb') as f, np.load(f) as stored:
      return {name: stored[name] for name in stored.files if name != KEY}


# --- folders ----------------------------------------------------------------------


def write_folder(
  folder: str | os.PathLike, files: Iterable[str], of: str, **more: Any
) -> None:
  """Writes digests.json of `files`, relative paths, in a folder, and `more`."""
  found = {name: sha256(pathlib.Path(folder, name)) for name in sorted(files)}
  text = to_json({'of': of, 'files': found, **more})
  write_atomic(pathlib.Path(folder, NAME), text)


def check_folder(
  folder: str | os.PathLike,
  of: str | None = None,
  *,
  under: Sequence[str] | None = None,
  remedy: str = '',
) -> str | None:
  """Compares the files of a folder with digests.json.

  Args:
    folder: of the files.
    of: what they must be of, if that is known.
    under: beginnings of the paths that are looked at; all if None.
    remedy: a sentence that ends the messages of errors.

  Returns:
    What they are of; None if there are no digests, in folders of older versions.

  Raises:
    Damaged: a file is missing or not what was written, or of something else.
    UserError: one cannot be read.
  """
  path = pathlib.Path(folder, NAME)
  try:
    content = read_json(path, remedy=remedy)
  except FileNotFoundError:
    return None
  if of is not None and content['of'] != of:
    raise Damaged(f'{folder} is of another run, step or learner. {remedy}'.rstrip())
  for name, digest in content['files'].items():
    if under is None or name.startswith(tuple(under)):
      file = pathlib.Path(folder, name)
      try:
        with reading(file, remedy):
          same = sha256(file) == digest
      except FileNotFoundError as e:
        raise Damaged(f'{file} is missing. {remedy}'.rstrip()) from e
      if not same:
        raise differs(file, remedy)
  return content['of']
