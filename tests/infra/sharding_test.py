"""Placement on one device; four are in train_test."""

import jax
import numpy as np

from mmsbm.infra import sharding


def test_batches_are_split_on_the_axis_that_is_asked_for():
  mesh = sharding.make_mesh()
  x = {'a': np.arange(12.0).reshape(3, 4)}
  for axis in (0, 1):
    put = sharding.put_batch(x, mesh, axis=axis)['a']
    assert put.sharding.spec[axis] == 'data'
    np.testing.assert_array_equal(put, x['a'])


def test_copies_are_on_every_device():
  put = sharding.put_replicated({'a': np.ones(3), 'b': None}, sharding.make_mesh())
  assert put['a'].sharding.is_fully_replicated
  assert len(put['a'].sharding.device_set) == jax.device_count()
