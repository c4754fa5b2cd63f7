"""The Inception network of the Fréchet Inception distance.

Inception-v3 (Szegedy et al., 2016, arXiv 1512.00567) as Google's graph
`inception-2015-12-05` has it, which defines the FID (Heusel et al., 2017). It
differs from the Inception-v3 of most model zoos: average pooling does not count
the zeros of the border, the last block pools by maximum, and the weights are
others. Modules bear the names of the PyTorch port of these weights
(pt_inception-2015-12-05-6726825d.pth of pytorch-fid), so that conversion is a
renaming; `python -m mmsbm.tools.convert_inception` does it.
"""

import functools
import os

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.infra.errors import UserError

NUM_FEATURES = 2048


class ConvBlock(nn.Module):
  """Convolution, batch normalisation with stored statistics, ReLU.

  HIGHEST precision: features that differ with the device would make the distance
  differ with the device.
  """

  features: int
  kernel: tuple[int, int] = (1, 1)
  stride: int = 1
  padding: str = 'SAME'

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = nn.Conv(
      self.features,
      self.kernel,
      strides=self.stride,
      padding=self.padding,
      use_bias=False,
      precision=jax.lax.Precision.HIGHEST,
      name='conv',
    )(x)
    return nn.relu(nn.BatchNorm(True, epsilon=1e-3, name='bn')(x))


def _chain(name: str, x: jax.Array, *layers) -> jax.Array:
  """`ConvBlock`s called name_1, name_2, ...; each layer is their arguments."""
  for i, layer in enumerate(layers, start=1):
    x = ConvBlock(*layer, name=f'{name}_{i}')(x)
  return x


def _average_pool(x: jax.Array) -> jax.Array:
  return nn.avg_pool(x, (3, 3), (1, 1), 'SAME', count_include_pad=False)


def _max_pool(x: jax.Array, stride: int = 2, padding: str = 'VALID') -> jax.Array:
  return nn.max_pool(x, (3, 3), (stride, stride), padding)


def _concatenate(*branches: jax.Array) -> jax.Array:
  return jnp.concatenate(branches, axis=-1)


_REDUCE = (2, 'VALID')  # stride and padding of the layers that halve the image


class BlockA(nn.Module):
  """5x5 and double 3x3 branches, 35x35 positions."""

  pool_features: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return _concatenate(
      ConvBlock(64, name='branch1x1')(x),
      _chain('branch5x5', x, (48,), (64, (5, 5))),
      _chain('branch3x3dbl', x, (64,), (96, (3, 3)), (96, (3, 3))),
      ConvBlock(self.pool_features, name='branch_pool')(_average_pool(x)),
    )


class BlockB(nn.Module):
  """Reduction from 35x35 to 17x17."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return _concatenate(
      ConvBlock(384, (3, 3), *_REDUCE, name='branch3x3')(x),
      _chain('branch3x3dbl', x, (64,), (96, (3, 3)), (96, (3, 3), *_REDUCE)),
      _max_pool(x),
    )


class BlockC(nn.Module):
  """7x7 convolutions factored into 1x7 and 7x1, 17x17 positions."""

  width: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    c, row, column = self.width, (1, 7), (7, 1)
    double = ((c,), (c, column), (c, row), (c, column), (192, row))
    return _concatenate(
      ConvBlock(192, name='branch1x1')(x),
      _chain('branch7x7', x, (c,), (c, row), (192, column)),
      _chain('branch7x7dbl', x, *double),
      ConvBlock(192, name='branch_pool')(_average_pool(x)),
    )


class BlockD(nn.Module):
  """Reduction from 17x17 to 8x8."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    last = (192, (3, 3), *_REDUCE)
    return _concatenate(
      _chain('branch3x3', x, (192,), (320, (3, 3), *_REDUCE)),
      _chain('branch7x7x3', x, (192,), (192, (1, 7)), (192, (7, 1)), last),
      _max_pool(x),
    )


class BlockE(nn.Module):
  """Expanded 3x3 branches, 8x8 positions."""

  pool: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    single = _chain('branch3x3', x, (384,))
    double = _chain('branch3x3dbl', x, (448,), (384, (3, 3)))
    pooled = _average_pool(x) if self.pool == 'average' else _max_pool(x, 1, 'SAME')
    return _concatenate(
      ConvBlock(320, name='branch1x1')(x),
      ConvBlock(384, (1, 3), name='branch3x3_2a')(single),
      ConvBlock(384, (3, 1), name='branch3x3_2b')(single),
      ConvBlock(384, (1, 3), name='branch3x3dbl_3a')(double),
      ConvBlock(384, (3, 1), name='branch3x3dbl_3b')(double),
      ConvBlock(192, name='branch_pool')(pooled),
    )


class InceptionV3(nn.Module):
  """Pool3 features; only for inference, without the classifier."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps images [B, H, W, 3] in [-1, 1] to features [B, 2048].

    The FID takes H = W = 299; any size from 75 works.
    """
    x = ConvBlock(32, (3, 3), *_REDUCE, name='Conv2d_1a_3x3')(x)
    x = ConvBlock(32, (3, 3), padding='VALID', name='Conv2d_2a_3x3')(x)
    x = ConvBlock(64, (3, 3), name='Conv2d_2b_3x3')(x)
    x = _max_pool(x)
    x = ConvBlock(80, name='Conv2d_3b_1x1')(x)
    x = ConvBlock(192, (3, 3), padding='VALID', name='Conv2d_4a_3x3')(x)
    x = _max_pool(x)
    x = BlockA(32, name='Mixed_5b')(x)
    x = BlockA(64, name='Mixed_5c')(x)
    x = BlockA(64, name='Mixed_5d')(x)
    x = BlockB(name='Mixed_6a')(x)
    x = BlockC(128, name='Mixed_6b')(x)
    x = BlockC(160, name='Mixed_6c')(x)
    x = BlockC(160, name='Mixed_6d')(x)
    x = BlockC(192, name='Mixed_6e')(x)
    x = BlockD(name='Mixed_7a')(x)
    x = BlockE('average', name='Mixed_7b')(x)
    x = BlockE('max', name='Mixed_7c')(x)
    return x.mean(axis=(1, 2))


# PyTorch's name of a leaf -> (collection, our name).
_LEAVES = {
  ('conv', 'weight'): ('params', 'kernel'),
  ('bn', 'weight'): ('params', 'scale'),
  ('bn', 'bias'): ('params', 'bias'),
  ('bn', 'running_mean'): ('batch_stats', 'mean'),
  ('bn', 'running_var'): ('batch_stats', 'var'),
}


@functools.cache
def expected_shapes() -> dict[str, tuple[int, ...]]:
  """Shape of every variable, by its path 'collection/module/.../leaf'."""
  image = jax.ShapeDtypeStruct((1, 75, 75, 3), jnp.float32)
  variables = jax.eval_shape(InceptionV3().init, jax.random.key(0), image)
  flat = flax.traverse_util.flatten_dict(variables, sep='/')
  return {path: leaf.shape for path, leaf in flat.items()}


def check_shapes(flat: dict[str, np.ndarray], source: str) -> None:
  """Raises `UserError` unless `flat` has exactly the network's variables."""
  expected = expected_shapes()
  for path in sorted(expected.keys() | flat.keys()):
    if path not in flat:
      problem = f'{path} is missing'
    elif path not in expected:
      problem = f'{path} is not part of the network'
    elif flat[path].shape != expected[path]:
      problem = f'{path} is {flat[path].shape}, not {expected[path]}'
    else:
      continue
    raise UserError(f'{source} does not hold the FID Inception network: {problem}.')


def convert_state_dict(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Renames the published PyTorch state dict.

  Args:
    state: arrays by PyTorch name, such as 'Mixed_5b.branch1x1.conv.weight'
      [out, in, height, width]. The classifier (fc.*) and the step counters of
      batch normalisation are dropped.

  Returns:
    float32 arrays by path, such as 'params/Mixed_5b/branch1x1/conv/kernel'
    [height, width, in, out]; not yet checked to be complete.
  """
  flat = {}
  for name, value in state.items():
    *modules, kind, leaf = name.split('.')
    if kind == 'fc' or leaf == 'num_batches_tracked':
      continue
    if (kind, leaf) not in _LEAVES:
      raise UserError(f'{name!r} is not a weight of the FID Inception network.')
    collection, ours = _LEAVES[kind, leaf]
    if ours == 'kernel' and value.ndim == 4:
      value = value.transpose(2, 3, 1, 0)
    path = '/'.join((collection, *modules, kind, ours))
    flat[path] = np.ascontiguousarray(value, np.float32)
  return flat


def load_inception(path: str | os.PathLike) -> dict:
  """Variables of `InceptionV3` from a file of `mmsbm.tools.convert_inception`."""
  if not os.path.isfile(path):
    raise UserError(
      f'No Inception weights at {path}: make them once with '
      f'python -m mmsbm.tools.convert_inception --download --output {path}'
    )
  try:
    with open(path, 'rb') as stream, np.load(stream) as file:
      flat = {name: file[name] for name in file.files}
  except Exception as error:  # whatever a damaged archive provokes in the reader
    raise UserError(
      f'{path} is not a readable .npz file ({error}): make it again with '
      'python -m mmsbm.tools.convert_inception.'
    ) from error
  check_shapes(flat, str(path))
  return flax.traverse_util.unflatten_dict(flat, sep='/')
