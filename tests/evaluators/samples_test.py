"""What the report shows: choice of examples, neighbours, files."""

import json
import sys
import types

import numpy as np
import pytest

from mmsbm.evaluators import samples


@pytest.fixture
def split(fakes):
  def make(labels=None, num=12):
    rng = np.random.default_rng(0)
    present = np.ones((num, 2), bool)
    present[[0, 5], 1] = False
    images = rng.integers(0, 256, (num, 2, 2, 1)).astype(np.uint8)
    known = {} if labels is None else {'class': np.asarray(labels, np.int32)}
    return fakes.Split({'a': images, 'b': images[::-1].copy()}, present, known)

  return make


def test_choose_examples_takes_each_class_in_turn(split):
  labels = [0, 0, 0, 1, 1, 0, 2, 2, 2, 2, 2, 2]
  rows = samples.choose_examples(split(labels), 'class', 5)
  assert rows.tolist() == [1, 3, 6, 2, 4]
  assert samples.choose_examples(split(), 'class', 3).tolist() == [1, 2, 3]
  assert samples.choose_examples(split(labels), 'writer', 3).tolist() == [1, 2, 3]


def test_choose_examples_does_without_complete_ones(split):
  part = split()
  part.present[:] = np.arange(12)[:, None] % 3 == [0, 1]
  rows = samples.choose_examples(part, 'class', 3)
  assert rows.tolist() == [0, 1, 3]


def test_nearest_training_example_is_present_and_nearest(fakes, split):
  part = split()
  problem = fakes.make_problem({'train': part}, [fakes.modality(n) for n in 'ab'])
  queries = np.random.default_rng(1).integers(0, 256, (6, 2, 2, 1)).astype(np.uint8)
  queries[0] = part.arrays['b'][5]
  for chunk in (1, 5, 100):
    got = samples.nearest_training_examples(problem, 'b', queries, chunk)
    for query, found in zip(queries, got, strict=True):
      usable = part.arrays['b'][part.present[:, 1]].astype(float)
      distances = np.square(usable - query).sum(axis=(1, 2, 3))
      assert np.square(found - query.astype(float)).sum() == distances.min()


@pytest.mark.parametrize(
  'num, expected', [(1, []), (2, [1]), (4, [1, 2, 3]), (10, [1, 5, 9])]
)
def test_pictured_subsets(num, expected):
  assert samples.pictured_subsets(num) == expected


# --- files ----------------------------------------------------------------------------


@pytest.fixture
def grids(monkeypatch):
  """What is drawn as a PNG: {name: arguments}."""
  drawn = {}

  def save_grid(path, tiles, row_titles, column_titles, title=''):
    drawn[path.stem] = (tiles, row_titles, column_titles, title)
    path.write_bytes(b'png')

  module = types.ModuleType('mmsbm.report.grid')
  module.save_grid = save_grid
  monkeypatch.setitem(sys.modules, 'mmsbm.report.grid', module)
  return drawn


def draw(fakes, workdir, problem=None, kind='perfect', **options):
  problem = problem or fakes.digits_problem(60)
  spec = dict(num_examples=4, num_samples=2) | options
  plan = fakes.make_plan(problem, evaluators={'samples': spec, 'readers': {}})
  inference = fakes.FakeInference(fakes.ClassModel(kind, problem.modalities))
  fakes.run(workdir, plan, inference, only=('samples',))
  return workdir / 'samples'


def load(folder, name):
  with np.load(folder / f'{name}.npz') as stored:
    arrays = dict(stored)
  return arrays, json.loads((folder / f'{name}.json').read_text())


NAMES = {
  'unconditional', 'given_first_1', 'given_first_2', 'given_any', 'reconstruction'
}  # fmt: skip


def test_files_hold_examples_and_samples(fakes, tmp_path, grids):
  folder = draw(fakes, tmp_path)
  assert {p.name for p in folder.iterdir()} == {
    f'{name}.{ext}' for name in NAMES for ext in ('npz', 'json', 'png')
  }
  # No number was measured.
  assert not (tmp_path / 'results.jsonl').exists()
  arrays, sheet = load(folder, 'given_first_1')
  assert arrays['observed'].tolist() == [[True, False, False]] * 4
  assert arrays['generated/b'].shape == (4, 2, 2, 2, 1)
  assert arrays['given/a'].shape == (4, 2, 2, 1)
  assert str(arrays['draw/b']) == 'image' and str(arrays['kind']) == 'conditional'
  label = arrays['label']
  assert label.tolist() == [0, 1, 2, 3]
  # A perfect model copies the class of what is given.
  assert (arrays['generated/b'][:, :, 0, 0, 0] == label[:, None]).all()
  assert sheet['modalities'] == ['a', 'b', 'c'] and sheet['title'] == 'Given a'
  assert sheet['columns'] == [
    'a given', 'b sample 1', 'c sample 1', 'b sample 2', 'c sample 2',
    'b nearest in training set', 'c nearest in training set', 'b of the example',
    'c of the example',
  ]  # fmt: skip
  for row, caption in zip(sheet['rows'], range(4), strict=True):
    assert row['caption'] == f'class {caption}'
    assert len(row['tiles']) == len(sheet['columns'])
    roles = [tile['role'] for tile in row['tiles']]
    assert roles == ['given', *['generated'] * 4, *['nearest'] * 2, *['real'] * 2]
    assert row['tiles'][0]['html'].startswith(f'<p>[{caption}, ')
    assert all(tile['html'] for tile in row['tiles'])
  # Four gaps between what is given, two samples, neighbours and the truth.
  tiles, row_titles, column_titles, title = grids['given_first_1']
  assert column_titles == ['a', '', *['b', 'c', ''] * 3, 'b', 'c']
  assert [[t is None for t in row] for row in tiles] == 4 * [
    [not name for name in column_titles]
  ]
  assert tiles[0][0].shape == (2, 2, 3) and row_titles[1] == 'class 1'
  assert title == (
    'Given a: given | sample 1 | sample 2 | nearest in training set | the example'
  )


def test_layouts_of_tuples_and_reconstructions(fakes, tmp_path, grids):
  folder = draw(fakes, tmp_path)
  arrays, sheet = load(folder, 'unconditional')
  assert 'given/a' not in arrays and not arrays['observed'].any()
  assert sheet['columns'][:3] == ['a', 'b', 'c'] and len(sheet['rows']) == 4 * 2
  assert [row['caption'] for row in sheet['rows'][:2]] == ['sample 1', 'sample 2']
  # Neighbours are those of the first sample of each example.
  shown = [[bool(tile['html']) for tile in row['tiles'][3:]] for row in sheet['rows']]
  assert shown == [[True] * 3, [False] * 3] * 4
  assert [t is None for t in grids['unconditional'][0][1]] == [False] * 3 + [True] * 4
  arrays, sheet = load(folder, 'reconstruction')
  assert arrays['generated/a'].shape == (4, 1, 2, 2, 1) and 'nearest/a' not in arrays
  columns = ['a', 'a decoded', 'b', 'b decoded', 'c', 'c decoded']
  assert sheet['columns'] == columns
  arrays, sheet = load(folder, 'given_any')
  for row, observed in zip(sheet['rows'], arrays['observed'], strict=True):
    given = {t['modality'] for t in row['tiles'] if t['role'] == 'given' and t['html']}
    made = {
      t['modality'] for t in row['tiles'] if t['role'] == 'generated' and t['html']
    }
    assert given == {n for n, o in zip('abc', observed, strict=True) if o}
    assert made == set('abc') - given


def test_no_picture_where_a_modality_is_none(fakes, tmp_path, grids):
  kind = fakes.KINDS['image']
  problem = fakes.digits_problem(30)
  other = fakes.modality('b')
  other.kind = type(kind)(is_picture=False)
  problem.modalities = (problem.modalities[0], other, problem.modalities[2])
  folder = draw(fakes, tmp_path, problem)
  assert not grids and not list(folder.glob('*.png'))
  before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
  draw(fakes, tmp_path, problem)
  assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before


def test_absent_modalities_are_not_given(fakes, tmp_path, grids):
  present = np.tile([True, False, True], (30, 1))
  folder = draw(fakes, tmp_path, fakes.digits_problem(30, present))
  arrays, sheet = load(folder, 'given_first_2')
  assert arrays['observed'].tolist() == [[True, False, False]] * 4
  real = [t for t in sheet['rows'][0]['tiles'] if t['role'] == 'real']
  assert [(t['modality'], bool(t['html'])) for t in real] == [('b', False), ('c', True)]
  arrays, sheet = load(folder, 'reconstruction')
  shown = [bool(t['html']) for t in sheet['rows'][0]['tiles']]
  assert shown == [True, True, False, False, True, True]


def test_torn_or_missing_files_are_drawn_again_and_others_left(fakes, tmp_path, grids):
  folder = draw(fakes, tmp_path)
  before = {p.name: p.read_bytes() for p in folder.iterdir()}
  torn = folder / 'unconditional.npz'
  torn.write_bytes(before[torn.name][: len(before[torn.name]) // 2])
  (folder / 'reconstruction.png').unlink()
  (folder / 'given_any.json').unlink()
  grids.clear()
  draw(fakes, tmp_path)
  assert set(grids) == {'unconditional', 'reconstruction', 'given_any'}
  assert {p.name for p in folder.iterdir()} == set(before)
  for name in ('unconditional.json', 'given_any.json'):
    assert (folder / name).read_bytes() == before[name]


def test_samples_are_drawn_again_when_what_they_depend_on_changes(
  fakes, tmp_path, grids
):
  draw(fakes, tmp_path)
  grids.clear()
  draw(fakes, tmp_path)
  assert not grids
  draw(fakes, tmp_path, seed=1)
  assert set(grids) == NAMES


def test_draws_are_keyed_by_the_title(fakes, tmp_path, grids):
  folder = draw(fakes, tmp_path, kind='independent')
  first, _ = load(folder, 'given_first_1')
  second, _ = load(folder, 'unconditional')
  seen = first['generated/b'][..., 0, 0, 0]
  assert (seen != second['generated/b'][..., 0, 0, 0]).any()
  assert (seen[:, 0] != seen[:, 1]).any()
