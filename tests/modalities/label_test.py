"""Labels: numbers, cells and tiles."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.infra.errors import UserError
from mmsbm.modalities import Label


def test_to_model_is_one_hot_and_to_data_the_largest():
  kind = Label(num_classes=3)
  np.testing.assert_array_equal(kind.to_model(jnp.array([2])), [[0, 0, 1]])
  np.testing.assert_array_equal(kind.to_data(jnp.array([[0.2, 0.5, 0.3]])), [1])


@pytest.mark.parametrize('num_classes', [0, -1, 2.5, '3', None])
def test_label_refuses_a_number_of_classes(num_classes):
  with pytest.raises(UserError, match='num_classes .* positive whole number'):
    Label(num_classes=num_classes)


@pytest.mark.parametrize('cell', [3, '3', ' 3 ', 3.0, '3.0', np.int64(3), [3], '[3]'])
def test_read_takes_a_whole_number_in_any_form(cell, tmp_path):
  read = Label(num_classes=4).read(cell, tmp_path)
  assert read.dtype == np.int32 and read.shape == () and read == 3


@pytest.mark.parametrize('cell', [4, -1, 1.5, '2 3', 'inf', 'nan', '1e400', []])
def test_read_refuses_what_is_no_class(cell, tmp_path):
  with pytest.raises(UserError, match='is no class; .* from 0 to 3'):
    Label(num_classes=4).read(cell, tmp_path)


def test_read_refuses_a_name(tmp_path):
  with pytest.raises(UserError, match="'cat' does not hold numbers"):
    Label(num_classes=4).read('cat', tmp_path)


def test_show_is_the_number():
  assert Label(num_classes=4).show(np.int32(3)) == '<p>3</p>'
  assert Label(num_classes=4).show(np.array(2)) == '<p>2</p>'
