"""Files that are either whole or absent.

A process can be killed at any instruction. Everything a later run believes is
therefore written beside its final name, flushed to disk and renamed; a rename
within one folder is atomic on POSIX file systems.
"""

import contextlib
import os
import pathlib
import re
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator

from mmsbm.infra.errors import UserError

# What NumPy, zipfile and json raise for a file that is absent, torn or something else.
UNREADABLE = (
  OSError,
  ValueError,
  LookupError,
  EOFError,
  # Encrypted, of unknown compression, or nested too deeply.
  RuntimeError,
  MemoryError,
  OverflowError,
  struct.error,
  zipfile.BadZipFile,
  zlib.error,
)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields a temporary path beside `path`; renames it there on success.

  The temporary path does not exist yet: the body creates a file or a folder.
  On an exception it is deleted and `path` is left as it was. An existing file
  is replaced; an existing folder wins (somebody else finished first).
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  scratch = pathlib.Path(tempfile.mkdtemp(prefix=f'.{path.name}.', dir=path.parent))
  temporary = scratch / path.name
  try:
    yield temporary
    if temporary.is_file():
      with open(temporary, 'rb+') as f:
        os.fsync(f.fileno())
    if not (temporary.is_dir() and path.is_dir()):
      os.replace(temporary, path)
  finally:
    shutil.rmtree(scratch, ignore_errors=True)


def write_atomic(path: str | os.PathLike, data: bytes | str) -> None:
  """Writes `data` to `path` so that no reader ever sees a part of it."""
  with atomic_path(path) as temporary:
    temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def local_path(path: str | os.PathLike) -> pathlib.Path:
  """Returns a path of this machine, with ~ as the user's folder.

  Raises:
    UserError: it is an address of another machine, e.g. gs://bucket/folder.
  """
  text = os.fspath(path)
  scheme = re.match(r'([A-Za-z][A-Za-z0-9+.-]*):/', text)
  if scheme:
    raise UserError(
      f'{text} is no path of this machine, and {scheme[1]}:// is not supported: mount '
      'it, or copy it here.'
    )
  return pathlib.Path(text).expanduser()
