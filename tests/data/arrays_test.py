"""The user's own arrays."""

import jax
import numpy as np
import pytest

from mmsbm.data import arrays
from mmsbm.infra.errors import UserError


@pytest.fixture
def folder(tmp_path):
  """Column 0 of every modality tells the row."""
  rows = np.arange(100)
  np.save(tmp_path / 'vec.npy', np.stack([rows, rows**2], 1).astype(np.float64))
  image = np.zeros((100, 4, 5, 3), np.uint8)
  image[:, 0, 0, 0] = rows
  np.savez(tmp_path / 'all.npz', vec=np.load(tmp_path / 'vec.npy'), img=image,
           labels=rows % 3, other=rows)  # fmt: skip
  np.savez(tmp_path / 'img.npz', anything=image)
  np.save(tmp_path / 'y.npy', rows % 3)
  return tmp_path


@pytest.fixture
def build(named):
  """Builds the data in a folder."""

  def build(folder, **kwargs):
    files = {'vec': f'{folder}/vec.npy', 'img': f'{folder}/all.npz:img'}
    return arrays.build(
      named('vec', 'img'), folder / 'cache', **{'files': files} | kwargs
    )

  return build


def _rows(data):
  return [s.arrays['vec'][:, 0].astype(int) for s in data.splits.values()]


def test_rows_stay_together_and_are_shared_out_once(build, folder):
  data = build(folder, labels=f'{folder}/y.npy', split=(0.7, 0.2, 0.1))
  rows = _rows(data)
  assert [len(r) for r in rows] == [70, 20, 10]
  np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.arange(100))
  for split, r in zip(data.splits.values(), rows, strict=True):
    np.testing.assert_array_equal(split.arrays['vec'][:, 1], r**2)
    np.testing.assert_array_equal(split.arrays['img'][:, 0, 0, 0], r)
    np.testing.assert_array_equal(split.annotations['class'], r % 3)
    assert split.present.all()
    assert split.arrays['vec'].dtype == np.float32
    assert split.arrays['img'].dtype == np.uint8
  assert data.num_classes == {'class': 3}
  again = _rows(build(folder, labels=f'{folder}/y.npy', split=(0.7, 0.2, 0.1), seed=1))
  assert not np.array_equal(rows[0], again[0])


def test_other_locations_hold_the_same_data(build, folder):
  one = build(folder, files=f'{folder}/all.npz')
  two = build(folder, files={'vec': f'{folder}/vec.npy', 'img': f'{folder}/img.npz'})
  for name in ('vec', 'img'):
    np.testing.assert_array_equal(
      one.splits['train'].arrays[name], two.splits['train'].arrays[name]
    )
  assert one.num_classes == {'class': 3} and two.num_classes == {}


def test_hash_is_of_the_content_not_the_place(build, folder):
  first = build(folder)
  folder.rename(folder.parent / 'moved')
  moved = folder.parent / 'moved'
  assert build(moved).content_hash == first.content_hash
  x = np.load(moved / 'vec.npy')
  x[7, 1] += 1
  np.save(moved / 'vec.npy', x)
  assert build(moved).content_hash != first.content_hash


@pytest.mark.parametrize(
  ('labels', 'digest'),
  [('', '554190f6ac540e7fa906786b5e5d09a3'), ('y', '165a4190b7167ab78392223550d0510d')],
)
def test_hash_is_what_it_was_before_there_were_annotations(
  named, folder, labels, digest
):
  files = {name: f'{folder}/{name}.npy' for name in ('vec', 'y')}
  data = arrays.build(
    named(*files), folder, files=files, labels=labels and files[labels], annotations={}
  )
  assert data.content_hash == digest


def test_split_file(build, folder):
  which = np.arange(100) % 4
  which[which == 3] = 0
  np.save(folder / 'split.npy', which)
  rows = _rows(build(folder, split_file=f'{folder}/split.npy'))
  for i, r in enumerate(rows):
    np.testing.assert_array_equal(r, np.flatnonzero(which == i))


def test_rows_of_nan_are_missing(build, folder, monkeypatch):
  monkeypatch.setattr(arrays, '_BLOCK_BYTES', 64)  # many blocks
  x = np.load(folder / 'vec.npy')
  x[::7] = np.nan
  np.save(folder / 'vec.npy', x)
  image = np.load(folder / 'img.npz')['anything']
  data = build(folder)
  for split in data.splits.values():
    row = split.arrays['img'][:, 0, 0, 0].astype(int)
    np.testing.assert_array_equal(split.present[:, 0], row % 7 != 0)
    assert split.present[:, 1].all()
    np.testing.assert_array_equal(
      split.arrays['vec'][:, 0], np.where(row % 7 != 0, row, 0)
    )
  assert len(image) == 100
  x[13, 1] = np.nan
  np.save(folder / 'vec.npy', x)
  with pytest.raises(UserError, match="'vec'.*row 13 "):
    build(folder)


def test_present_file(build, folder):
  present = np.stack([np.arange(100) % 5 != 0, np.arange(100) % 2 == 0], 1)
  np.save(folder / 'p.npy', present)
  x = np.load(folder / 'vec.npy')
  x[0, 1] = np.nan  # missing anyway
  np.save(folder / 'vec.npy', x)
  split_of = np.arange(100) % 3
  np.save(folder / 's.npy', split_of)
  data = build(folder, present=f'{folder}/p.npy', split_file=f'{folder}/s.npy')
  for i, split in enumerate(data.splits.values()):
    expected = present[split_of == i]
    np.testing.assert_array_equal(split.present, expected)
    rows = np.flatnonzero(split_of == i)
    for m, name in enumerate(('vec', 'img')):
      shown = split.arrays[name].reshape(len(rows), -1)[:, 0]
      np.testing.assert_array_equal(shown, np.where(expected[:, m], rows, 0))
  x[6] = np.nan  # given as present, but there is nothing
  np.save(folder / 'vec.npy', x)
  with pytest.raises(UserError, match='row 6 '):
    build(folder, present=f'{folder}/p.npy', split_file=f'{folder}/s.npy')


def test_a_present_file_that_has_everything_is_none(build, folder):
  """Batches are the same, bit for bit, and so is what is trained on them."""
  np.save(folder / 'p.npy', np.ones((100, 2), bool))
  built = [build(folder), build(folder, present=f'{folder}/p.npy')]
  for one, other in zip(*(data.splits.values() for data in built), strict=True):
    batches = [split.take(np.arange(len(split))) for split in (one, other)]
    for a, b in zip(*map(jax.tree.leaves, batches), strict=True):
      assert a.dtype == b.dtype
      np.testing.assert_array_equal(a, b)


def test_annotations_are_read_beside_the_labels(build, folder):
  rows = np.arange(100)
  np.savez(folder / 'known.npz', speaker=rows % 7 - 1, other=rows)
  np.save(folder / 'tags.npy', np.stack([rows % 2, rows > 50], 1).astype(bool))
  known = {'speaker': f'{folder}/known.npz', 'tags': f'{folder}/tags.npy'}
  data = build(folder, labels=f'{folder}/y.npy', annotations=known)
  assert data.num_classes == {'class': 3, 'speaker': 6}
  for split, row in zip(data.splits.values(), _rows(data), strict=True):
    found = split.annotations
    np.testing.assert_array_equal(found['speaker'], row % 7 - 1)
    np.testing.assert_array_equal(found['tags'], np.stack([row % 2, row > 50], 1))
    assert found['speaker'].dtype == np.int32 and found['tags'].dtype == np.uint8


def test_labels_are_the_annotation_class(build, folder):
  labels = f'{folder}/y.npy'
  data = build(folder, labels=labels)
  assert build(folder, annotations={'class': labels}).content_hash == data.content_hash
  # Without annotations nothing of them enters the digest.
  assert build(folder, annotations={}).content_hash == build(folder).content_hash
  tags = {'tag': labels}
  assert build(folder, annotations=tags).content_hash != build(folder).content_hash
  with pytest.raises(UserError, match='mean the same'):
    build(folder, labels=labels, annotations={'class': labels})


def _spoil(folder):
  np.save(folder / 'short.npy', np.zeros((99, 2)))
  np.save(folder / 'object.npy', np.array([{}] * 100), allow_pickle=True)
  np.savez(folder / 'object.npz', np.array([{}] * 100))
  np.save(folder / 'text.npy', np.array(['a'] * 100))
  np.save(folder / 'scalar.npy', np.float32(1))
  np.save(folder / 'float_y.npy', np.arange(100) / 2)
  np.save(folder / 'negative_y.npy', np.arange(100) - 2)
  np.save(folder / 'bad_split.npy', np.arange(100) % 4)
  np.save(folder / 'no_val.npy', np.arange(100) % 2 * 2)
  data = (folder / 'vec.npy').read_bytes()
  (folder / 'renamed.npz').write_bytes(data)
  (folder / 'cut.npy').write_bytes(data[:-8])
  (folder / 'noise.npy').write_bytes(b'noise')
  data = bytearray((folder / 'all.npz').read_bytes())
  (folder / 'cut.npz').write_bytes(data[: len(data) // 2])
  at = data.find(b'img.npy') + 200
  data[at : at + 8] = b'\xff' * 8
  (folder / 'crc.npz').write_bytes(data)


@pytest.mark.parametrize(
  ('vec', 'kwargs', 'message'),
  [
    ('short.npy', {}, "has 100 rows, but modality 'vec' has 99"),
    ('nowhere.npy', {}, 'does not exist'),
    ('vec.txt', {}, 'neither a .npy nor'),
    ('all.npz:nothing', {}, "no member 'nothing'.*'img'"),
    ('object.npy', {}, 'Python objects'),
    ('object.npz', {}, 'Python objects'),
    ('text.npy', {}, 'not numbers'),
    ('scalar.npy', {}, 'single number'),
    ('cut.npy', {}, 'cannot be read'),
    ('noise.npy', {}, 'not a numpy file'),
    ('renamed.npz', {}, 'not an .npz archive'),
    ('cut.npz', {}, 'cannot be read'),
    ('crc.npz:img', {}, 'cannot be read'),
    ('vec.npy', {'labels': 'float_y.npy'}, 'must be integers'),
    ('vec.npy', {'labels': 'negative_y.npy'}, '-2 to 97'),
    ('vec.npy', {'labels': 'short.npy'}, '99 rows'),
    ('vec.npy', {'annotations': {'a': 'vec.npy'}}, "'a' must be integers .100,., or 0"),
    ('vec.npy', {'annotations': {'a': 'float_y.npy'}}, 'must be integers'),
    ('vec.npy', {'annotations': {'a': 'short.npy'}}, '99 rows'),
    ('vec.npy', {'annotations': {'a/b': 'y.npy'}}, "annotation name 'a/b'"),
    ('vec.npy', {'annotations': {'labels': 'y.npy'}}, 'taken by the program'),
    ('vec.npy', {'present': 'y.npy'}, '100 examples and 2 modalities'),
    ('vec.npy', {'split_file': 'bad_split.npy'}, '0 .train., 1 .val.'),
    ('vec.npy', {'split_file': 'no_val.npy'}, 'val split .* is empty'),
    ('vec.npy', {'split': (0.5, 0.5, 0.5)}, 'sum to 1'),
    ('vec.npy', {'split': (0.998, 0.001, 0.001)}, 'is empty'),
  ],
)
def test_mistakes(build, folder, vec, kwargs, message):
  _spoil(folder)
  place = lambda v: f'{folder}/{v}' if isinstance(v, str) else v  # noqa: E731
  kwargs = {
    k: {name: place(w) for name, w in v.items()} if isinstance(v, dict) else place(v)
    for k, v in kwargs.items()
  }
  files = {'vec': f'{folder}/{vec}', 'img': f'{folder}/all.npz:img'}
  with pytest.raises(UserError, match=message) as error:
    build(folder, files=files, **kwargs)
  assert '\n' not in str(error.value)


def test_names_must_fit(build, folder):
  with pytest.raises(UserError, match='the modalities are'):
    build(folder, files={'vec': f'{folder}/vec.npy'})
  with pytest.raises(UserError, match='one .npz'):
    build(folder, files=f'{folder}/vec.npy')


def test_large_data_stay_on_disk(build, folder):
  data = build(folder, memory_limit_gb=0)
  assert isinstance(data.splits['train'].arrays['img'], np.memmap)
  batch = data.splits['train'].take(np.array([2, 1]))
  assert not isinstance(batch['x']['img'], np.memmap)


def test_standin(named, tmp_path):
  names = named('image', 'attributes', 'profile', 'number')
  data = arrays.build(names, tmp_path, standin=True)
  again = arrays.build(names, tmp_path / 'other', standin=True)
  assert data.content_hash == again.content_hash
  assert data.num_classes == {'class': 10}
  missing = 0
  for split in data.splits.values():
    digit = split.arrays['number']
    np.testing.assert_array_equal(split.annotations['class'], digit)
    np.testing.assert_array_equal(split.arrays['attributes'][:, 0], digit % 2)
    assert split.arrays['image'].shape[1:] == (16, 16, 1)
    assert split.present[:, [0, 1, 3]].all()
    missing += (~split.present[:, 2]).sum()
  assert 30 < missing < 90  # A tenth of 600.
  # Profiles tell the digit, though they are of another instance.
  train = data.splits['train']
  x, label = train.arrays['profile'][train.present[:, 2]], train.annotations['class']
  label = label[train.present[:, 2]]
  means = np.stack([x[label == k].mean(0) for k in range(10)])
  nearest = ((x[:, None] - means) ** 2).sum(-1).argmin(1)
  assert (nearest == label).mean() > 0.7


def test_without_files_the_line_says_how_to_give_them(named, tmp_path):
  with pytest.raises(UserError, match='--config.data.files=FILE.npz .*image'):
    arrays.build(named('image'), tmp_path)
