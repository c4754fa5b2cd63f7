"""What the report shows: choice of examples, neighbours, files."""

import shutil
import types

import numpy as np
import pytest

from mmsbm import sample
from mmsbm.data.dataset import Split


def make_split(labels=None, num=12):
  rng = np.random.default_rng(0)
  present = np.ones((num, 2), bool)
  present[[0, 5], 1] = False
  images = rng.integers(0, 256, (num, 2, 2, 1)).astype(np.uint8)
  labels = None if labels is None else np.asarray(labels, np.int32)
  return Split({'a': images, 'b': images[::-1].copy()}, present, labels)


def test_one_example_of_each_class_in_turn():
  labels = [0, 0, 0, 1, 1, 0, 2, 2, 2, 2, 2, 2]
  rows = sample.choose_examples(make_split(labels), 5)
  assert rows.tolist() == [1, 3, 6, 2, 4]
  assert sample.choose_examples(make_split(), 3).tolist() == [1, 2, 3]


def test_the_nearest_training_example_is_present_and_nearest():
  split = make_split()
  experiment = types.SimpleNamespace(
    dataset=types.SimpleNamespace(splits={'train': split}), names=('a', 'b')
  )
  queries = np.random.default_rng(1).integers(0, 256, (6, 2, 2, 1)).astype(np.uint8)
  queries[0] = split.arrays['b'][5]
  for chunk in (1, 5, 100):
    got = sample.nearest_training_examples(experiment, 'b', queries, chunk)
    for query, found in zip(queries, got, strict=True):
      usable = split.arrays['b'][split.present[:, 1]].astype(float)
      distances = np.square(usable - query).sum(axis=(1, 2, 3))
      assert np.square(found - query.astype(float)).sum() == distances.min()


@pytest.mark.parametrize('num, expected', [(2, [1]), (4, [1, 2, 3]), (10, [1, 5, 9])])
def test_how_many_are_given_in_the_pictures(num, expected):
  assert sample.pictured_subsets(num) == expected


def test_given_pictures_are_shown_unchanged(smoke_run):
  with np.load(smoke_run / 'samples' / 'given_first_1.npz') as stored:
    assert stored['observed'].tolist() == [[True, False, False]] * 4
    assert stored['generated/m1'].shape == (4, 2, 16, 16, 3)
    assert stored['given/m0'].shape == (4, 16, 16, 3)


def test_torn_or_missing_files_are_drawn_again_and_others_left(
  program, smoke_run, tmp_path
):
  workdir = tmp_path / 'w'
  shutil.copytree(smoke_run, workdir)
  folder = workdir / 'samples'
  before = {p.name: p.read_bytes() for p in folder.iterdir()}
  torn = folder / 'unconditional.npz'
  torn.write_bytes(before[torn.name][: len(before[torn.name]) // 2])
  (folder / 'reconstruction.png').unlink()
  times = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
  code = program(
    '--config=configs/digits.py:smoke,modalities=3',
    f'--workdir={workdir}',
    '--mode=sample',
  )
  assert code == 0
  assert {p.name for p in folder.iterdir()} == set(before)
  made = {p.name for p in folder.iterdir() if p.stat().st_mtime_ns != times.get(p.name)}
  assert made == {
    f'{n}.{e}' for n in ('unconditional', 'reconstruction') for e in ('npz', 'png')
  }
  for name in ('unconditional', 'reconstruction'):
    assert (folder / f'{name}.png').read_bytes() == before[f'{name}.png']
