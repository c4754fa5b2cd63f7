"""PolyMNIST from idx files, TFDS and published images; on the stand-in."""

import numpy as np
import PIL.Image
import pytest

from mmsbm.data import mnist, polymnist
from mmsbm.infra.errors import UserError

_NAMES = ('m0', 'm1', 'm2')


@pytest.fixture(scope='module')
def standin(tmp_path_factory):
  folder = tmp_path_factory.mktemp('mnist')
  mnist.write_idx_standin(folder)
  return folder


@pytest.fixture
def modalities(named):
  return named(*_NAMES)


@pytest.fixture
def build(standin, modalities):
  """Builds the data from the stand-in."""

  def build(cache, **kwargs):
    kwargs = {'num_train': 1200, 'num_val': 100, 'num_test': 200} | kwargs
    return polymnist.build(
      modalities, cache, mnist_dir=str(standin), verify_checksums=False, **kwargs
    )

  return build


def test_no_instance_is_in_two_splits(build, standin, tmp_path):
  """On a black photograph the picture is the mask: splits share no picture."""
  folder = tmp_path / 'black'
  folder.mkdir()
  for m in _NAMES:
    PIL.Image.new('RGB', (28, 28)).save(folder / f'{m}.png')
  data = build(tmp_path, background_dir=str(folder))
  digits = mnist.read(str(standin), verify_checksums=False)
  masks = {k: [m.tobytes() for m in v[0] > 128] for k, v in digits.items()}
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
  label_of = dict(zip(masks['test'], digits['test'][1].tolist(), strict=True))
  for m in _NAMES:
    shown = data.splits['test'].arrays[m][..., 0] == 255
    np.testing.assert_array_equal(
      [label_of[image.tobytes()] for image in shown],
      data.splits['test'].annotations['class'],
    )


def test_dataset_is_a_function_of_its_arguments(build, tmp_path):
  first = build(tmp_path / '1')
  again = build(tmp_path / '2')
  other = build(tmp_path / '1', seed=1)
  assert first.content_hash == again.content_hash != other.content_hash
  for split in first.splits:
    for m in _NAMES:
      a, b, c = (d.splits[split].arrays[m] for d in (first, again, other))
      np.testing.assert_array_equal(a, b)
      assert not np.array_equal(a, c)
  assert '800 digits' in first.source


def test_standin_is_written_once_and_read_as_a_folder_is(
  build, modalities, standin, tmp_path
):
  counts = {'num_train': 1200, 'num_val': 100, 'num_test': 200}
  data = polymnist.build(modalities, tmp_path, standin=True, **counts)
  assert data.content_hash == build(tmp_path).content_hash
  (folder,) = (p for p in tmp_path.iterdir() if p.name.startswith('mnist-standin'))
  times = [p.stat().st_mtime_ns for p in sorted(folder.iterdir())]
  polymnist.build(modalities, tmp_path, standin=True, **counts, seed=1)
  assert times == [p.stat().st_mtime_ns for p in sorted(folder.iterdir())]
  # Files of the user come first, and their checksums count.
  with pytest.raises(UserError, match='not the published file'):
    polymnist.build(modalities, tmp_path, standin=True, mnist_dir=str(standin))


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
def test_mistakes(modalities, tmp_path, kwargs, message):
  with pytest.raises(UserError, match=message):
    polymnist.build(modalities, tmp_path, **kwargs)


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


def test_png_is_read_in_numerical_order(named, pngs, tmp_path):
  data = polymnist.build(
    named('m0', 'm2'), tmp_path, source='png', png_dir=str(pngs), num_val=3
  )
  assert [len(s) for s in data.splits.values()] == [4, 3, 4]
  for split in data.splits.values():
    for name, m in (('m0', 0), ('m2', 2)):
      images = split.arrays[name]
      assert (images[..., 0] == m).all()
      index = images[:, 5, 5, 1]
      np.testing.assert_array_equal(index, [0, 2, 10, 11][: len(index)])
      np.testing.assert_array_equal(images[:, 5, 5, 2], split.annotations['class'])


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
def test_png_mistakes(modalities, pngs, tmp_path, damage, message):
  damage(pngs)
  with pytest.raises(UserError, match=message):
    polymnist.build(modalities, tmp_path, source='png', png_dir=str(pngs))
