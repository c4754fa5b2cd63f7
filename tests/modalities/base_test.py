"""Shapes and arrays, checked."""

import numpy as np
import pytest

from mmsbm.infra.errors import UserError
from mmsbm.modalities import Attributes, Image, Label, Mask, Modality, Vector, base

KINDS = {
  'image': Image(shape=(4, 4, 3)),
  'mask': Mask(shape=(4, 4, 1)),
  'attributes': Attributes(shape=(5,)),
  'label': Label(num_classes=7),
  'vector': Vector(shape=(3,)),
}


@pytest.mark.parametrize(
  ('kind', 'raw', 'message'),
  [
    ('image', np.zeros((2, 4, 5, 3), np.uint8), r'have shape \(4, 5, 3\), .*\(4, 4, 3'),
    ('image', np.zeros((4, 4, 3), np.uint8), r'have shape \(4, 3\)'),
    ('image', np.zeros((2, 4, 4, 3)), 'is uint8, not float64'),
    ('image', np.full((2, 4, 4, 3), 256), 'values from 0 to 255, not 256 to 256'),
    ('image', np.full((2, 4, 4, 3), -1), 'values from 0 to 255'),
    ('mask', np.full((2, 4, 4, 1), 0.5), 'is uint8, not float64'),
    ('attributes', np.full((2, 5), 'yes'), 'is uint8, not'),
    ('label', np.array([7]), 'values from 0 to 6'),
    ('label', np.array([-1]), 'values from 0 to 6'),
    ('label', np.array([2**63], np.uint64), 'values from 0 to 6'),
    ('label', np.array([1.0]), 'is int32, not float64'),
    ('label', 3, 'one number'),
    ('vector', np.array([['a', 'b', 'c']]), 'is float32, not'),
    ('vector', np.array([[1j, 0, 0]]), 'is float32, not complex128'),
    ('vector', [[1, 2, 3], [1, 2]], r'not all of shape \(3,\)'),
    ('vector', np.array([[0, 1, np.nan]]), 'NaN'),
    ('vector', np.array([[0, 1, -np.inf]]), 'infinity'),
    ('vector', np.array([[0, 1, 1e300]]), 'beyond float32'),
  ],
)
def test_check_refuses_wrong_data(kind, raw, message):
  with pytest.raises(UserError, match=f"^modality 'm0': .*{message}") as error:
    KINDS[kind].check(raw, 'm0')
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('kind', 'raw', 'dtype'),
  [
    ('vector', np.array([[1, 2, 3]]), np.float32),
    ('vector', np.zeros((2, 3), '>f8'), np.float32),
    ('vector', [[True, False, True]], np.float32),
    ('label', np.array([3], np.int64), np.int32),
    ('label', np.array([3], '>i4'), np.int32),
    ('image', np.full((1, 4, 4, 3), 255, np.int64), np.uint8),
    ('attributes', np.ones((1, 5), bool), np.uint8),
  ],
)
def test_check_converts_other_types_of_number(kind, raw, dtype):
  checked = KINDS[kind].check(raw, 'm0')
  assert checked.dtype == dtype and checked.dtype.isnative
  np.testing.assert_array_equal(checked, raw)


def test_check_does_not_copy_what_is_right():
  raw = np.zeros((2, 3), np.float32)
  assert KINDS['vector'].check(raw, 'm0') is raw


def test_check_array_looks_only_where_the_type_allows_wrong_values():
  holds = base._holds
  assert holds((0, 255), np.dtype(np.uint8)) and holds((0, 1), np.dtype(bool))
  assert holds((-np.inf, np.inf), np.dtype(np.float64))
  assert not holds((0, 255), np.dtype(np.int8))
  assert not holds((0, 255), np.dtype(np.uint16))
  assert not holds((0, 6), np.dtype(np.uint8))
  assert not holds((0, 1), np.dtype(np.float32))


def test_modality_has_the_shapes_and_the_check_of_its_kind():
  modality = Modality(name='m0', kind_name='label', kind=Label(num_classes=4))
  assert modality.shape == () and modality.model_shape == (4,)
  with pytest.raises(UserError, match="^modality 'm0'"):
    modality.check(np.array([4]))


@pytest.mark.parametrize('kind', [Image, Mask, Attributes, Vector])
@pytest.mark.parametrize('shape', [(4, 0, 1), (4, -3, 1), (4, 2.5, 1), '441', 4, None])
def test_shape_of_a_kind_is_of_positive_integers(kind, shape):
  with pytest.raises(UserError, match='positive whole numbers'):
    kind(shape=shape)


@pytest.mark.parametrize('kind', [Image, Mask, Attributes, Vector])
def test_shape_of_a_kind_may_be_a_list(kind):
  made = kind(shape=[4, np.int64(3), 1])
  assert made.shape == (4, 3, 1) and all(type(side) is int for side in made.shape)
  assert made == kind(shape=(4, 3, 1))
