"""The converter, on files that the tests write themselves, without torch."""

import collections
import hashlib
import http.client
import io
import os
import pickle
import struct
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest

from mmsbm.infra.errors import UserError
from mmsbm.nn import inception
from mmsbm.tools import convert_inception

LEGACY_HEADER = (0x1950A86A20F9469CFC6C, 1001, {'little_endian': True})
NAMES = {'f4': 'FloatStorage', 'i8': 'LongStorage', 'f8': 'DoubleStorage'}


class Storage:
  def __init__(self, key, array):
    self.key, self.array = key, np.ascontiguousarray(array)


class Tensor:
  """Pickles as a torch tensor does: a call on a storage, an offset and strides."""

  def __init__(self, storage, shape, strides, offset=0):
    self.args = (storage, offset, shape, strides, False, collections.OrderedDict())

  def __reduce__(self):
    return sys.modules['torch._utils']._rebuild_tensor_v2, self.args


@pytest.fixture
def dump(monkeypatch):
  """Returns a function that pickles with stand-ins for the classes of torch."""
  torch, utils = types.ModuleType('torch'), types.ModuleType('torch._utils')
  for name in NAMES.values():
    setattr(torch, name, type(name, (), {'__module__': 'torch'}))

  def _rebuild_tensor_v2(*args): ...

  _rebuild_tensor_v2.__module__ = 'torch._utils'
  _rebuild_tensor_v2.__qualname__ = '_rebuild_tensor_v2'
  utils._rebuild_tensor_v2 = _rebuild_tensor_v2
  monkeypatch.setitem(sys.modules, 'torch', torch)
  monkeypatch.setitem(sys.modules, 'torch._utils', utils)

  def dump(value, legacy):
    class Pickler(pickle.Pickler):
      def persistent_id(self, obj):
        if isinstance(obj, Storage):
          kind = getattr(torch, NAMES[obj.array.dtype.str[1:]])
          pid = ('storage', kind, obj.key, 'cpu', obj.array.size)
          return (*pid, None) if legacy else pid

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue()

  return dump


def as_state_dict(arrays):
  """The tensors and storages of arrays, one storage each."""
  storages = [Storage(str(i), a) for i, a in enumerate(arrays.values())]
  state = collections.OrderedDict()
  for name, storage in zip(arrays, storages, strict=True):
    array = storage.array
    strides = tuple(s // array.itemsize for s in array.strides)
    state[name] = Tensor(storage, array.shape, strides)
  state._metadata = collections.OrderedDict({'': {'version': 1}})
  return state, storages


def write(dump, state, storages, legacy):
  """The bytes of a torch file in either format."""
  if legacy:
    parts = [pickle.dumps(x, protocol=2) for x in LEGACY_HEADER]
    parts.append(dump(state, legacy))
    parts.append(pickle.dumps([s.key for s in storages], protocol=2))
    for s in storages:
      parts.append(struct.pack('<q', s.array.size) + s.array.tobytes())
    return b''.join(parts)
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w') as archive:
    archive.writestr('archive/data.pkl', dump(state, legacy))
    archive.writestr('archive/byteorder', 'little')
    for s in storages:
      archive.writestr(f'archive/data/{s.key}', s.array.tobytes())
  return buffer.getvalue()


both_formats = pytest.mark.parametrize('legacy', [True, False])


@both_formats
def test_reads_what_was_written(dump, legacy):
  rng = np.random.default_rng(0)
  arrays = {
    'a.weight': rng.random((4, 3, 2, 5)).astype(np.float32),
    'a.count': np.array(7),
    'b': rng.random(6),
    'empty': np.zeros((0, 3), np.float32),
  }
  data = write(dump, *as_state_dict(arrays), legacy)
  result = convert_inception.read_state_dict(data, 'x')
  assert list(result) == list(arrays)
  for name, array in arrays.items():
    assert result[name].dtype == array.dtype
    np.testing.assert_array_equal(result[name], array)


@both_formats
def test_views_of_a_shared_storage(dump, legacy):
  storage = Storage('s', np.arange(12, dtype=np.float32))
  state = {'t': Tensor(storage, (3, 2), (1, 3), offset=4), 'u': Tensor(storage, (), ())}
  data = write(dump, state, [storage], legacy)
  result = convert_inception.read_state_dict(data, 'x')
  np.testing.assert_array_equal(result['t'], [[4, 7], [5, 8], [6, 9]])
  assert result['u'] == 0


@both_formats
@pytest.mark.parametrize(
  ('shape', 'strides', 'offset'),
  [
    ((5,), (1,), 0),
    ((2, 2), (2, 2), 0),
    ((1,), (1,), 4),
    ((4,), (-1,), 3),
    ((2,), (), 0),
  ],
)
def test_a_tensor_cannot_leave_its_storage(dump, legacy, shape, strides, offset):
  storage = Storage('s', np.zeros(4, np.float32))
  state = {'t': Tensor(storage, shape, strides, offset)}
  with pytest.raises(UserError, match='larger than its storage|impossible shape'):
    convert_inception.read_state_dict(write(dump, state, [storage], legacy), 'x')


@both_formats
@pytest.mark.parametrize(
  'state', [{'offset': 10**9}, (None, {'shape': (10**9,)}), {'strides': (-1,)}]
)
def test_a_tensor_does_not_change_after_its_check(dump, legacy, state):
  class Changed(Tensor):
    def __reduce__(self):
      return (*super().__reduce__(), state)

  storage = Storage('s', np.zeros(4, np.float32))
  data = write(dump, {'t': Changed(storage, (4,), (1,))}, [storage], legacy)
  with pytest.raises(UserError, match='it sets the state of a tensor'):
    convert_inception.read_state_dict(data, 'x')


class Evil:
  def __init__(self, function, *args):
    self.function, self.args = function, args

  def __reduce__(self):
    return self.function, self.args


@both_formats
def test_no_code_is_run(dump, legacy, tmp_path):
  for function, args in (
    (os.mkdir, (str(tmp_path / 'gone'),)),
    (eval, (f'__import__("os").mkdir({str(tmp_path / "gone")!r})',)),
    (getattr, (str, 'join')),
    (np.dtype, ('f4',)),
  ):
    data = write(dump, {'w': Evil(function, *args)}, [], legacy)
    with pytest.raises(UserError, match='which a state dict never does') as error:
      convert_inception.read_state_dict(data, 'x')
    assert '\n' not in str(error.value)
  assert not (tmp_path / 'gone').exists()


def test_evil_before_and_after_the_tensors():
  for position in range(5):
    parts = [*LEGACY_HEADER, {}, []]
    parts[position] = Evil(os.getcwd)
    data = b''.join(pickle.dumps(p, protocol=2) for p in parts)
    with pytest.raises(UserError, match='getcwd'):
      convert_inception.read_state_dict(data, 'x')


@both_formats
def test_truncated_anywhere(dump, legacy):
  arrays = {'a': np.arange(50, dtype=np.float32), 'b': np.arange(3)}
  data = write(dump, *as_state_dict(arrays), legacy)
  for length in (0, 1, 10, 60, len(data) // 2, len(data) - 30, len(data) - 1):
    with pytest.raises(UserError, match='not a torch state dict'):
      convert_inception.read_state_dict(data[:length], 'x')


@pytest.mark.parametrize(
  'data',
  [
    b'<!DOCTYPE html><html>Not Found</html>',
    pickle.dumps({'a': 1}),
    b''.join(pickle.dumps(x) for x in (*LEGACY_HEADER, [1, 2], [])),
    b''.join(pickle.dumps(x) for x in (*LEGACY_HEADER, {'a': 1.5}, [])),
    b''.join(pickle.dumps(x) for x in (LEGACY_HEADER[0], 1002)),
  ],
)
def test_other_files(data):
  with pytest.raises(UserError, match='not a torch state dict'):
    convert_inception.read_state_dict(data, 'x')


def test_compressed_storage_of_another_size(dump):
  storage = Storage('0', np.zeros(4, np.float32))
  data = dump({'t': Tensor(storage, (4,), (1,))}, False)
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('a/data.pkl', data)
    archive.writestr('a/data/0', bytes(1000))
  with pytest.raises(UserError, match='another size'):
    convert_inception.read_state_dict(buffer.getvalue(), 'x')


@both_formats
def test_the_whole_way(dump, legacy, tmp_path):
  """From a file with the shapes of the published one to variables."""
  leaves = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias'}
  leaves |= {'mean': 'running_mean', 'var': 'running_var'}
  arrays = {'fc.bias': np.zeros(1008, np.float32)}
  for i, (path, shape) in enumerate(inception.expected_shapes().items()):
    *modules, leaf = path.split('/')[1:]
    shape = tuple(shape[j] for j in (3, 2, 0, 1)) if len(shape) == 4 else shape
    arrays['.'.join((*modules, leaves[leaf]))] = np.full(shape, i, np.float32)
  data = write(dump, *as_state_dict(arrays), legacy)
  source, output = tmp_path / 'weights.pth', tmp_path / 'new' / 'inception.npz'
  source.write_bytes(data)
  digest = hashlib.sha256(data).hexdigest()
  convert_inception.convert(source, output, sha256=digest)
  assert os.listdir(output.parent) == ['inception.npz']
  variables = inception.load_inception(output)
  for i, path in enumerate(inception.expected_shapes()):
    leaf = variables
    for part in path.split('/'):
      leaf = leaf[part]
    assert leaf.ravel()[0] == i


def test_incomplete_network(dump, tmp_path):
  arrays = {'Conv2d_1a_3x3.conv.weight': np.zeros((32, 3, 3, 3), np.float32)}
  data = write(dump, *as_state_dict(arrays), True)
  (tmp_path / 'w.pth').write_bytes(data)
  with pytest.raises(UserError, match='is missing'):
    convert_inception.convert(
      tmp_path / 'w.pth', tmp_path / 'o.npz', sha256=hashlib.sha256(data).hexdigest()
    )
  assert not (tmp_path / 'o.npz').exists()


def test_digest_is_checked_before_anything_is_read(tmp_path, capsys):
  (tmp_path / 'w.pth').write_bytes(pickle.dumps(Evil(os.getcwd)))
  output = tmp_path / 'o.npz'
  args = ['--source', str(tmp_path / 'w.pth'), '--output', str(output)]
  assert convert_inception.main(args) == 2
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 1 and 'truncated or another file' in lines[0]
  assert not output.exists()


def test_the_name_carries_the_digest():
  assert convert_inception.SHA256[:8] == convert_inception.FILE_NAME[-12:-4]
  assert len(convert_inception.SHA256) == 64


def test_missing_source_on_the_command_line(tmp_path):
  program = ['-m', 'mmsbm.tools.convert_inception', '--source', 'none.pth']
  command = [sys.executable, *program]
  environment = os.environ | {'PYTHONPATH': os.pathsep.join(p for p in sys.path if p)}
  environment['PYTHONPATH'] = os.pathsep.join([os.getcwd(), environment['PYTHONPATH']])
  result = subprocess.run(
    command, cwd=tmp_path, env=environment, capture_output=True, text=True
  )
  assert result.returncode == 2
  assert result.stderr.startswith('error: Cannot read none.pth')
  assert result.stderr.count('\n') == 1 and '--download' in result.stderr


def test_download_leaves_nothing_of_a_failure(tmp_path, monkeypatch, capsys):
  source = tmp_path / 'w.pth'
  args = ['--source', str(source), '--output', str(tmp_path / 'o.npz'), '--download']

  def offline(url, timeout):
    assert url == convert_inception.URL
    raise OSError('no route')

  monkeypatch.setattr(convert_inception.urllib.request, 'urlopen', offline)
  assert convert_inception.main(args) == 2
  assert 'no route' in capsys.readouterr().err

  def partial(url, timeout):
    return io.BytesIO(b'half of it')

  monkeypatch.setattr(convert_inception.urllib.request, 'urlopen', partial)
  assert convert_inception.main(args) == 2
  assert 'SHA-256' in capsys.readouterr().err

  class Broken(io.BytesIO):
    def read(self):
      raise http.client.IncompleteRead(b'half of it')

  monkeypatch.setattr(
    convert_inception.urllib.request, 'urlopen', lambda *_, **__: Broken()
  )
  assert convert_inception.main(args) == 2
  assert 'Cannot download' in capsys.readouterr().err
  assert os.listdir(tmp_path) == []


def test_output_that_cannot_be_written(tmp_path):
  (tmp_path / 'file').write_bytes(b'')
  with pytest.raises(UserError, match='Cannot write .*file'):
    convert_inception._write(tmp_path / 'file' / 'o.npz', b'x')
