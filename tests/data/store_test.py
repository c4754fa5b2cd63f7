"""Datasets that are prepared once."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from mmsbm.data import store
from mmsbm.data.dataset import SPLITS
from mmsbm.infra.errors import UserError


def _write(writer):
  for i, split in enumerate(SPLITS):
    writer.write(split, 'a', np.arange(6, dtype=np.float32).reshape(3, 2) + 10 * i)
    writer.write(split, 'b', np.full((3, 4), i, np.uint8))
    writer.annotate(split, 'class', np.array([0, 2, -1], np.int32))
  return 'a test'


def _prepare(path, build=_write, modalities=('a', 'b'), **kwargs):
  return store.prepare('toy', modalities, str(path), {'v': 1}, build, **kwargs)


def _folder(path):
  (folder,) = path.glob('toy-*')
  return folder


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
    assert opened.num_classes == {'class': 3}
    assert opened.source == 'a test'
  assert first.content_hash == mapped.content_hash
  other = store.prepare('toy', ('a', 'b'), tmp_path, {'v': 2}, _write)
  assert other.content_hash != first.content_hash
  assert _prepare(tmp_path, modalities=('b', 'a')).content_hash != first.content_hash


def test_annotations_are_files_beside_the_labels(tmp_path):
  def write(writer):
    _write(writer)
    for split in SPLITS:
      writer.annotate(split, 'speaker', np.array([-1, 4, 0], np.int32))
      writer.annotate(split, 'tags', np.eye(3, 5, dtype=np.uint8))
      writer.annotate(split, 'nobody', np.full(3, -1, np.int32))

  data = _prepare(tmp_path, write)
  names = {path.name for path in _folder(tmp_path).glob('val.*')}
  assert names == {
    f'val.{part}.npy'
    for part in ('a', 'b', 'labels', 'annotation.speaker', 'annotation.tags',
                 'annotation.nobody')
  }  # fmt: skip
  for split in data.splits.values():
    assert set(split.annotations) == {'class', 'speaker', 'tags', 'nobody'}
    np.testing.assert_array_equal(split.annotations['class'], [0, 2, -1])
    np.testing.assert_array_equal(split.annotations['tags'], np.eye(3, 5))
  # Labels that are all unknown have no classes, properties neither.
  assert data.num_classes == {'class': 3, 'speaker': 5}


def test_modality_called_annotation_is_no_annotation(tmp_path):
  def write(writer):
    for split in SPLITS:
      writer.write(split, 'annotation', np.zeros((3, 2)))
      writer.write(split, 'class', np.zeros((3, 2)))

  data = _prepare(tmp_path, write, ('annotation', 'class'))
  assert not data.splits['train'].annotations


def test_killed_while_building_leaves_nothing_that_is_believed(tmp_path):
  program = (
    'import os, sys, numpy as np\n'
    'from mmsbm.data import store\n'
    'def build(writer):\n'
    "  writer.write('train', 'a', np.zeros((3, 2), np.float32))\n"
    '  os._exit(9)\n'
    "store.prepare('toy', ('a', 'b'), sys.argv[1], {'v': 1}, build)\n"
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
  writer = store.Writer(tmp_path)
  with pytest.raises(ValueError, match='2 rows'):
    writer.write_blocks('train', 'a', (3,), np.uint8, [np.zeros(2, np.uint8)])
  with pytest.raises(UserError, match=r"'a'.*row 1\."):
    writer.write('train', 'a', np.array([0.0, np.inf]))


@pytest.mark.parametrize('names', [('a', 'a'), (), ('labels',), ('x/y',), ('x.y',)])
def test_impossible_modality_names(tmp_path, names):
  with pytest.raises(UserError):
    _prepare(tmp_path, modalities=names)
