"""PolyMNIST from idx files, TFDS and published images; on the stand-in."""

import gzip
import os
import pathlib

import numpy as np
import PIL.Image
import pytest

from mmsbm.data import polymnist
from mmsbm.infra.errors import UserError

_NAMES = ('m0', 'm1', 'm2')
_IDX = polymnist._FILES
_REAL = pathlib.Path(os.environ.get('MMSBM_DATA_DIR', 'MMSBM_DATA_DIR')) / 'mnist'
needs_mnist = pytest.mark.skipif(
  not (_REAL / _IDX[0]).is_file(), reason=f'{_REAL / _IDX[0]} does not exist'
)


@pytest.fixture(scope='module')
def standin(tmp_path_factory):
  folder = tmp_path_factory.mktemp('mnist')
  polymnist.write_idx_standin(folder)
  return folder


@pytest.fixture
def copy(standin, tmp_path):
  """A stand-in that a test may damage."""
  folder = tmp_path / 'mnist'
  folder.mkdir()
  for name in _IDX:
    (folder / name).write_bytes((standin / name).read_bytes())
  return folder


def _build(standin, cache, **kwargs):
  kwargs = {'num_train': 1200, 'num_val': 100, 'num_test': 200} | kwargs
  return polymnist.build(
    _NAMES, cache, mnist_dir=str(standin), verify_checksums=False, **kwargs
  )


def test_standin_has_the_official_layout_and_the_same_bytes_always(standin, tmp_path):
  polymnist.write_idx_standin(tmp_path)
  for name in _IDX:
    assert (tmp_path / name).read_bytes() == (standin / name).read_bytes()
  raw = gzip.decompress((standin / _IDX[0]).read_bytes())
  assert raw[:16] == bytes.fromhex('00000803 00000258 0000001c 0000001c')
  mnist = polymnist.read_mnist(str(standin), verify_checksums=False)
  assert mnist['train'][0].shape == (600, 28, 28)
  assert mnist['test'][1].shape == (200,)
  levels = np.unique(mnist['train'][0])
  assert levels[0] == 0 and levels[-1] > 240 and len(levels) > 100
  with pytest.raises(UserError, match='1797 digits, not 1800'):
    polymnist.write_idx_standin(tmp_path, 1700, 100)


def test_no_instance_is_in_two_splits(standin, tmp_path):
  """On a black photograph the picture is the mask: splits share no picture."""
  folder = tmp_path / 'black'
  folder.mkdir()
  for m in _NAMES:
    PIL.Image.new('RGB', (28, 28)).save(folder / f'{m}.png')
  data = _build(standin, tmp_path, background_dir=str(folder))
  mnist = polymnist.read_mnist(str(standin), verify_checksums=False)
  masks = {k: [m.tobytes() for m in v[0] > 128] for k, v in mnist.items()}
  # Two digits of the stand-in with the same mask would tell nothing.
  assert len(set(masks['train']) | set(masks['test'])) == 800
  seen = {
    split: {
      image.tobytes()
      for m in _NAMES
      for image in data.splits[split].arrays[m][..., 0] == 255
    }
    for split in data.splits
  }
  assert seen['train'] | seen['val'] <= set(masks['train'])
  assert seen['test'] <= set(masks['test'])
  assert not seen['train'] & seen['val']
  # All are used: 500 instances, 100 and 200.
  assert [len(s) for s in seen.values()] == [500, 100, 200]
  # And every modality shows the class.
  label_of = dict(zip(masks['test'], mnist['test'][1].tolist(), strict=True))
  for m in _NAMES:
    shown = data.splits['test'].arrays[m][..., 0] == 255
    np.testing.assert_array_equal(
      [label_of[image.tobytes()] for image in shown], data.splits['test'].labels
    )


def test_dataset_is_a_function_of_its_arguments(standin, tmp_path):
  first = _build(standin, tmp_path / '1')
  again = _build(standin, tmp_path / '2')
  other = _build(standin, tmp_path / '1', seed=1)
  assert first.content_hash == again.content_hash != other.content_hash
  for split in first.splits:
    for m in _NAMES:
      a, b, c = (d.splits[split].arrays[m] for d in (first, again, other))
      np.testing.assert_array_equal(a, b)
      assert not np.array_equal(a, c)
  assert '800 digits' in first.source


def test_standin_is_written_once_and_read_as_a_folder_is(standin, tmp_path):
  counts = {'num_train': 1200, 'num_val': 100, 'num_test': 200}
  data = polymnist.build(_NAMES, tmp_path, standin=True, **counts)
  assert data.content_hash == _build(standin, tmp_path).content_hash
  (folder,) = (p for p in tmp_path.iterdir() if p.name.startswith('mnist-standin'))
  times = [p.stat().st_mtime_ns for p in sorted(folder.iterdir())]
  polymnist.build(_NAMES, tmp_path, standin=True, **counts, seed=1)
  assert times == [p.stat().st_mtime_ns for p in sorted(folder.iterdir())]
  # Files of the user come first, and their checksums count.
  with pytest.raises(UserError, match='not the published file'):
    polymnist.build(_NAMES, tmp_path, standin=True, mnist_dir=str(standin))


def test_checksums_are_verified(standin, tmp_path):
  with pytest.raises(UserError, match='not the published file.*9,912,422'):
    polymnist.build(_NAMES, tmp_path, mnist_dir=str(standin))


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
def test_damaged_idx_files(copy, tmp_path, damage, message):
  damage(copy)
  with pytest.raises(UserError, match=message) as error:
    _build(copy, tmp_path / 'cache')
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    ({'source': 'idx'}, '--config.data.mnist_dir=DIR.*--config.data.source=tfds'),
    ({'source': 'idx', 'mnist_dir': '/nowhere'}, 'does not exist'),
    ({'source': 'png'}, 'needs data.png_dir'),
    ({'source': 'web'}, "'idx', 'tfds' or 'png'"),
    ({'source': 'tfds', 'background_dir': '/nowhere'}, 'does not exist'),
    ({'num_test': -1}, 'num_test'),
  ],
)
def test_mistakes(tmp_path, kwargs, message):
  with pytest.raises(UserError, match=message):
    polymnist.build(_NAMES, tmp_path, **kwargs)


@pytest.fixture
def pngs(tmp_path):
  """Red is the modality, green the index, blue the digit."""
  for split in ('train', 'val', 'test'):
    for m in range(3):
      folder = tmp_path / 'png' / split / f'm{m}'
      folder.mkdir(parents=True)
      for i in (0, 2, 10, 11):
        PIL.Image.new('RGB', (28, 28), (m, i, i % 7)).save(folder / f'{i}.{i % 7}.png')
  return tmp_path / 'png'


def test_png_is_read_in_numerical_order(pngs, tmp_path):
  data = polymnist.build(
    ('m0', 'm2'), tmp_path, source='png', png_dir=str(pngs), num_val=3
  )
  assert [len(s) for s in data.splits.values()] == [4, 3, 4]
  for split in data.splits.values():
    for name, m in (('m0', 0), ('m2', 2)):
      images = split.arrays[name]
      assert (images[..., 0] == m).all()
      index = images[:, 5, 5, 1]
      np.testing.assert_array_equal(index, [0, 2, 10, 11][: len(index)])
      np.testing.assert_array_equal(images[:, 5, 5, 2], split.labels)


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (lambda d: (d / 'val/m1/2.2.png').rename(d / 'val/m1/2.3.png'), r'val/m1 has 2\.3'),
    (lambda d: (d / 'test/m2/11.4.png').unlink(), r'no file where .*11\.4\.png'),
    (lambda d: (d / 'train/m1').rename(d / 'train/x'), "train/m1 of modality 'm1'"),
    (lambda d: (d / 'train/m1/2.2.png').write_bytes(b'x'), 'm1/2.2.png cannot be'),
    (
      lambda d: PIL.Image.new('L', (32, 30)).save(d / 'train/m1/2.2.png'),
      '32x30 pixels',
    ),
  ],
)
def test_png_mistakes(pngs, tmp_path, damage, message):
  damage(pngs)
  with pytest.raises(UserError, match=message):
    polymnist.build(_NAMES, tmp_path, source='png', png_dir=str(pngs))


@needs_mnist
def test_real_mnist(tmp_path):
  data = polymnist.build(
    _NAMES, tmp_path, mnist_dir=str(_REAL), num_train=50_000, num_val=500, num_test=500
  )
  mnist = polymnist.read_mnist(str(_REAL))
  np.testing.assert_array_equal(mnist['train'][1][:5], [5, 0, 4, 1, 9])
  instances = polymnist.split_instances(mnist, 0)
  assert [len(v[1]) for v in instances.values()] == [50_000, 10_000, 10_000]
  np.testing.assert_array_equal(
    np.bincount(data.splits['train'].labels), np.bincount(instances['train'][1])
  )
