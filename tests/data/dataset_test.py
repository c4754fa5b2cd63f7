"""Splits, and datasets that are prepared once."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from mmsbm.data import dataset
from mmsbm.infra.errors import UserError


def _write(writer):
  for i, split in enumerate(dataset.SPLITS):
    writer.write(split, 'a', np.arange(6, dtype=np.float32).reshape(3, 2) + 10 * i)
    writer.write(split, 'b', np.full((3, 4), i, np.uint8))
    writer.write(split, dataset.LABELS, np.array([0, 2, -1], np.int32))
  return 'a test'


def _prepare(path, build=_write, modalities=('a', 'b'), **kwargs):
  return dataset.prepare('toy', modalities, str(path), {'v': 1}, build, **kwargs)


def _folder(path):
  (folder,) = path.glob('toy-*')
  return folder


def test_take_returns_the_rows_asked_for():
  split = dataset.Split(
    {'a': np.arange(4)[:, None], 'b': np.arange(8).reshape(4, 2)},
    np.eye(4, 2, dtype=bool),
  )
  batch = split.take(np.array([3, 0]))
  np.testing.assert_array_equal(batch['x']['b'], [[6, 7], [0, 1]])
  np.testing.assert_array_equal(batch['present'], [[0, 0], [1, 0]])
  np.testing.assert_array_equal(batch['label'], [-1, -1])
  assert batch['label'].dtype == np.int32


def test_split_names_modality_and_row_of_nan():
  x = np.zeros((3_000_000, 2), np.float32)  # more than one block
  x[2_500_001, 1] = np.nan
  with pytest.raises(UserError, match=r"'img'.*row 2500001\."):
    dataset.Split({'img': x}, np.ones((len(x), 1), bool))


@pytest.mark.parametrize(
  ('arrays', 'present', 'labels', 'message'),
  [
    ({'a': np.zeros(2), 'b': np.zeros(3)}, np.ones((2, 2), bool), None, "'b'.*rows"),
    ({'a': np.zeros(2)}, np.ones((2, 2), bool), None, 'present'),
    ({'a': np.zeros(2)}, np.ones((2, 1)), None, 'bool'),
    ({'a': np.zeros(2)}, np.ones((2, 1), bool), np.zeros(2), 'int32'),
  ],
)
def test_split_refuses(arrays, present, labels, message):
  with pytest.raises(UserError, match=message):
    dataset.Split(arrays, present, labels)


def test_prepared_once_and_opened_in_memory_or_mapped(tmp_path):
  first = _prepare(tmp_path)

  def fail(writer):
    raise AssertionError('built twice')

  mapped = _prepare(tmp_path, fail, memory_limit_gb=0)
  assert isinstance(mapped.splits['val'].arrays['a'], np.memmap)
  assert not isinstance(first.splits['val'].arrays['a'], np.memmap)
  for opened in (first, mapped):
    np.testing.assert_array_equal(opened.splits['val'].arrays['a'][1], [12, 13])
    assert opened.splits['test'].present.all()
    assert opened.num_classes == 3
    assert opened.source == 'a test'
  assert first.content_hash == mapped.content_hash
  other = dataset.prepare('toy', ('a', 'b'), tmp_path, {'v': 2}, _write)
  assert other.content_hash != first.content_hash
  assert _prepare(tmp_path, modalities=('b', 'a')).content_hash != first.content_hash


def test_killed_while_building_leaves_nothing_that_is_believed(tmp_path):
  program = (
    'import os, sys, numpy as np\n'
    'from mmsbm.data import dataset\n'
    'def build(writer):\n'
    "  writer.write('train', 'a', np.zeros((3, 2), np.float32))\n"
    '  os._exit(9)\n'
    "dataset.prepare('toy', ('a', 'b'), sys.argv[1], {'v': 1}, build)\n"
  )
  env = os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)}
  command = [sys.executable, '-c', program, str(tmp_path)]
  assert subprocess.run(command, env=env).returncode == 9
  assert not list(tmp_path.glob('toy-*'))
  np.testing.assert_array_equal(_prepare(tmp_path).splits['test'].arrays['a'][0, 0], 20)


def test_failed_build_and_full_disk(tmp_path):
  def full(writer):
    writer.write('train', 'a', np.zeros(3))
    raise OSError(errno.ENOSPC, 'No space left on device')

  with pytest.raises(UserError, match='disk is full'):
    _prepare(tmp_path, full)
  assert not list(tmp_path.iterdir())


def test_folder_without_description_is_rebuilt(tmp_path):
  _prepare(tmp_path)
  (_folder(tmp_path) / 'dataset.json').unlink()
  (_folder(tmp_path) / 'train.a.npy').write_bytes(b'half')
  assert len(_prepare(tmp_path).splits['train']) == 3


@pytest.mark.parametrize('damage', ['short', 'missing', 'json', 'other_shape'])
def test_damaged_folder_is_refused_with_its_name(tmp_path, damage):
  _prepare(tmp_path)
  folder = _folder(tmp_path)
  path = folder / 'val.a.npy'
  if damage == 'short':
    path.write_bytes(path.read_bytes()[:-1])
  elif damage == 'missing':
    path.unlink()
  elif damage == 'json':
    (folder / 'dataset.json').write_text('{"arrays":')
  else:
    description = json.loads((folder / 'dataset.json').read_text())
    description['arrays']['val.a.npy']['shape'] = [2, 3]
    (folder / 'dataset.json').write_text(json.dumps(description))
  with pytest.raises(UserError, match=f'delete the folder {folder}'):
    _prepare(tmp_path)


def test_writer_counts_rows_and_refuses_nan(tmp_path):
  writer = dataset.Writer(tmp_path)
  with pytest.raises(ValueError, match='2 rows'):
    writer.write_blocks('train', 'a', (3,), np.uint8, [np.zeros(2, np.uint8)])
  with pytest.raises(UserError, match=r"'a'.*row 1\."):
    writer.write('train', 'a', np.array([0.0, np.inf]))


@pytest.mark.parametrize('names', [('a', 'a'), (), ('labels',), ('x/y',)])
def test_impossible_modality_names(tmp_path, names):
  with pytest.raises(UserError):
    _prepare(tmp_path, modalities=names)
