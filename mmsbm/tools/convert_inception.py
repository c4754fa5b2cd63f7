r"""Converts the published weights of the FID Inception network, without torch.

    python -m mmsbm.tools.convert_inception \
      --source pt_inception-2015-12-05-6726825d.pth --output inception.npz

The source is the PyTorch port that pytorch-fid publishes; with --download it is
fetched if it is not there. Its SHA-256 is checked, and it is read by an
unpickler that knows tensors and ordered dictionaries and nothing else: no code
in the file can run.
"""

import argparse
import collections
import dataclasses
import hashlib
import http.client
import io
import os
import pathlib
import pickle
import sys
import urllib.request
import zipfile

import numpy as np

from mmsbm.infra import files
from mmsbm.infra.errors import UserError
from mmsbm.nn import inception

FILE_NAME = 'pt_inception-2015-12-05-6726825d.pth'
URL = (
  f'https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE_NAME}'
)
# The name ends in the first 8 digits, which is the convention of torch.hub.
SHA256 = '6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2'

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_STORAGES = {
  'FloatStorage': '<f4',
  'DoubleStorage': '<f8',
  'HalfStorage': '<f2',
  'LongStorage': '<i8',
  'IntStorage': '<i4',
  'ShortStorage': '<i2',
  'CharStorage': '|i1',
  'ByteStorage': '|u1',
  'BoolStorage': '|b1',
}


class _Rejected(Exception):
  """The file is not a state dict in a format we read."""


@dataclasses.dataclass(frozen=True)
class _Tensor:
  """A tensor before its storage has been read: both formats store data last."""

  key: str
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]

  def __post_init__(self):
    numbers = (self.offset, *self.shape, *self.strides)
    if len(self.shape) != len(self.strides) or not all(
      type(n) is int and n >= 0 for n in numbers
    ):
      raise _Rejected('a tensor has an impossible shape')

  def __setstate__(self, state):
    # Pickle would set fields after they were checked.
    raise _Rejected('it sets the state of a tensor')

  def read(self, storages: dict[str, np.ndarray]) -> np.ndarray:
    data = storages[self.key]
    last = sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
    # as_strided checks nothing: without this a file could read our memory.
    if 0 not in self.shape and self.offset + last >= data.size:
      raise _Rejected('a tensor is larger than its storage')
    if 0 in self.shape:
      return np.zeros(self.shape, data.dtype)
    strides = tuple(s * data.itemsize for s in self.strides)
    view = np.lib.stride_tricks.as_strided(data[self.offset :], self.shape, strides)
    return view.copy()


class _Unpickler(pickle.Unpickler):
  """Reads tensors, ordered dictionaries and plain values; refuses all else.

  Attributes:
    storages: {key: (dtype, number of elements)} of the storages referred to.
  """

  def __init__(self, file):
    super().__init__(file, encoding='utf-8')
    self.storages = {}

  def find_class(self, module, name):
    if (module, name) == ('collections', 'OrderedDict'):
      return collections.OrderedDict
    if module == 'torch' and name in _STORAGES:
      return _STORAGES[name]  # A text: pickle can set the state of a dtype.
    if module == 'torch._utils':
      if name in ('_rebuild_tensor', '_rebuild_tensor_v2'):
        # Later arguments: requires_grad, hooks, metadata.
        return lambda key, offset, shape, strides, *_: _Tensor(
          key, offset, tuple(shape), tuple(strides)
        )
      if name == '_rebuild_parameter':
        return lambda tensor, *_: tensor
    raise _Rejected(f'it asks for {module}.{name}, which a state dict never does')

  def persistent_load(self, pid):
    kind, dtype, key, _, size, *view = pid
    if kind != 'storage' or dtype not in _STORAGES.values() or any(view):
      raise _Rejected('it refers to something that is not a storage')
    if type(key) is not str or type(size) is not int or size < 0:
      raise _Rejected('a storage has an impossible size')
    storage = (np.dtype(dtype), size)
    if self.storages.setdefault(key, storage) != storage:
      raise _Rejected('two storages share a name')
    return key


def _read_zip(data: bytes):
  """State dict and storages of the archive that torch >= 1.6 writes."""
  with zipfile.ZipFile(io.BytesIO(data)) as archive:
    roots = [n[:-8] for n in archive.namelist() if n.endswith('data.pkl')]
    if len(roots) != 1:
      raise _Rejected('the archive has no data.pkl')
    root = roots[0]
    order = f'{root}byteorder'
    if order in archive.namelist() and archive.read(order) != b'little':
      raise _Rejected('it was written on a big-endian machine')
    unpickler = _Unpickler(io.BytesIO(archive.read(f'{root}data.pkl')))
    state = unpickler.load()
    storages = {}
    for key, (dtype, size) in unpickler.storages.items():
      # Sizes before reading: a compressed member can be larger than memory.
      if archive.getinfo(f'{root}data/{key}').file_size != size * dtype.itemsize:
        raise _Rejected('a storage has another size than announced')
      storages[key] = np.frombuffer(archive.read(f'{root}data/{key}'), dtype)
  return state, storages


def _read_legacy(data: bytes):
  """State dict and storages of the stream that torch < 1.6 writes.

  Five pickles (magic number, protocol, sizes of C types, object, storage keys),
  then for each key the number of elements as int64 and the raw elements.
  """
  stream = io.BytesIO(data)
  if _Unpickler(stream).load() != _LEGACY_MAGIC:
    raise _Rejected('it does not begin as torch files do')
  if _Unpickler(stream).load() != _LEGACY_PROTOCOL:
    raise _Rejected('its protocol is unknown')
  if not _Unpickler(stream).load().get('little_endian', True):
    raise _Rejected('it was written on a big-endian machine')
  unpickler = _Unpickler(stream)
  state = unpickler.load()
  storages = {}
  for key in _Unpickler(stream).load():
    dtype, size = unpickler.storages[key]
    header = stream.read(8)
    raw = stream.read(size * dtype.itemsize)
    if len(header) < 8 or len(raw) < size * dtype.itemsize:
      raise _Rejected('it ends too early')
    if int.from_bytes(header, 'little') != size:
      raise _Rejected('a storage has another size than announced')
    storages[key] = np.frombuffer(raw, dtype)
  return state, storages


def read_state_dict(data: bytes, source: str) -> dict[str, np.ndarray]:
  """Arrays of a torch state dict, in either serialisation format of torch.

  Args:
    data: content of the file.
    source: its name, for messages.
  """
  try:
    reader = _read_zip if data[:4] == b'PK\x03\x04' else _read_legacy
    state, storages = reader(data)
    if not isinstance(state, dict) or not all(
      isinstance(k, str) and isinstance(v, _Tensor) for k, v in state.items()
    ):
      raise _Rejected('it holds something else than named tensors')
    return {name: tensor.read(storages) for name, tensor in state.items()}
  except Exception as error:  # a damaged pickle can raise anything at all
    reason = str(error) if isinstance(error, _Rejected) else 'it is damaged'
    raise UserError(
      f'{source} is not a torch state dict: {reason}; fetch it again from {URL}'
    ) from error


def check_digest(data: bytes, source: str, sha256: str = SHA256) -> None:
  found = hashlib.sha256(data).hexdigest()
  if found != sha256:
    raise UserError(
      f'{source} ({len(data):,} bytes) is truncated or another file: its SHA-256 is '
      f'{found[:8]}..., not {sha256[:8]}...; fetch it again from {URL}'
    )


def _write(path: str | os.PathLike, data: bytes) -> None:
  try:
    files.write_atomic(path, data)
  except OSError as error:
    raise UserError(f'Cannot write {path} ({error.strerror}).') from error


def download(path: str | os.PathLike) -> None:
  """Fetches the published file (96 MB) to `path`; nothing is left of a failure."""
  try:
    with urllib.request.urlopen(URL, timeout=60) as response:
      data = response.read()
  except (OSError, http.client.HTTPException) as error:
    raise UserError(
      f'Cannot download {URL} ({error}): fetch it on another machine and pass it '
      'with --source.'
    ) from error
  check_digest(data, URL)
  _write(path, data)


def convert(
  source: str | os.PathLike, output: str | os.PathLike, *, sha256: str = SHA256
) -> None:
  """Writes the network's variables as an .npz file; see the module's docstring.

  Args:
    source: the published .pth file.
    output: the .npz file to write, for `mmsbm.nn.inception.load_inception`.
    sha256: digest that the source must have.
  """
  try:
    data = pathlib.Path(source).read_bytes()
  except OSError as error:
    raise UserError(
      f'Cannot read {source} ({error.strerror}): add --download, or fetch it from {URL}'
    ) from error
  check_digest(data, str(source), sha256)
  flat = inception.convert_state_dict(read_state_dict(data, str(source)))
  inception.check_shapes(flat, str(source))
  buffer = io.BytesIO()
  np.savez(buffer, **flat)
  _write(output, buffer.getvalue())


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog='python -m mmsbm.tools.convert_inception', description=__doc__.splitlines()[0]
  )
  parser.add_argument('--source', default=FILE_NAME, help=f'default: {FILE_NAME}')
  parser.add_argument('--output', default='inception.npz', help='the .npz to write')
  parser.add_argument(
    '--download', action='store_true', help=f'fetch the source if missing: {URL}'
  )
  args = parser.parse_args(argv)
  try:
    if args.download and not os.path.exists(args.source):
      download(args.source)
    convert(args.source, args.output)
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  print(f'Wrote {args.output}.')
  return 0


if __name__ == '__main__':
  sys.exit(main())
