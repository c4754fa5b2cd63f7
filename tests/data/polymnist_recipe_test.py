"""The recipe, against what it says."""

import numpy as np

from mmsbm.data import polymnist_recipe as recipe
from mmsbm.data.backgrounds import Background

_LABELS = np.repeat(np.arange(4), [5, 9, 2, 7])


def test_composite_inverts_the_crop_under_the_digit():
  # Each pixel of the photograph tells its own position: red is y, green is x.
  y, x = np.indices((20, 31))
  background = np.stack([y, x, y * 0 + 7], -1).astype(np.uint8)
  masks = np.random.default_rng(0).random((5000, 8, 8)) < 0.3
  masks[:, 0, 0] = False
  images = recipe.composite(np.random.default_rng(1), masks, background)
  top, left = images[:, 0, 0, 0].astype(int), images[:, 0, 0, 1].astype(int)
  for i in range(200):
    crop = background[top[i] : top[i] + 8, left[i] : left[i] + 8].astype(int)
    expected = np.where(masks[i][..., None], 255 - crop, crop)
    np.testing.assert_array_equal(images[i], expected)
  # Uniform on all of 0..H-S and 0..W-S: counts within 5 standard errors.
  for corners, num in ((top, 13), (left, 24)):
    counts = np.bincount(corners, minlength=num)
    assert len(counts) == num
    mean = len(masks) / num
    assert np.abs(counts - mean).max() < 5 * np.sqrt(mean)


def test_each_instance_is_used_once_per_round():
  rng = np.random.default_rng(0)
  labels = recipe.draw_labels(rng, _LABELS, 3 * len(_LABELS))
  indices = recipe.pair_instances(rng, _LABELS, labels)
  np.testing.assert_array_equal(np.bincount(indices), np.full(len(_LABELS), 3))
  np.testing.assert_array_equal(_LABELS[indices], labels)
  # Within a class the first round ends before any instance comes back.
  for label, num in enumerate(np.bincount(_LABELS)):
    assert len(set(indices[labels == label][:num])) == num


def test_modalities_share_the_class_and_nothing_else():
  """Given the class, the instances of two modalities are independent."""
  instance_labels = np.repeat(np.arange(2), 50)
  num = 20_000
  labels = recipe.draw_labels(recipe.make_rng(0, 'train'), instance_labels, num)
  first, second = (
    recipe.pair_instances(recipe.make_rng(0, 'train', m), instance_labels, labels)
    for m in (0, 1)
  )
  share = np.mean(first == second)
  assert abs(share - 1 / 50) < 4 * np.sqrt(0.02 * 0.98 / num)
  assert (first // 50 == second // 50).all()


def test_streams_are_separate_and_stable_when_modalities_are_added():
  background = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
  photographs = [Background(background, '', '')] * 3
  draw = lambda rng, rows: np.zeros((len(rows), 8, 8), bool)  # noqa: E731
  labels, images = recipe.make_examples('train', _LABELS, draw, photographs, 30, 0)
  images = list(images)
  _, fewer = recipe.make_examples('train', _LABELS, draw, photographs[:2], 30, 0)
  for a, b in zip(images, fewer, strict=False):
    np.testing.assert_array_equal(a, b)
  draws = {
    recipe.make_rng(seed, split, m).integers(2**62)
    for seed in (0, 1)
    for split in ('instances', 'train', 'val', 'test')
    for m in (None, 0, 1)
  }
  assert len(draws) == 24
  assert labels.dtype == np.int32
