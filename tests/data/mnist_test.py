"""MNIST's files, and the stand-in for them."""

import gzip
import os
import pathlib

import numpy as np
import pytest

from mmsbm.data import mnist, polymnist
from mmsbm.infra.errors import UserError

_IDX = mnist.FILES
_REAL = pathlib.Path(os.environ.get('MMSBM_DATA_DIR', 'MMSBM_DATA_DIR')) / 'mnist'
needs_mnist = pytest.mark.skipif(
  not (_REAL / _IDX[0]).is_file(), reason=f'{_REAL / _IDX[0]} does not exist'
)


@pytest.fixture(scope='module')
def standin(tmp_path_factory):
  folder = tmp_path_factory.mktemp('mnist')
  mnist.write_idx_standin(folder)
  return folder


@pytest.fixture
def copy(standin, tmp_path):
  """A stand-in that a test may damage."""
  folder = tmp_path / 'mnist'
  folder.mkdir()
  for name in _IDX:
    (folder / name).write_bytes((standin / name).read_bytes())
  return folder


def test_standin_has_the_official_layout_and_the_same_bytes_always(standin, tmp_path):
  mnist.write_idx_standin(tmp_path)
  for name in _IDX:
    assert (tmp_path / name).read_bytes() == (standin / name).read_bytes()
  raw = gzip.decompress((standin / _IDX[0]).read_bytes())
  assert raw[:16] == bytes.fromhex('00000803 00000258 0000001c 0000001c')
  digits = mnist.read(str(standin), verify_checksums=False)
  assert digits['train'][0].shape == (600, 28, 28)
  assert digits['test'][1].shape == (200,)
  levels = np.unique(digits['train'][0])
  assert levels[0] == 0 and levels[-1] > 240 and len(levels) > 100
  with pytest.raises(UserError, match='1797 digits, not 1800'):
    mnist.write_idx_standin(tmp_path, 1700, 100)


def test_checksums_are_verified(standin):
  with pytest.raises(UserError, match='not the published file.*9,912,422'):
    mnist.read(str(standin))


def _truncate(path):
  path.write_bytes(path.read_bytes()[:-20])


def _regzip(path, edit):
  path.write_bytes(gzip.compress(edit(gzip.decompress(path.read_bytes()))))


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (lambda d: _truncate(d / _IDX[0]), 'cannot be read'),
    (lambda d: (d / _IDX[1]).unlink(), 'train-labels.* does not exist'),
    (lambda d: (d / _IDX[0]).write_bytes((d / _IDX[1]).read_bytes()), '2049 inst'),
    (lambda d: (d / _IDX[1]).write_bytes((d / _IDX[3]).read_bytes()), '200 labels'),
    (lambda d: _regzip(d / _IDX[2], lambda b: b[:-1]), 'states the shape'),
    (lambda d: _regzip(d / _IDX[2], lambda b: b[:3]), 'not the MNIST file'),
    (lambda d: _regzip(d / _IDX[3], lambda b: b[:-1] + b'\x0a'), 'labels up to 10'),
  ],
)
def test_damaged_idx_files(copy, damage, message):
  damage(copy)
  with pytest.raises(UserError, match=message) as error:
    mnist.read(str(copy), verify_checksums=False)
  assert '\n' not in str(error.value)


@needs_mnist
def test_real_mnist(named, tmp_path):
  data = polymnist.build(
    named('m0', 'm1', 'm2'),
    tmp_path,
    mnist_dir=str(_REAL),
    num_train=50_000,
    num_val=500,
    num_test=500,
  )
  digits = mnist.read(str(_REAL))
  np.testing.assert_array_equal(digits['train'][1][:5], [5, 0, 4, 1, 9])
  instances = mnist.split_instances(digits, 0)
  assert [len(v[1]) for v in instances.values()] == [50_000, 10_000, 10_000]
  np.testing.assert_array_equal(
    np.bincount(data.splits['train'].annotations['class']),
    np.bincount(instances['train'][1]),
  )
