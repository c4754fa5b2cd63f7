import os
import pathlib

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.infra.errors import UserError
from mmsbm.nn import inception

# (PyTorch name, shape) as published; the rest follows the same pattern.
PUBLISHED = {
  'Conv2d_1a_3x3.conv.weight': (32, 3, 3, 3),
  'Conv2d_4a_3x3.bn.running_var': (192,),
  'Mixed_5b.branch5x5_2.conv.weight': (64, 48, 5, 5),
  'Mixed_5b.branch_pool.conv.weight': (32, 192, 1, 1),
  'Mixed_5d.branch3x3dbl_3.bn.bias': (96,),
  'Mixed_6a.branch3x3.conv.weight': (384, 288, 3, 3),
  'Mixed_6b.branch7x7_2.conv.weight': (128, 128, 1, 7),
  'Mixed_6c.branch7x7dbl_2.conv.weight': (160, 160, 7, 1),
  'Mixed_6e.branch7x7dbl_5.conv.weight': (192, 192, 1, 7),
  'Mixed_7a.branch7x7x3_4.conv.weight': (192, 192, 3, 3),
  'Mixed_7b.branch3x3dbl_1.conv.weight': (448, 1280, 1, 1),
  'Mixed_7c.branch3x3_2b.conv.weight': (384, 384, 3, 1),
  'Mixed_7c.branch_pool.bn.running_mean': (192,),
}

_TORCH_LEAVES = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias'}
_TORCH_LEAVES |= {'mean': 'running_mean', 'var': 'running_var'}


def published_shapes():
  """Shapes of the PyTorch state dict by sorted name."""
  shapes = {}
  for path, shape in inception.expected_shapes().items():
    *modules, leaf = path.split('/')[1:]
    shape = tuple(shape[i] for i in (3, 2, 0, 1)) if len(shape) == 4 else shape
    shapes['.'.join((*modules, _TORCH_LEAVES[leaf]))] = shape
  return dict(sorted(shapes.items()))


@pytest.fixture(scope='module')
def state():
  """A synthetic state dict; RandomState's stream is frozen, so numbers stay."""
  rng = np.random.RandomState(0)
  state = {}
  for name, shape in published_shapes().items():
    value = rng.random_sample(shape)
    if len(shape) == 4:
      value = (value - 0.5) * np.sqrt(24 / np.prod(shape[1:]))
    elif name.endswith(('bn.bias', 'running_mean')):
      value = value - 0.5
    else:
      value = value + 0.5
    state[name] = value.astype(np.float32)
  return state


@pytest.fixture(scope='module')
def flat(state):
  return inception.convert_state_dict(state)


def test_published_names_shapes_and_size():
  shapes = published_shapes()
  assert {name: shapes.get(name) for name in PUBLISHED} == PUBLISHED
  assert len(shapes) == 5 * 94
  trained = [np.prod(s) for name, s in shapes.items() if 'running' not in name]
  assert sum(trained) == 21_785_568


def test_conversion_key_by_key(state, flat):
  inception.check_shapes(flat, 'x')
  extra = {'fc.weight': np.zeros((1008, 2048)), 'fc.bias': np.zeros(1008)}
  extra['Mixed_5b.branch1x1.bn.num_batches_tracked'] = np.zeros((), np.int64)
  assert inception.convert_state_dict(state | extra).keys() == flat.keys()
  for name, value in state.items():
    *modules, kind, leaf = name.split('.')
    collection = 'batch_stats' if leaf.startswith('running') else 'params'
    ours = {'running_mean': 'mean', 'running_var': 'var', 'bias': 'bias'}.get(leaf)
    ours = ours or ('kernel' if kind == 'conv' else 'scale')
    converted = flat['/'.join((collection, *modules, kind, ours))]
    assert converted.dtype == np.float32
    if kind == 'conv':
      assert converted[-1, 0, 1, 2] == value[2, 1, -1, 0]
      converted = np.moveaxis(converted, (2, 3), (1, 0))
    np.testing.assert_array_equal(converted, value)


def test_features_of_an_independent_implementation(flat):
  """Sums over the six branches of the last block, from torch in float64.

  The network was written a second time in torch 2.13 (convolutions with explicit
  padding, count_include_pad=False) and given the same state dict. The image is
  no square and ends as 3 x 2 positions, so that rows, columns, borders and the
  kind of pooling all count; the ramp makes the order of channels count.
  """
  image = np.sin(0.1 + 0.37 * np.arange(139 * 107 * 3) ** 1.2)
  image = jnp.asarray(image.reshape(1, 139, 107, 3), jnp.float32)
  variables = flax.traverse_util.unflatten_dict(flat, sep='/')
  features = jax.jit(inception.InceptionV3().apply)(variables, image)
  assert features.shape == (1, 2048) and features.dtype == jnp.float32
  expected = [
    (320, 3.551762, 528.311459),
    (384, 2.979780, 578.564915),
    (384, 3.190837, 605.648848),
    (384, 2.473006, 482.299327),
    (384, 2.678568, 510.597476),
    (192, 4.540633, 435.000460),
  ]
  start = 0
  for width, mean, ramp in expected:
    branch = np.asarray(features[0, start : start + width], np.float64)
    np.testing.assert_allclose(branch.mean(), mean, rtol=2e-5)
    np.testing.assert_allclose((branch * np.arange(width)).mean(), ramp, rtol=2e-5)
    start += width


def test_batch_normalisation_has_the_stored_statistics_and_epsilon():
  block = inception.ConvBlock(1)
  variables = {
    'params': {
      'conv': {'kernel': jnp.full((1, 1, 1, 1), 2.0)},
      'bn': {'scale': jnp.array([3.0]), 'bias': jnp.array([0.5])},
    },
    'batch_stats': {'bn': {'mean': jnp.array([1.0]), 'var': jnp.array([0.003])}},
  }
  x = jnp.array([1.0, 0.0]).reshape(2, 1, 1, 1)
  out = block.apply(variables, x).ravel()
  np.testing.assert_allclose(out, [3 * 1 / np.sqrt(0.004) + 0.5, 0], rtol=1e-5)


def test_average_pool_does_not_count_the_border():
  x = jnp.ones((1, 4, 5, 1))
  np.testing.assert_allclose(inception._average_pool(x), x, rtol=1e-6)


def test_state_dict_of_another_network(state, flat):
  with pytest.raises(UserError, match="'AuxLogits.conv0.scale' is not a weight"):
    inception.convert_state_dict({'AuxLogits.conv0.scale': np.zeros(3)})
  path = 'params/Mixed_5b/branch1x1/conv/kernel'
  with pytest.raises(UserError, match=f'{path} is missing'):
    inception.check_shapes({k: v for k, v in flat.items() if k != path}, 'x')
  with pytest.raises(UserError, match=r'is \(2,\), not \(1, 1, 192, 64\)'):
    inception.check_shapes(flat | {path: np.zeros(2)}, 'x')
  with pytest.raises(UserError, match='no/where is not part'):
    inception.check_shapes(flat | {'no/where': np.zeros(2)}, 'x')


def test_load_says_what_is_wrong(tmp_path):
  with pytest.raises(UserError, match='convert_inception --download'):
    inception.load_inception(tmp_path / 'none.npz')
  (tmp_path / 'damaged.npz').write_bytes(b'PK\x03\x04 and no more')
  with pytest.raises(UserError, match='not a readable .npz'):
    inception.load_inception(tmp_path / 'damaged.npz')
  np.savez(tmp_path / 'other.npz', x=np.zeros(3))
  with pytest.raises(UserError, match='does not hold the FID Inception'):
    inception.load_inception(tmp_path / 'other.npz')


def test_published_features_of_a_photograph():
  """With the real weights: the picture at its own size, 256 x 256, not resized."""
  weights = os.environ.get('MMSBM_INCEPTION', '')
  if not os.path.isfile(weights):
    pytest.skip(f'no weights: MMSBM_INCEPTION is {weights!r}')
  folder = pathlib.Path(os.environ.get('MMSBM_DATA_DIR', ''), 'fid_fixture')
  if not (folder / 'elefant.jpg').is_file():
    pytest.skip(f'no picture: {folder}/elefant.jpg; set MMSBM_DATA_DIR')
  image = pytest.importorskip('PIL.Image').open(folder / 'elefant.jpg')
  x = 2 * (np.asarray(image, np.float32)[None] / 255) - 1
  variables = inception.load_inception(weights)
  features = jax.jit(inception.InceptionV3().apply)(variables, x)
  target = np.load(folder / 'elefant_inception_output.npy').reshape(1, 2048)
  assert np.mean(np.abs(features - target)) < 1e-5
