"""Vectors: numbers, cells and tiles."""

import re
import xml.etree.ElementTree as ET

import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.infra.errors import UserError
from mmsbm.modalities import Vector


def drawn(html):
  """{class: outlines} of the shapes of a drawing, which has to be well formed."""
  return {
    shape.get('class'): shape.get('d') or shape.get('points')
    for shape in ET.fromstring(html)
    if shape.tag != 'title'
  }


def test_to_model_shifts_and_scales():
  kind = Vector(shape=(1,), offset=2.0, scale=4.0)
  np.testing.assert_allclose(kind.to_model(jnp.array([[10.0]])), [[2.0]])
  np.testing.assert_allclose(kind.to_data(jnp.array([[2.0]])), [[10.0]])


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (dict(scale=0.0), 'scale .* positive'),
    (dict(scale=-1.0), 'scale .* positive'),
    (dict(scale=float('inf')), 'scale .* finite'),
    (dict(scale='fat'), 'scale .* finite numbers'),
    (dict(offset=float('nan')), 'offset .* finite'),
  ],
)
def test_vector_refuses_numbers_that_make_no_sense(changes, message):
  with pytest.raises(UserError, match=message):
    Vector(shape=(2,), **changes)


@pytest.mark.parametrize(
  'cell', ['0.5 -1 2e3', '[0.5, -1, 2000]', [0.5, -1, 2000], np.array([0.5, -1, 2000])]
)
def test_read_takes_numbers_in_any_form(cell, tmp_path):
  read = Vector(shape=(3,)).read(cell, tmp_path)
  assert read.dtype == np.float32
  np.testing.assert_array_equal(read, [0.5, -1, 2000])


def test_read_takes_one_number_and_array_files(tmp_path):
  assert Vector(shape=()).read('1.5', tmp_path) == np.float32(1.5)
  assert Vector(shape=(1,)).read(1.5, tmp_path) == np.float32([1.5])
  np.save(tmp_path / 'a.npy', np.arange(6.0).reshape(2, 3))
  np.testing.assert_array_equal(
    Vector(shape=(2, 3)).read('a.npy', tmp_path), np.arange(6).reshape(2, 3)
  )


@pytest.mark.parametrize(
  ('cell', 'message'),
  [
    ('1 2', r"cell '1 2' holds numbers of shape \(2,\); the config says \(3,\)"),
    ('1 2 x', 'does not hold numbers'),
    ('1 2 nan', 'NaN'),
    ([1, 2, 1e39], 'beyond float32'),
    ('a.npy', r'a.npy holds numbers of shape \(3, 1\)'),
    ('text.npy', 'text.npy holds <U1, not numbers'),
    ('object.npy', 'object.npy cannot be read'),
    ('noise.npy', 'noise.npy cannot be read'),
    ('empty.npy', 'empty.npy cannot be read'),
    ('archive.npy', 'archive.npy cannot be read'),
  ],
)
def test_read_refuses(cell, message, tmp_path):
  np.save(tmp_path / 'a.npy', np.zeros((3, 1)))
  np.save(tmp_path / 'text.npy', np.array(['a'] * 3))
  np.save(tmp_path / 'object.npy', np.array([{}] * 3), allow_pickle=True)
  (tmp_path / 'noise.npy').write_bytes(b'noise')
  (tmp_path / 'empty.npy').touch()
  with open(tmp_path / 'archive.npy', 'wb') as f:
    np.savez(f, a=np.zeros(3))
  with pytest.raises(UserError, match=message) as error:
    Vector(shape=(3,)).read(cell, tmp_path)
  assert '\n' not in str(error.value)


def test_show_draws_bars_from_the_offset():
  kind = Vector(shape=(4,), offset=10.0, scale=2.0)
  shapes = drawn(kind.show(np.array([10.0, 16.0, 13.0, 4.0])))
  # The field is 96 by 64; three scales reach the edge but for a pixel.
  assert shapes['positive'] == 'M25 1h22v31h-22zM49 16.5h22v15.5h-22z'
  assert shapes['negative'] == 'M73 32h22v31h-22z'


def test_show_cuts_what_lies_beyond_three_scales():
  kind = Vector(shape=(2,), offset=0.0, scale=1.0)
  assert drawn(kind.show([3.0, -3.0])) == drawn(kind.show([1e30, -1e30]))


@pytest.mark.parametrize('shape', [(), (1,), (32,), (33,), (256,), (257,), (4, 5, 6)])
def test_show_takes_any_shape(shape):
  example = np.random.default_rng(0).normal(size=shape)
  shapes = drawn(Vector(shape=shape, offset=0.0, scale=1.0).show(example))
  size = np.size(example)
  if size <= 32:
    bars = shapes.get('positive', '') + shapes.get('negative', '')
    assert bars.count('z') == size
  else:
    points = re.findall(r'(\S+),(\S+)', shapes['positive'])
    assert len(points) == min(size, 256)
    assert all(0 <= float(x) <= 96 and 0 <= float(y) <= 64 for x, y in points)


def test_show_of_many_keeps_peaks():
  example = np.zeros(10_000)
  example[5_000] = 3
  assert (
    ',1 '
    in drawn(Vector(shape=(10_000,), offset=0.0, scale=1.0).show(example))['positive']
  )


def test_show_of_what_is_not_finite_is_still_a_drawing():
  html = Vector(shape=(3,), offset=0.0, scale=1.0).show(np.array([np.nan, np.inf, -1]))
  assert 'nan' not in ''.join(drawn(html).values()).lower()


def test_show_tells_few_numbers_and_the_range_of_many():
  assert 'aria-label="0.5, -2"' in Vector(shape=(2,), offset=0.0, scale=1.0).show(
    [0.5, -2]
  )
  html = Vector(shape=(20,), offset=5, scale=1).show(np.arange(20) / 2)
  assert 'aria-label="20 numbers from 0 to 9.5"' in html
