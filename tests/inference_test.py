"""Any number of examples in chunks: rows are on their own, bad numbers are named."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.inference import Inference
from mmsbm.infra import sharding
from mmsbm.infra.errors import UserError
from mmsbm.infra.rng import fold_in_name, row_keys
from mmsbm.modalities import Image, Modality, Vector

KEY = jax.random.key(3)
MODALITIES = (
  Modality(
    name='a', kind_name='vector', kind=Vector(shape=(3,), offset=0.0, scale=2.0)
  ),
  Modality(name='b', kind_name='image', kind=Image(shape=(2, 2, 1))),
)
SIZES = (3, 4)


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
  """Encodes to numbers, and adds noise of the row's own to them.

  'coupled' adds the mean of its batch; 'torn' gives infinity where b is not observed.
  """

  traces: list = dataclasses.field(default_factory=list)
  modalities: Any = MODALITIES
  samplings: Any = dataclasses.field(
    default_factory=lambda: dict.fromkeys(('own', 'coupled', 'torn'))
  )

  def couples_rows(self, sampling):
    return sampling == 'coupled'

  def encode(self, variables, x):
    self.traces.append(('encode', x[0].shape))
    flat = [
      m.kind.to_model(a).reshape(len(a), -1)
      for m, a in zip(self.modalities, x, strict=True)
    ]
    return {'z': variables['factor'] * jnp.concatenate(flat, 1), 'sum': flat[0].sum(1)}

  def decode(self, variables, keys, latents):
    del variables
    noise = jax.vmap(lambda key: jax.random.normal(key, (7,)))(keys)
    z = jnp.concatenate([latents['a'], latents['b']], 1) + 0.01 * noise
    return z[:, :3], z[:, 3:].reshape(-1, 2, 2, 1)

  def sample(self, variables, keys, encoded, observed, sampling):
    self.traces.append((sampling, observed.shape))
    z = encoded['z'] + jax.vmap(lambda key: jax.random.normal(key, (7,)))(keys.latents)
    if sampling == 'coupled':
      z = z + z.mean(0)
    if sampling == 'torn':
      z = jnp.where((jnp.arange(7) > 2) & ~observed[:, 1:], jnp.inf, z)
    return self.decode(variables, keys.outputs, {'a': z[:, :3], 'b': z[:, 3:]})

  def latents(self, variables, keys, encoded, observed):
    shown = jnp.repeat(observed, jnp.array(SIZES), 1, total_repeat_length=7)
    z = jnp.where(shown, encoded['z'], 0.0)
    return {'a': z[:, :3], 'b': z[:, 3:]}

  def reconstruct(self, variables, keys, encoded):
    z = encoded['z']
    return self.decode(variables, keys, {'a': z[:, :3], 'b': z[:, 3:]})


def inference(chunk_size=100, model=None):
  variables = {'factor': jnp.float32(1.5)}
  return Inference(
    model or Model(), variables, mesh=sharding.make_mesh(), chunk_size=chunk_size
  )


def examples(num):
  rng = np.random.default_rng(0)
  return (
    rng.normal(size=(num, 3)).astype(np.float32),
    rng.integers(0, 256, (num, 2, 2, 1)).astype(np.uint8),
  )


def observed(num):
  return np.random.default_rng(1).random((num, 2)) < 0.5


def check_equal(a, b, **tolerance):
  a, b = jax.tree.leaves(a), jax.tree.leaves(b)
  for x, y in zip(a, b, strict=True):
    assert x.dtype == y.dtype
    np.testing.assert_allclose(x, y, **{'rtol': 1e-5, 'atol': 1e-6} | tolerance)


# --- chunks -------------------------------------------------------------------


@pytest.mark.parametrize('chunk_size', [1, 4, 5, 11, 64])
def test_rows_do_not_depend_on_the_chunk_size(chunk_size):
  whole, parts = inference(), inference(chunk_size)
  x, shown = examples(11), observed(11)
  encoded = whole.encode(x)
  check_equal(parts.encode(x), encoded)
  for name in ('latents', 'reconstruct', 'decode', 'sample'):
    if name == 'sample':
      out = [m.sample(encoded, shown, key=KEY) for m in (whole, parts)]
    elif name == 'latents':
      out = [m.latents(encoded, shown, key=KEY) for m in (whole, parts)]
    elif name == 'reconstruct':
      out = [m.reconstruct(encoded, key=KEY) for m in (whole, parts)]
    else:
      z = whole.latents(encoded, np.ones((11, 2), bool), key=KEY)
      out = [m.decode(z, key=KEY) for m in (whole, parts)]
    check_equal(*out)
    assert {len(a) for a in jax.tree.leaves(out)} == {11}


def test_encode_is_that_of_the_model():
  x = examples(5)
  encoded = inference(2).encode(x)
  a, b = x[0] / 2, x[1].reshape(5, -1) / 255
  np.testing.assert_allclose(encoded['z'], 1.5 * np.hstack([a, b]), rtol=1e-5)
  np.testing.assert_allclose(encoded['sum'], a.sum(1), rtol=1e-4, atol=1e-6)
  assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(encoded))


def test_programs_are_compiled_once_for_all_chunks():
  model = Model()
  runner = inference(4, model)
  x = examples(11)
  for seed in range(2):
    encoded = runner.encode(x)
    runner.sample(encoded, observed(11), key=jax.random.key(seed))
  assert model.traces == [('encode', (4, 3)), ('own', (4, 2))]


def test_few_rows_are_a_small_chunk():
  model = Model()
  inference(100, model).encode(examples(3))
  # Of one of a few sizes, each of which is compiled: powers of 2.
  assert model.traces == [('encode', (4, 3))]


# --- keys ---------------------------------------------------------------------


def noise_of(key, rows):
  keys = row_keys(key, jnp.asarray(rows))
  return np.asarray(jax.vmap(lambda k: jax.random.normal(k, (7,)))(keys))


def test_sample_draws_latents_and_examples_from_keys_of_their_own():
  """The keys of row i are those of (key, i), and of (key, 'decode', i)."""
  x = examples(6)
  runner = inference()
  encoded = runner.encode(x)
  rows = np.array([3, 0, 9, 4, 5, 7])
  drawn = runner.sample(encoded, observed(6), key=KEY, rows=rows)
  z = encoded['z'] + noise_of(KEY, rows)
  z = z + 0.01 * noise_of(fold_in_name(KEY, 'decode'), rows)
  np.testing.assert_allclose(drawn[0], 2 * z[:, :3], rtol=1e-4, atol=1e-5)
  pixels = np.clip(np.round(255 * z[:, 3:]), 0, 255).reshape(6, 2, 2, 1)
  np.testing.assert_allclose(drawn[1].astype(int), pixels, atol=1)
  assert drawn[1].dtype == np.uint8


def test_sample_of_some_rows_is_a_part_of_all():
  runner, x = inference(4), examples(11)
  encoded, shown = runner.encode(x), observed(11)
  whole = runner.sample(encoded, shown, key=KEY)
  order = np.array([7, 2, 10])
  part = jax.tree.map(lambda a: a[order], encoded)
  check_equal(
    runner.sample(part, shown[order], key=KEY, rows=order),
    tuple(a[order] for a in whole),
  )
  other = runner.sample(encoded, shown, key=jax.random.key(4))
  assert (other[0] != whole[0]).all()


def test_decode_and_reconstruct_take_the_key_as_it_is():
  runner, x = inference(), examples(4)
  encoded = runner.encode(x)
  latents = {'a': encoded['z'][:, :3], 'b': encoded['z'][:, 3:]}
  expected = 2 * (encoded['z'] + 0.01 * noise_of(KEY, range(4)))[:, :3]
  for out in (runner.decode(latents, key=KEY), runner.reconstruct(encoded, key=KEY)):
    np.testing.assert_allclose(out[0], expected, rtol=1e-4, atol=1e-5)


def test_default_sampling_is_the_first():
  runner = inference()
  assert runner.default == 'own'
  encoded = runner.encode(examples(2))
  check_equal(
    runner.sample(encoded, observed(2), key=KEY),
    runner.sample(encoded, observed(2), key=KEY, sampling='own'),
  )


@pytest.mark.parametrize('chunk_size', [4, 5, 100])
def test_per_row_gives_every_row_its_key(chunk_size):
  runner = inference(chunk_size)
  values = np.arange(11, dtype=np.float32)

  def fn(variables, keys, value, tree):
    noise = jax.vmap(jax.random.normal)(keys)
    return {'x': variables['factor'] * value + tree['y'], 'noise': noise}

  out = runner.per_row(fn, KEY, values, {'y': 2 * values}, name='numbers')
  np.testing.assert_allclose(out['x'], 3.5 * values, rtol=1e-6)
  keys = row_keys(KEY, jnp.arange(11))
  np.testing.assert_allclose(out['noise'], jax.vmap(jax.random.normal)(keys), rtol=1e-5)


def test_map_chunks_needs_no_keys():
  runner, seen = inference(4), []

  @jax.jit
  def fn(variables, x, y):
    seen.append(x.shape)
    return variables * x + y

  x = np.arange(10.0, dtype=np.float32)
  np.testing.assert_allclose(runner.map_chunks(fn, jnp.float32(3), x, x), 4 * x)
  assert seen == [(4,)]


# --- rows that see each other -------------------------------------------------


def test_couples_rows_never_sees_padding():
  """Its last chunk is short; the first ones are as large as they are asked to be."""
  model = Model()
  runner, x = inference(4, model), examples(6)
  encoded = runner.encode(x)
  drawn = runner.sample(encoded, observed(6), key=KEY, sampling='coupled')
  assert [shape for name, shape in model.traces if name == 'coupled'] == [
    (4, 2), (2, 2),
  ]  # fmt: skip
  z = encoded['z'] + noise_of(KEY, range(6))
  z = np.concatenate([part + part.mean(0) for part in (z[:4], z[4:])])
  z = z + 0.01 * noise_of(fold_in_name(KEY, 'decode'), range(6))
  np.testing.assert_allclose(drawn[0], 2 * z[:, :3], rtol=1e-4, atol=1e-5)


def test_couples_rows_cannot_be_split_unevenly(monkeypatch):
  runner = inference(4)
  encoded = runner.encode(examples(5))
  monkeypatch.setattr(jax, 'device_count', lambda: 2)
  with pytest.raises(UserError, match='batch_norms cannot split 5 rows over 2 devices'):
    runner.sample(encoded, observed(5), key=KEY, sampling='coupled')


# --- numbers that are none ----------------------------------------------------


def test_sample_that_is_not_finite_names_modality_and_sampling():
  """Of 8-bit pictures one would not see it."""
  runner = inference(4)
  encoded = runner.encode(examples(9))
  shown = np.ones((9, 2), bool)
  runner.sample(encoded, shown, key=KEY, sampling='torn')
  shown[7, 1] = False
  with pytest.raises(UserError, match=r"sampling 'torn' gave \['b'\] that are not fin"):
    runner.sample(encoded, shown, key=KEY, sampling='torn')


@pytest.mark.parametrize(
  ('value', 'names'), [(np.nan, r"\['a'\]"), (np.inf, r"\['a', 'b'\]")]
)
def test_decoded_that_is_not_finite_names_modalities(value, names):
  runner = inference(4)
  latents = {'a': np.zeros((6, 3), np.float32), 'b': np.zeros((6, 4), np.float32)}
  latents['a'][5, 1] = value
  if value == np.inf:
    latents['b'][0, 0] = value
  with pytest.raises(UserError, match=f'the decoders of {names} gave values that are'):
    runner.decode(latents, key=KEY)
