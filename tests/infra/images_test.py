import io

import numpy as np
import pytest
from PIL import Image

from mmsbm.infra import images


def _numbered(rows, columns, height, width, channels):
  """Images of one value each: 10 * row + column + 1."""
  value = 10 * np.arange(rows)[:, None] + np.arange(columns) + 1
  shape = (rows, columns, height, width, channels)
  return np.broadcast_to(value[..., None, None, None], shape).astype(np.uint8)


def test_grid_puts_every_pixel_in_its_place():
  out = images.grid(_numbered(2, 3, 4, 5, 3), padding=2, background=(9, 8, 7))
  assert out.shape == (2 * 6 + 2, 3 * 7 + 2, 3)
  expected = np.empty_like(out)
  expected[...] = (9, 8, 7)
  for r in range(2):
    for c in range(3):
      expected[2 + 6 * r : 6 + 6 * r, 2 + 7 * c : 7 + 7 * c] = 10 * r + c + 1
  np.testing.assert_array_equal(out, expected)


def test_grid_of_gray_images_without_padding_is_their_concatenation():
  tiles = np.arange(2 * 2 * 3 * 2, dtype=np.uint8).reshape(2, 2, 3, 2, 1)
  out = images.grid(tiles, padding=0)
  expected = np.block([[tiles[r, c, :, :, 0] for c in range(2)] for r in range(2)])
  for channel in range(3):
    np.testing.assert_array_equal(out[..., channel], expected)


def test_wrong_arrays_are_refused():
  with pytest.raises(ValueError, match='uint8'):
    images.grid(np.zeros((1, 1, 2, 2, 3), np.float32))
  with pytest.raises(ValueError, match='R, C, H, W'):
    images.grid(np.zeros((1, 2, 2, 3), np.uint8))
  with pytest.raises(ValueError, match='Unknown kind'):
    images.draw_example('picture', np.zeros((2, 2, 3), np.uint8), 8)


def test_upscale_repeats_pixels():
  image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
  out = images.upscale(image, 3)
  assert out.shape == (6, 9, 3)
  i, j = np.mgrid[:6, :9]
  np.testing.assert_array_equal(out, image[i // 3, j // 3])


def test_png_round_trip(tmp_path):
  image = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
  images.save_png(tmp_path / 'new' / 'image.png', image)
  decoded = np.asarray(Image.open(tmp_path / 'new' / 'image.png'))
  np.testing.assert_array_equal(decoded, image)
  assert [p.name for p in (tmp_path / 'new').iterdir()] == ['image.png']
  gray = np.asarray(Image.open(io.BytesIO(images.encode_png(image[..., :1]))))
  np.testing.assert_array_equal(gray, np.repeat(image[..., :1], 3, axis=-1))


def test_image_tile_is_enlarged_by_a_whole_factor_and_centred():
  image = np.full((4, 4, 1), 50, np.uint8)
  image[0, 1] = 200
  out = images.draw_example('image', image, (14, 13))
  # Factor 3: 12 x 12 pixels from row 1, column 0.
  expected = np.full((14, 13, 3), 255, np.uint8)
  expected[1:13, 0:12] = 50
  expected[1:4, 3:6] = 200
  np.testing.assert_array_equal(out, expected)


def test_large_image_is_shrunk():
  out = images.draw_example('image', np.full((40, 20, 3), 90, np.uint8), 10)
  np.testing.assert_array_equal(out[:, 2:7], np.full((10, 5, 3), 90))
  np.testing.assert_array_equal(out[:, :2], np.full((10, 2, 3), 255))


@pytest.mark.parametrize('high', [1, 255])
def test_mask_is_black_and_white(high):
  mask = np.zeros((2, 2, 1), np.uint8)
  mask[1, 0] = high
  out = images.draw_example('mask', mask, 2)
  np.testing.assert_array_equal(out[..., 0], [[0, 0], [255, 0]])


def test_attributes_without_names_fill_squares_in_order():
  out = images.draw_example('attributes', np.asarray([1, 0, 0, 1], np.uint8), 20)
  for index, (top, left) in enumerate([(5, 5), (5, 15), (15, 5), (15, 15)]):
    expected = images.ACCENT if index in (0, 3) else images.RULE
    assert tuple(out[top, left]) == expected


@pytest.mark.parametrize(
  ('kind', 'one', 'other'),
  [
    ('label', 3, 8),
    ('text', 'seven', np.frombuffer(b'eight\0', np.uint8)),
    ('vector', np.asarray([1.0, -1.0]), np.asarray([-1.0, 1.0])),
    ('audio', np.sin(np.arange(200.0)), np.linspace(-1, 1, 200)[:, None]),
  ],
)
def test_other_kinds_fill_their_tile_and_differ(kind, one, other):
  first = images.draw_example(kind, one, (30, 50))
  second = images.draw_example(kind, other, (30, 50))
  assert first.shape == second.shape == (30, 50, 3)
  assert first.dtype == np.uint8
  assert (first != second).any()


def test_vector_bars_point_up_for_positive_entries():
  out = images.draw_example('vector', np.asarray([3.0, -3.0]), 20)
  assert tuple(out[4, 5]) == images.ACCENT
  assert tuple(out[15, 15]) == images.WARM
  assert tuple(out[15, 5]) == tuple(out[4, 15]) == images.CELL


def test_names_are_used():
  names = ['smiling', 'young', 'hat']
  named = images.draw_example('attributes', np.asarray([0, 1, 0]), (40, 80), names)
  same = images.draw_example('text', 'young', (40, 80))
  np.testing.assert_array_equal(named, same)
  label = images.draw_example('label', 2, (40, 80), names)
  assert (label != images.draw_example('label', 1, (40, 80), names)).any()


def test_captions_may_have_letters_that_are_not_ascii():
  unknown = images.draw_example('text', '\uffff', (30, 30))
  for text in ('ö', 'ß', 'Ж', 'λ', '→'):
    assert (images.draw_example('text', text, (30, 30)) != unknown).any()


def test_panel_without_captions_is_a_grid_of_its_tiles():
  red, blue = (np.full((6, 5, 3), c, np.uint8) for c in ((255, 0, 0), (0, 0, 255)))
  wide = np.full((6, 9, 1), 7, np.uint8)
  out = images.labelled_panel([[red, None], [blue, wide]], padding=3)
  # Margin 10; columns of 8 (the least) and 9 pixels, rows of 8.
  assert out.shape == (10 + 8 + 3 + 8 + 10, 10 + 8 + 3 + 9 + 10, 3)
  np.testing.assert_array_equal(out[11:17, 11:16], red)
  np.testing.assert_array_equal(out[22:28, 11:16], blue)
  np.testing.assert_array_equal(out[22:28, 21:30], np.repeat(wide, 3, axis=-1))
  assert (out[10:18, 21:30] == 255).all()


def test_panel_captions_rules_and_hatching():
  tile = np.full((16, 16, 3), 100, np.uint8)
  rows = [[tile, images.HATCHED, tile]]
  plain = images.labelled_panel(rows)
  full = images.labelled_panel(
    rows,
    row_captions=['class 7'],
    column_captions=['m0', 'm1', 'm1'],
    groups=[('given', 2), ('generated', 1)],
  )
  assert full.shape[0] > plain.shape[0] and full.shape[1] > plain.shape[1]
  assert (full == images.RULE).all(-1).any(0).sum() == 1
  assert (plain == images.CELL).all(-1).any()
  with pytest.raises(ValueError, match='cover'):
    images.labelled_panel(rows, groups=[('given', 2)])
