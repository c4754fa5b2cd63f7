"""Raw data to what networks see and back, for every kind."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.infra.errors import UserError
from mmsbm.modalities import KINDS, Image, Label, Vector, make_modality

SPECS = {
  'image': dict(kind='image', shape=(4, 4, 3)),
  'mask': dict(kind='mask', shape=(4, 4, 1)),
  'attributes': dict(kind='attributes', shape=(5,)),
  'label': dict(kind=dict(name='label', num_classes=7), shape=()),
  'vector': dict(kind=dict(name='vector', offset=2.0, scale=4.0), shape=(3,)),
}
RAW = {
  'image': np.arange(256, dtype=np.uint8).repeat(3)[: 16 * 48].reshape(16, 4, 4, 3),
  'mask': (np.arange(32) % 3 == 0).astype(np.uint8).reshape(2, 4, 4, 1),
  'attributes': (np.arange(10) % 2).astype(np.uint8).reshape(2, 5),
  'label': np.arange(7, dtype=np.int32),
  'vector': np.linspace(-9, 9, 6, dtype=np.float32).reshape(2, 3),
}


def make(sort, **changes):
  network = dict(name='mlp', widths=(4,))
  spec = dict(
    latent_dim=2,
    encoder=network,
    decoder=network,
    likelihood=dict(name='normal', scale=1.0),
  )
  return make_modality('x', **spec | SPECS[sort] | changes)


@pytest.mark.parametrize('kind', KINDS)
def test_data_come_back_from_what_the_networks_see(kind):
  modality = make(kind)
  raw = modality.check(RAW[kind])
  seen = modality.kind.to_model(jnp.asarray(raw))
  assert seen.dtype == np.float32
  assert seen.shape == (len(raw), *modality.model_shape)
  back = modality.kind.to_data(seen)
  assert back.dtype == raw.dtype
  np.testing.assert_array_equal(back, raw)


def test_all_256_levels_survive_and_what_lies_outside_is_clipped():
  levels = np.arange(256, dtype=np.uint8)
  np.testing.assert_array_equal(Image().to_data(Image().to_model(levels)), levels)
  outside = jnp.array([-0.1, 1.1, 0.5 / 255 - 1e-4, 0.5 / 255 + 1e-4])
  np.testing.assert_array_equal(Image().to_data(outside), [0, 255, 0, 1])


def test_a_vector_is_shifted_and_scaled_as_the_config_says():
  seen = Vector(offset=2.0, scale=4.0).to_model(jnp.array([10.0]))
  np.testing.assert_allclose(seen, [2.0])


def test_a_label_is_one_hot_and_read_off_the_largest_probability():
  kind = Label(num_classes=3)
  np.testing.assert_array_equal(kind.to_model(jnp.array([2])), [[0, 0, 1]])
  np.testing.assert_array_equal(kind.to_data(jnp.array([[0.2, 0.5, 0.3]])), [1])


def test_a_mask_of_0_and_255_is_a_mask_of_0_and_1():
  raw = make('mask').check(np.full((1, 4, 4, 1), 255))
  np.testing.assert_array_equal(make('mask').kind.to_model(jnp.asarray(raw)), 1.0)


@pytest.mark.parametrize(
  ('kind', 'raw', 'message'),
  [
    ('image', np.zeros((2, 4, 5, 3), np.uint8), 'shape'),
    ('image', np.zeros((2, 4, 4, 3)), 'is uint8, not float64'),
    ('image', np.full((2, 4, 4, 3), 256), 'values from 0 to 255'),
    ('image', np.full((2, 4, 4, 3), -1), 'values from 0 to 255'),
    ('attributes', np.full((2, 5), 'yes'), 'is uint8, not'),
    ('label', np.array([7]), 'values from 0 to 6'),
    ('label', np.array([-1]), 'values from 0 to 6'),
    ('label', np.array([1.0]), 'is int32, not float64'),
    ('vector', np.array([['a', 'b', 'c']]), 'is float32, not'),
  ],
)
def test_wrong_data_are_refused_and_never_wrapped_around(kind, raw, message):
  with pytest.raises(UserError, match=message):
    make(kind).check(raw)


def test_whole_numbers_of_any_type_are_accepted():
  raw = make('vector').check(np.array([[1, 2, 3]]))
  assert raw.dtype == np.float32
  assert make('label').check(np.array([3], np.int64)).dtype == np.int32


@pytest.mark.parametrize(
  ('kind', 'changes', 'message'),
  [
    ('image', dict(shape=(4, 4)), 'height, width, channels'),
    ('label', dict(shape=(1,)), 'one integer'),
    ('vector', dict(kind='vektor'), "Did you mean 'vector'"),
    ('label', dict(kind='label'), "needs the argument 'num_classes'"),
    ('vector', dict(likelihood=dict(name='normal', std=1.0)), "no argument 'std'"),
    ('vector', dict(encoder=dict(name='mpl')), "Did you mean 'mlp'"),
  ],
)
def test_a_wrong_config_is_explained(kind, changes, message):
  with pytest.raises(UserError, match=message):
    make(kind, **changes)
