"""Masks: numbers, files and tiles."""

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from mmsbm.infra.errors import UserError
from mmsbm.modalities import Mask

MASK = (np.arange(20).reshape(5, 4) % 3 == 0).astype(np.uint8)


def test_to_model_of_0_and_255_is_0_and_1():
  kind = Mask(shape=(5, 4, 1))
  raw = kind.check(MASK[None, ..., None] * 255, 'm')
  np.testing.assert_array_equal(kind.to_model(jnp.asarray(raw))[0, ..., 0], MASK)


def test_to_data_cuts_at_one_half():
  kind = Mask(shape=(1, 2))
  np.testing.assert_array_equal(kind.to_data(jnp.array([[0.5, 0.51]])), [[0, 1]])


@pytest.mark.parametrize('shape', [(), (5,), (2, 5, 4, 1)])
def test_mask_refuses_shapes_that_no_picture_shows(shape):
  with pytest.raises(UserError, match='a mask has shape .*attributes'):
    Mask(shape=shape)


@pytest.mark.parametrize('shape', [(5, 4), (5, 4, 1)])
@pytest.mark.parametrize('level', [1, 255])
def test_picture_is_white_on_black(shape, level):
  picture = Mask(shape=shape).picture((MASK * level).reshape(shape))
  np.testing.assert_array_equal(picture, np.repeat(MASK[..., None] * 255, 3, -1))


def test_picture_gives_each_part_a_colour_of_its_own():
  kind = Mask(shape=(1, 5, 4))
  picture = kind.picture(np.eye(5, 4, dtype=np.uint8)[None])[0]
  assert len({tuple(colour) for colour in picture[:4]}) == 4
  np.testing.assert_array_equal(picture[4], 0)
  # Later parts lie over earlier ones.
  everywhere = kind.picture(np.ones((1, 5, 4), np.uint8))
  np.testing.assert_array_equal(everywhere[0], np.tile(picture[3], (5, 1)))


def test_show_says_how_much_is_set():
  html = Mask(shape=(5, 4)).show(MASK)
  assert html.startswith('<img class="pixels"') and 'alt="mask, 35% set"' in html


@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'RGB', 'RGBA'])
def test_read_gives_0_and_1(mode, tmp_path):
  PIL.Image.fromarray(MASK * 255).convert(mode).save(tmp_path / 'a.png')
  for shape in ((5, 4), (5, 4, 1)):
    read = Mask(shape=shape).read('a.png', tmp_path)
    assert read.dtype == np.uint8 and read.shape == shape
    np.testing.assert_array_equal(read.reshape(5, 4), MASK)


def test_read_of_low_levels_and_of_one_level(tmp_path):
  PIL.Image.fromarray(MASK).save(tmp_path / 'low.png')
  np.testing.assert_array_equal(Mask(shape=(5, 4)).read('low.png', tmp_path), MASK)
  PIL.Image.fromarray(MASK * 0 + 255).save(tmp_path / 'full.png')
  assert Mask(shape=(5, 4)).read('full.png', tmp_path).all()


def test_read_of_parts_is_from_an_array_file(tmp_path):
  parts = np.stack([MASK, 1 - MASK], -1)
  np.save(tmp_path / 'a.npy', parts.astype(bool))
  kind = Mask(shape=(5, 4, 2))
  np.testing.assert_array_equal(kind.read('a.npy', tmp_path), parts)
  PIL.Image.fromarray(MASK).save(tmp_path / 'a.png')
  with pytest.raises(UserError, match='a.png is one picture, but .* 2 parts'):
    kind.read('a.png', tmp_path)
  with pytest.raises(UserError, match=r'a.npy: examples have shape \(5, 4, 2\)'):
    Mask(shape=(5, 4)).read('a.npy', tmp_path)


def test_read_refuses_what_has_more_than_two_levels(tmp_path):
  levels = MASK * 255
  levels[0, 0] = 7
  PIL.Image.fromarray(levels).save(tmp_path / 'a.png')
  with pytest.raises(UserError, match='a.png holds values from 0 to 255; .*two values'):
    Mask(shape=(5, 4)).read('a.png', tmp_path)
  np.save(tmp_path / 'a.npy', MASK * 2)
  with pytest.raises(UserError, match='a.npy holds values from 0 to 2'):
    Mask(shape=(5, 4)).read('a.npy', tmp_path)


def test_read_refuses_transparent_pixels_and_another_size(tmp_path):
  clear = np.dstack([np.repeat(MASK[..., None] * 255, 3, -1), MASK * 255])
  PIL.Image.fromarray(clear).save(tmp_path / 'a.png')
  with pytest.raises(UserError, match='a.png has transparent pixels'):
    Mask(shape=(5, 4)).read('a.png', tmp_path)
  with pytest.raises(UserError, match='a.png has height 5 and width 4'):
    Mask(shape=(4, 4)).read('a.png', tmp_path)
