"""Attributes: cells and tiles."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from mmsbm.infra.errors import UserError
from mmsbm.modalities import Attributes


def boxes(html):
  """Number of boxes that are set and of boxes that are not."""
  paths = {
    path.get('class'): path.get('d') for path in ET.fromstring(html).iter('path')
  }
  return tuple(paths.get(name, '').count('z') for name in ('positive', 'axis'))


@pytest.mark.parametrize(
  'cell',
  ['0 1 1', '0,1,1', '[0, 1, 1]', ' 0;1; 1 ', [0, 1, 1], (False, True, True),
   np.array([0.0, 1.0, 1.0]), '0 255 255'],
)  # fmt: skip
def test_read_takes_numbers_in_any_form(cell, tmp_path):
  read = Attributes(shape=(3,)).read(cell, tmp_path)
  assert read.dtype == np.uint8
  np.testing.assert_array_equal(read, [0, 1, 1])


def test_read_takes_array_files_and_other_shapes(tmp_path):
  np.save(tmp_path / 'a.npy', np.eye(2, 3, dtype=bool))
  kind = Attributes(shape=(2, 3))
  np.testing.assert_array_equal(kind.read('a.npy', tmp_path), np.eye(2, 3))
  np.testing.assert_array_equal(kind.read('1 0 0 0 1 0', tmp_path), np.eye(2, 3))
  assert Attributes(shape=(1,)).read(1, tmp_path) == [1]


@pytest.mark.parametrize(
  ('cell', 'message'),
  [
    ('0 1', r"cell '0 1' holds numbers of shape \(2,\); the config says \(3,\)"),
    ('0 1 2', 'holds values from 0 to 2; it must hold two values'),
    ('-1 1 1', 'from -1 to 1'),
    ('0 0.5 1', 'two values'),
    ('0 nan 1', 'two values'),
    ('yes no yes', "'yes no yes' does not hold numbers"),
    ([1, [2]], 'does not hold numbers'),
    (object(), 'does not hold numbers'),
  ],
)
def test_read_refuses(cell, message, tmp_path):
  with pytest.raises(UserError, match=message):
    Attributes(shape=(3,)).read(cell, tmp_path)


@pytest.mark.parametrize('size', [1, 2, 5, 9, 40, 256])
def test_show_has_a_box_for_each_attribute(size):
  example = (np.arange(size) % 3 == 0).astype(np.uint8)
  html = Attributes(shape=(size,)).show(example)
  assert boxes(html) == (example.sum(), size - example.sum())
  assert f'{example.sum()} of {size} attributes set' in html


def test_show_names_the_few_that_are_set():
  kind = Attributes(shape=(2, 2))
  assert 'aria-label="2 of 4 attributes set: 1, 2"' in kind.show([[0, 1], [255, 0]])
  assert 'aria-label="0 of 4 attributes set"' in kind.show(np.zeros((2, 2), np.uint8))
  assert boxes(kind.show(np.ones((2, 2), np.uint8))) == (4, 0)


def test_show_of_very_many_is_a_sentence():
  html = Attributes(shape=(1000,)).show(np.ones(1000, np.uint8))
  assert html == '<p>1000 of 1000 attributes set</p>'
