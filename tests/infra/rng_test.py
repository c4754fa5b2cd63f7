"""Streams of randomness stay apart, and where they are."""

import hashlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.infra import rng

STREAMS = {name: n for name, n in vars(rng).items() if name.isupper()}
# More than the modalities of any model.
FEW = 1000


def test_streams_are_apart_from_each_other_and_from_steps():
  assert len(STREAMS) == 12
  for a, b in itertools.combinations([0, *STREAMS.values()], 2):
    assert abs(a - b) > FEW


def test_streams_are_those_of_all_runs_that_were_ever_made():
  """Another number would give other samples of each of them."""
  digest = hashlib.sha1(repr(sorted(STREAMS.items())).encode()).hexdigest()
  assert digest == 'd5a95a4b5871ceee505bda6e263398daea9b9cf2'


def test_row_normal_is_a_function_of_key_and_step():
  keys = jax.random.split(jax.random.key(1), 5)
  draws = rng.row_normal(keys, 7, (3,))
  expected = jax.random.normal(jax.random.fold_in(keys[2], 7), (3,))
  np.testing.assert_array_equal(draws[2], expected)
  steps = jnp.arange(5) + 5
  np.testing.assert_array_equal(rng.row_normal(keys, steps, (3,))[2], draws[2])


def test_substream_is_a_function_of_each_key():
  keys = jax.random.split(jax.random.key(1), 5)
  expected = jax.random.fold_in(keys[3], rng.START)
  assert rng.substream(keys, rng.START)[3] == expected
  assert rng.substream(keys, rng.STEPS)[3] != expected


def test_row_keys_depend_on_the_row_and_not_on_its_place():
  key = jax.random.key(2)
  assert rng.row_keys(key, jnp.arange(8))[5] == rng.row_keys(key, jnp.array([5, 6]))[0]


def test_fold_in_name_is_stable():
  key = rng.fold_in_name(jax.random.key(0), 'score')
  number = int.from_bytes(hashlib.sha1(b'score').digest()[:4], 'big')
  assert key == jax.random.fold_in(jax.random.key(0), number)


def test_make_key_does_not_follow_the_environment():
  expected = jax.random.key_data(rng.make_key(3))
  with jax.default_prng_impl('rbg'):
    key = rng.make_key(3)
    np.testing.assert_array_equal(jax.random.key_data(key), expected)
