"""Pictures: numbers, files and tiles."""

import base64
import io
import re

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from mmsbm.infra.errors import UserError
from mmsbm.modalities import Image


def pixels_of(html):
  data = re.search(r'src="data:image/png;base64,([^"]*)"', html)[1]
  return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(data))))


@pytest.fixture
def rgb():
  return np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)


def test_to_data_keeps_256_levels_and_clips():
  kind = Image(shape=(1, 1, 1))
  levels = np.arange(256, dtype=np.uint8)
  np.testing.assert_array_equal(kind.to_data(kind.to_model(levels)), levels)
  outside = jnp.array([-0.1, 1.1, 0.5 / 255 - 1e-4, 0.5 / 255 + 1e-4])
  np.testing.assert_array_equal(kind.to_data(outside), [0, 255, 0, 1])


@pytest.mark.parametrize('shape', [(8, 8), (8, 8, 2), (8, 8, 5), (2, 8, 8, 3), ()])
def test_image_refuses_shapes_that_no_picture_shows(shape):
  with pytest.raises(UserError, match='1, 3 or 4 channels.*vector') as error:
    Image(shape=shape)
  assert '\n' not in str(error.value)


def test_show_holds_the_pixels(rgb):
  html = Image(shape=(5, 4, 3)).show(rgb)
  np.testing.assert_array_equal(pixels_of(html), rgb)
  assert 'class="pixels"' in html and 'width="4" height="5"' in html
  assert 'alt="image, 4 by 5 pixels"' in html


def test_picture_of_grey_has_equal_channels(rgb):
  grey = rgb[..., :1]
  picture = Image(shape=(5, 4, 1)).picture(grey)
  assert picture.shape == (5, 4, 3)
  np.testing.assert_array_equal(picture, np.repeat(grey, 3, -1))


def test_picture_of_four_channels_lies_over_white(rgb):
  kind = Image(shape=(5, 4, 4))
  opaque, clear = (np.dstack([rgb, np.full((5, 4), a, np.uint8)]) for a in (255, 0))
  np.testing.assert_array_equal(kind.picture(opaque), rgb)
  np.testing.assert_array_equal(kind.picture(clear), 255)
  half = kind.picture(np.dstack([rgb, np.full((5, 4), 128, np.uint8)])).astype(float)
  expected = 255 + (rgb.astype(float) - 255) * 128 / 255
  np.testing.assert_allclose(half, expected, atol=1)
  np.testing.assert_array_equal(pixels_of(kind.show(opaque)), rgb)


@pytest.mark.parametrize('suffix', ['png', 'bmp', 'ppm', 'tiff', 'webp'])
def test_read_gives_the_pixels_of_a_file(suffix, rgb, tmp_path):
  PIL.Image.fromarray(rgb).save(tmp_path / f'a.{suffix}', lossless=True)
  read = Image(shape=(5, 4, 3)).read(f' a.{suffix}', tmp_path)
  assert read.dtype == np.uint8 and read.flags.writeable
  np.testing.assert_array_equal(read, rgb)
  absolute = Image(shape=(5, 4, 3)).read(tmp_path / f'a.{suffix}', '/nowhere')
  np.testing.assert_array_equal(absolute, rgb)


def test_read_of_an_array_file(rgb, tmp_path):
  np.save(tmp_path / 'a.npy', rgb.astype(np.int64))
  read = Image(shape=(5, 4, 3)).read('a.npy', tmp_path)
  assert read.dtype == np.uint8
  np.testing.assert_array_equal(read, rgb)
  np.save(tmp_path / 'b.npy', rgb / 255)
  with pytest.raises(UserError, match='b.npy: .* is uint8, not float64'):
    Image(shape=(5, 4, 3)).read('b.npy', tmp_path)


def test_read_converts_channels(rgb, tmp_path):
  grey = rgb[..., 0]
  alpha = np.where(np.arange(20).reshape(5, 4) % 2, 255, 0).astype(np.uint8)
  PIL.Image.fromarray(grey).save(tmp_path / 'grey.png')
  PIL.Image.fromarray(np.dstack([rgb, alpha])).save(tmp_path / 'rgba.png')
  colour = Image(shape=(5, 4, 3))
  np.testing.assert_array_equal(
    colour.read('grey.png', tmp_path), np.repeat(grey[..., None], 3, -1)
  )
  # What is transparent is white, not what the file hides under it.
  np.testing.assert_array_equal(
    colour.read('rgba.png', tmp_path), np.where(alpha[..., None], rgb, 255)
  )
  four = Image(shape=(5, 4, 4)).read('rgba.png', tmp_path)
  np.testing.assert_array_equal(four, np.dstack([rgb, alpha]))
  one = Image(shape=(5, 4, 1))
  np.testing.assert_array_equal(one.read('grey.png', tmp_path)[..., 0], grey)
  assert (one.read('rgba.png', tmp_path)[alpha == 0] == 255).all()


def test_read_turns_photographs_as_the_camera_was_held(rgb, tmp_path):
  exif = PIL.Image.Exif()
  exif[0x0112] = 6  # A quarter turn to the right shows it upright.
  PIL.Image.fromarray(rgb).save(tmp_path / 'a.png', exif=exif)
  read = Image(shape=(4, 5, 3)).read('a.png', tmp_path)
  np.testing.assert_array_equal(read, np.rot90(rgb, -1))


def test_read_refuses_another_size_with_name_and_both(rgb, tmp_path):
  PIL.Image.fromarray(rgb).save(tmp_path / 'a.png')
  message = 'a.png has height 5 and width 4, the config says height 4 and width 5'
  with pytest.raises(UserError, match=message):
    Image(shape=(4, 5, 3)).read('a.png', tmp_path)


def test_read_refuses_what_is_no_picture_of_8_bits(rgb, tmp_path):
  kind = Image(shape=(5, 4, 1))
  PIL.Image.fromarray(rgb[..., 0].astype(np.uint16) * 200).save(tmp_path / 'deep.png')
  with pytest.raises(UserError, match='deep.png has more than 8 bits'):
    kind.read('deep.png', tmp_path)
  (tmp_path / 'noise.png').write_bytes(b'noise')
  with pytest.raises(UserError, match='noise.png cannot be read'):
    kind.read('noise.png', tmp_path)
  with pytest.raises(UserError, match='not the path of a file'):
    kind.read(3.0, tmp_path)
  with pytest.raises(UserError, match='does not exist'):
    kind.read('.', tmp_path)


@pytest.mark.parametrize('suffix', ['png', 'jpg', 'gif', 'bmp', 'tiff'])
def test_read_of_damaged_files_is_pixels_or_one_line(suffix, rgb, tmp_path):
  path = tmp_path / f'a.{suffix}'
  PIL.Image.fromarray(rgb).save(path)
  data = path.read_bytes()
  damages = [data[:length] for length in range(0, len(data), 3)]
  for position in range(0, len(data), 2):
    damages.append(data[:position] + b'\xff' + data[position + 1 :])
  refused = 0
  for damaged in damages:
    path.write_bytes(damaged)
    try:
      assert Image(shape=(5, 4, 3)).read(path.name, tmp_path).shape == (5, 4, 3)
    except UserError as error:
      refused += 1
      assert path.name in str(error) and '\n' not in str(error)
  assert refused > 5
