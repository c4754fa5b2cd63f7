"""Digits that need no download."""

import numpy as np
import pytest
import scipy.ndimage
import sklearn.datasets

from mmsbm.data import backgrounds, dataset, digits
from mmsbm.infra.errors import UserError

_SMALL = {'num_train': 400, 'num_val': 160, 'num_test': 90}


def test_instances_are_those_of_scikit_learn():
  images, labels = digits.load_instances()
  expected, expected_labels = sklearn.datasets.load_digits(return_X_y=True)
  np.testing.assert_array_equal(images.reshape(-1, 64), expected)
  np.testing.assert_array_equal(labels, expected_labels)


def test_instances_are_split_without_overlap():
  parts = digits.split_instances(0)
  assert {k: len(v) for k, v in parts.items()} == digits.NUM_INSTANCES
  assert tuple(parts) == dataset.SPLITS
  np.testing.assert_array_equal(
    np.sort(np.concatenate(list(parts.values()))), np.arange(1797)
  )
  assert not np.array_equal(parts['test'], digits.split_instances(1)['test'])


@pytest.mark.parametrize('size', [16, 21, 28])
def test_warp_equals_scipy(size):
  images = digits.load_instances()[0][:12]
  affine = digits.random_affine(np.random.default_rng(0), len(images), 2.0)
  position = (np.arange(size) + 0.5) * 8 / size - 0.5
  y, x = np.meshgrid(position - 3.5, position - 3.5, indexing='ij')
  plain, warped = digits.warp(images, size), digits.warp(images, size, affine)
  for i, a in enumerate(affine):
    for found, matrix in ((plain[i], np.eye(2, 3)), (warped[i], a)):
      where = [m[0] * y + m[1] * x + m[2] + 3.5 for m in matrix]
      expected = scipy.ndimage.map_coordinates(
        images[i], where, order=1, mode='grid-constant'
      )
      np.testing.assert_allclose(found, expected, atol=1e-3)


def test_random_affine_is_within_its_limits():
  affine = digits.random_affine(np.random.default_rng(0), 5000, 1.0)
  # Undo the shear in closed form: the second column is scale * (-sin, cos).
  scale = np.hypot(affine[:, 0, 1], affine[:, 1, 1])
  angle = np.arctan2(-affine[:, 0, 1], affine[:, 1, 1])
  shear = affine[:, 1, 0] - scale * np.sin(angle)
  for values, limit in (
    (scale - 1, 0.1), (angle, 0.17), (shear, 0.1),
    (affine[:, 0, 2], 0.6), (affine[:, 1, 2], 0.6),
  ):  # fmt: skip
    assert 0.99 * limit < np.abs(values).max() < 1.00001 * limit
    assert abs(values.mean()) < 4 * limit / np.sqrt(3 * 5000)
  still = digits.random_affine(np.random.default_rng(0), 3, 0.0)
  np.testing.assert_array_equal(still, np.tile(np.eye(2, 3), (3, 1, 1)))


def test_pictures_show_the_class_on_the_photograph_of_the_modality(named, tmp_path):
  """Every picture is a crop of the right photograph and an inverted test digit."""
  photos = {'a': 'flower', 'b': 'coffee'}
  data = digits.build(
    named(*photos), tmp_path, photos=tuple(photos.values()), augment=0.0, **_SMALL
  )
  images, labels = digits.load_instances()
  rows = digits.split_instances(0)['test']
  masks = digits.warp(images[rows], 16) > 7.5
  split = data.splits['test']
  for name, photo in photos.items():
    (photograph,) = backgrounds.load_backgrounds((photo,), 1)
    pixels = photograph.pixels.astype(np.int32) @ [1 << 16, 1 << 8, 1]
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (16, 16))
    for i in range(8):
      shown = split.arrays[name][i].astype(np.int32) @ [1 << 16, 1 << 8, 1]
      candidates = masks[labels[rows] == split.annotations['class'][i]]
      # Pixels that no digit of the class covers tell where the crop may be from.
      here = np.ones(windows.shape[:2], bool)
      for y, x in np.argwhere(~candidates.any(0))[::7]:
        here &= windows[:, :, y, x] == shown[y, x]
      crops = windows[here]
      assert 1 <= len(crops) < 100
      expected = np.where(candidates, 0xFFFFFF - crops[:, None], crops[:, None])
      assert (expected == shown).all((2, 3)).any(), (name, i)


def test_beyond_ten_modalities_the_photographs_return_in_other_colours(named, tmp_path):
  names = tuple(f'm{i}' for i in range(50))
  data = digits.build(named(*names), tmp_path, num_train=1, num_val=1, num_test=40)
  photographs = backgrounds.load_backgrounds(tuple(backgrounds.BUNDLED), 10)
  varied = digits.vary_backgrounds(photographs, 50)
  inverted = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], bool)
  for i, (name, background) in enumerate(zip(names, varied, strict=True)):
    pixels = photographs[i % 10].pixels
    np.testing.assert_array_equal(
      background.pixels, np.where(inverted[i // 10], 255 - pixels, pixels)
    )
    # A picture has colours of its photograph's variant, and on the digit the inverse
    # ones: up to the sign of the three channels together, they tell the variant.
    shown, colours = (
      np.minimum(c @ [1 << 16, 1 << 8, 1], (255 - c) @ [1 << 16, 1 << 8, 1])
      for c in (
        data.splits['test'].arrays[name].reshape(-1, 3).astype(np.int32),
        background.pixels.reshape(-1, 3).astype(np.int32),
      )
    )
    assert np.isin(shown, colours).all(), name
  assert len({b.fingerprint for b in varied}) == 50
  assert data.source.count('astronaut') == 1


def test_the_first_ten_modalities_are_what_they_were(named, tmp_path):
  """Digest and pictures as they were when there were no more than ten."""
  names = tuple(f'm{i}' for i in range(10))
  ten = digits.build(named(*names), tmp_path, **_SMALL)
  assert ten.content_hash == '3ebe55c7c2ef619d4db1c63643e4fa13'
  more = digits.build(named(*names, 'm10'), tmp_path, **_SMALL)
  for split, part in ten.splits.items():
    for name in names:
      np.testing.assert_array_equal(part.arrays[name], more.splits[split].arrays[name])
  # An instance, a crop and a colour of its own, not a recoloured m0.
  assert not np.array_equal(
    more.splits['test'].arrays['m10'][..., 1], more.splits['test'].arrays['m0'][..., 1]
  )


def test_dataset(named, tmp_path):
  names = ('m0', 'm1', 'm2')
  data = digits.build(named(*names), tmp_path, **_SMALL)
  assert [len(s) for s in data.splits.values()] == [400, 160, 90]
  assert data.num_classes == {'class': 10}
  train = data.splits['train']
  assert train.arrays['m1'].shape == (400, 16, 16, 3)
  assert train.arrays['m1'].dtype == np.uint8
  assert 'CC BY 2.0' in data.source and '400/160/90' in data.source
  # Class frequencies are those of the instances: 9.9 % to 10.2 % each.
  frequencies = np.bincount(train.annotations['class']) / 400
  assert np.abs(frequencies - 0.1).max() < 4 * np.sqrt(0.1 * 0.9 / 400)


def _shown(data, split, photograph):
  """Digits [N, 16, 16] bool of the only modality that is on a black photograph."""
  assert not photograph.pixels.any()
  return data.splits[split].arrays['a'][..., 0] > 0


def test_all_splits_are_deformed_alike_and_show_each_instance_once(
  named, tmp_path, monkeypatch
):
  """On black photographs pictures are the digits, so their recipe can be read off."""
  black = backgrounds.Background(np.zeros((20, 20, 3), np.uint8), 'black', 'nobody')
  monkeypatch.setattr(backgrounds, 'load_backgrounds', lambda *_: (black, black))
  counts = {'num_train': 1047, 'num_val': 300, 'num_test': 450}
  data, plain = (
    digits.build(named('a', 'b'), tmp_path, augment=strength, **counts)
    for strength in (1.0, 0.0)
  )
  images, _ = digits.load_instances()
  for split, rows in digits.split_instances(0).items():
    digit = digits.warp(images[rows], 16) > 7.5
    # Without deformation the pictures are the instances of the split, each once.
    found = np.sort([m.tobytes() for m in _shown(plain, split, black)])
    assert (found == np.sort([m.tobytes() for m in digit])).all()
    # Deformed, no more than a few are what they were, and as much ink is used.
    shown = _shown(data, split, black)
    same = {m.tobytes() for m in digit}
    assert np.mean([m.tobytes() in same for m in shown]) < 0.05
    assert abs(shown.mean() / digit.mean() - 1) < 0.03


@pytest.mark.parametrize(
  ('names', 'kwargs', 'message'),
  [
    (('a',), {}, '2 to 50 modalities, not 1'),
    (tuple(map(str, range(51))), {}, '2 to 50 modalities, not 51'),
    (('a', 'b'), {'photos': ('cell',)}, 'need 2 background'),
    (('a', 'b'), {'image_size': 32}, '16 to 28'),
    (('a', 'b'), {'num_val': 0}, 'num_val'),
    (('a', 'b'), {'num_val': 301}, 'num_val is 301.*at most 300'),
    (('a', 'b'), {'num_test': 451}, 'num_test is 451.*at most 450'),
    (('a', 'b'), {'augment': -1.0}, 'augment'),
    (('a', 'b'), {'seed': -1}, 'seed'),
  ],
)
def test_mistakes(named, tmp_path, names, kwargs, message):
  with pytest.raises(UserError, match=message):
    digits.build(named(*names), tmp_path, **kwargs)
