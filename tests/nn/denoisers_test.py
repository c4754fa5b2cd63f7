"""Denoisers: zero at first, formulas of the parts, independence of rows, variants."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax.errors import InvalidRngError

from mmsbm.nn import denoisers
from mmsbm.nn.blocks import ShapeError
from mmsbm.nn.denoisers import DENOISERS

_CONDITION = {'condition_width': 6, 'level_features': 4}
_SMALL = {
  # Padded to 6 x 4, then 3 x 2, where the blocks attend.
  'unet': {
    'shape': (4, 2, 1),
    'width': 4,
    'multipliers': (1, 2),
    'num_blocks': 1,
    'attention': (3,),
    'num_heads': 2,
    'num_groups': 2,
    'pad': 1,
    **_CONDITION,
  },
  'mixer': {'shape': (4, 2, 3), 'patch': 2, 'width': 6, 'num_layers': 1, **_CONDITION},
  'mlp': {'shape': (3, 2), 'width': 8, 'num_blocks': 1, **_CONDITION},
}


def make_inputs(shape, batch=3):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(batch, *shape)).astype(np.float32)
  t = rng.normal(size=batch).astype(np.float32)
  return x, t, rng.normal(size=(batch, 5)).astype(np.float32)


def randomise(shapes, seed=1):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda v: 0.4 * rng.normal(size=v.shape).astype(np.float32), shapes
  )


def weighted_sum(out):
  return (out * np.cos(np.arange(out.size)).reshape(out.shape)).sum()


def loss_of(module):
  def loss(variables, x, t, z, rngs=None):
    out = module.apply(variables, x, t, z, True, rngs=rngs)
    return weighted_sum(out), out

  return jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True)


@functools.cache
def make(name):
  """Module, inputs, random parameters, and jitted (loss, output) with gradients."""
  module = DENOISERS[name](**_SMALL[name])
  inputs = make_inputs(module.shape)
  variables = randomise(
    jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, False))
  )
  return module, inputs, variables, jax.jit(loss_of(module))


class AllTest(parameterized.TestCase):
  @parameterized.parameters(*DENOISERS)
  def test_output_is_zero_at_first(self, name):
    """Because of its last layers, whatever the others are."""
    module, inputs, variables, run = make(name)
    last = {'output', 'gain'} & variables['params'].keys()

    @jax.jit
    def init(key):
      params = module.init(key, *inputs, False)['params']
      return {layer: params[layer] for layer in last}

    params = {**variables['params'], **init(jax.random.key(0))}
    (_, out), _ = run({'params': params}, *inputs)
    np.testing.assert_array_equal(out, np.zeros(inputs[0].shape, np.float32))

  @parameterized.parameters(*DENOISERS)
  def test_everything_has_a_gradient(self, name):
    """Once trained a little: all parameters, and each row of x, t and z."""
    _, inputs, variables, run = make(name)
    (_, out), (of_variables, *of_inputs) = run(variables, *inputs)
    self.assertEqual(out.shape, inputs[0].shape)
    for path, gradient in jax.tree.leaves_with_path(of_variables):
      self.assertTrue(np.isfinite(gradient).all(), path)
      self.assertGreater(np.abs(gradient).max(), 0, path)
    for gradient in of_inputs:
      self.assertTrue(np.isfinite(gradient).all())
      self.assertTrue((np.abs(gradient).reshape(3, -1).max(-1) > 1e-5).all())

  @parameterized.parameters(*DENOISERS)
  def test_rows_are_independent(self, name):
    _, inputs, variables, run = make(name)
    (_, before), _ = run(variables, *inputs)
    moved = [np.concatenate([a[:1] + 1, a[1:]]) for a in inputs]
    (_, after), _ = run(variables, *moved)
    np.testing.assert_array_equal(before[1:], after[1:])
    self.assertGreater(np.abs(before[0] - after[0]).max(), 1e-3)

  @parameterized.parameters(*DENOISERS)
  def test_dropout_is_for_training(self, name):
    """There, and only there, a key is asked for."""
    module, inputs, variables, _ = make(name)
    apply = module.clone(dropout=0.5).apply
    jax.eval_shape(lambda: apply(variables, *inputs, False))
    with self.assertRaises(InvalidRngError):
      jax.eval_shape(lambda: apply(variables, *inputs, True))

  @parameterized.parameters(
    ('unet', (16, 16, 3), {}),
    ('unet', (28, 28, 3), {'pad': 2}),
    ('unet', (32, 32, 1), {}),
    # As many pixels as channels where it attends, of which Flax may warn.
    ('unet', (8, 8, 3), {'multipliers': (1,), 'attention': (8,), 'width': 64}),
    ('unet', (64, 64, 3), {'multipliers': (1, 2, 3, 4), 'attention': (16, 8)}),
    ('unet', (128, 128, 3), {'multipliers': (1, 2, 3, 4), 'patch': 2, 'remat': True}),
    ('mixer', (16, 16, 3), {}),
    ('mixer', (28, 28, 3), {}),
    ('mlp', (16, 16, 3), {}),
    ('mlp', (18,), {}),
  )
  def test_shapes_at_full_size(self, name, shape, options):
    module = DENOISERS[name](shape=shape, **options)
    out, variables = jax.eval_shape(
      lambda: module.init_with_output(jax.random.key(0), *make_inputs(shape), False)
    )
    self.assertEqual((out.shape, out.dtype), ((3, *shape), jnp.float32))
    self.assertEqual({v.dtype for v in jax.tree.leaves(variables)}, {jnp.dtype('f4')})

  @parameterized.parameters(
    ('unet', (28, 28, 3), {'multipliers': (1, 2, 2, 2)}, 'by 8 .* set `pad`'),
    ('unet', (18,), {}, r'shape \(18,\) with pad=0'),
    ('unet', (16, 16, 3), {'width': 20}, 'num_groups=8 must divide width=20'),
    ('unet', (16, 16, 3), {'dtype': 'float16'}, "dtype='float16': choose from"),
    ('mixer', (28, 28, 3), {'patch': 8}, 'divides height and width'),
    ('mixer', (18,), {}, 'network named mlp'),
  )
  def test_wrong_shapes_say_what_to_do(self, name, shape, options, message):
    module = DENOISERS[name](shape=shape, **options)
    with self.assertRaisesRegex(ShapeError, message) as raised:
      module.init(jax.random.key(0), *make_inputs(shape), False)
    self.assertNotIn('\n', str(raised.exception))

  @parameterized.parameters(*DENOISERS)
  def test_examples_of_another_shape_are_refused(self, name):
    module = DENOISERS[name](shape=(16, 16, 3))
    with self.assertRaisesRegex(ShapeError, r'\(16, 16, 3\) was given \(16, 16, 1\)'):
      module.init(jax.random.key(0), *make_inputs((16, 16, 1)), False)


class MLPTest(absltest.TestCase):
  def test_gain_takes_noise_past_the_blocks(self):
    """With nothing but the gain, the output is gain(level, latent) times x."""
    _, (x, t, z), variables, run = make('mlp')
    params = dict(variables['params'])
    params['output'] = jax.tree.map(np.zeros_like, params['output'])
    params['gain'] = {'kernel': 0 * params['gain']['kernel'], 'bias': np.array([3.0])}
    (_, out), _ = run({'params': params}, x, t, z)
    np.testing.assert_allclose(out, 3 * x, rtol=1e-6)


class UNetTest(absltest.TestCase):
  def test_variants_are_the_same_function(self):
    """Blocks computed again (with the same dropout), bfloat16, padding by hand."""
    module = DENOISERS['unet'](
      **{**_SMALL['unet'], 'multipliers': (1,), 'attention': ()}
    )
    inputs = make_inputs(module.shape)
    variables = randomise(
      jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, False))
    )
    rngs = {'dropout': jax.random.key(1)}

    @jax.jit
    def run(variables, x, t, z):
      noisy = [
        loss_of(module.clone(dropout=0.5, remat=remat))(variables, x, t, z, rngs)
        for remat in (False, True)
      ]
      padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
      quiet = [
        module.apply(variables, x, t, z, True),
        module.clone(shape=(6, 4, 1), pad=0).apply(variables, padded, t, z, True),
        module.clone(dtype='bfloat16').apply(variables, x, t, z, True),
      ]
      return noisy, quiet

    (plain, again), (out, padded, half) = run(variables, *inputs)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    self.assertGreater(np.abs(plain[0][1] - out).max(), 1e-2)
    np.testing.assert_allclose(padded[:, 1:5, 1:3], out, rtol=1e-4, atol=1e-5)
    self.assertEqual(half.dtype, jnp.float32)
    error = np.abs(half - out).max() / np.abs(out).max()
    # It has 8 bits: a difference, and no larger one.
    self.assertGreater(error, 1e-4)
    self.assertLess(error, 0.05)

  def test_parameters_do_not_depend_on_the_variant(self):
    module, inputs, variables, _ = make('unet')
    for options in ({'remat': True}, {'dtype': 'bfloat16'}):
      other = module.clone(**options)
      shapes = jax.eval_shape(lambda m=other: m.init(jax.random.key(0), *inputs, False))
      same = jax.tree.map(
        lambda a, b: a.shape == b.shape and a.dtype == b.dtype, shapes, variables
      )
      self.assertTrue(all(jax.tree.leaves(same)))
    # The upward path sees each skip: 8 + 8 channels, then 8 + 4.
    params = variables['params']
    self.assertEqual(params['up_1_0']['conv_0']['kernel'].shape, (3, 3, 16, 8))
    self.assertEqual(params['up_0_0']['conv_0']['kernel'].shape, (3, 3, 12, 4))
    attending = {name for name, value in params.items() if 'attention' in value}
    self.assertEqual(attending, {'down_1_0', 'middle', 'up_1_0'})

  def test_patches_are_pixels_of_the_network(self):
    """A patch of 2 x 2 gray pixels is a pixel of four channels."""
    options = {**_SMALL['unet'], 'pad': 0, 'multipliers': (1,), 'attention': ()}
    x, t, z = make_inputs((4, 4, 1))
    folded = x.reshape(3, 2, 2, 2, 2).swapaxes(2, 3).reshape(3, 2, 2, 4)
    small = DENOISERS['unet'](**{**options, 'shape': (2, 2, 4)})
    module = DENOISERS['unet'](**{**options, 'shape': (4, 4, 1), 'patch': 2})
    variables = randomise(
      jax.eval_shape(lambda: module.init(jax.random.key(0), x, t, z, False))
    )

    @jax.jit
    def run(variables, x, folded, t, z):
      return (
        module.apply(variables, x, t, z, False),
        small.apply(variables, folded, t, z, False),
      )

    out, expected = run(variables, x, folded, t, z)
    expected = np.asarray(expected).reshape(3, 2, 2, 2, 2).swapaxes(2, 3)
    np.testing.assert_allclose(out, expected.reshape(x.shape), rtol=1e-5, atol=1e-6)

  def test_block(self):
    """With kernels that act on one pixel only, the block is a formula per pixel."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(1, 2, 1, 4)).astype(np.float32)
    condition = rng.normal(size=(1, 3)).astype(np.float32)
    module = denoisers._UNetBlock(6, 2, 2, 0.0, jnp.float32)
    params = randomise(
      jax.eval_shape(lambda: module.init(jax.random.key(0), x, condition, False))
    )['params']
    for name in ('conv_0', 'conv_1'):
      only = np.zeros_like(params[name]['kernel'])
      only[1, 1] = params[name]['kernel'][1, 1]
      params[name]['kernel'] = only
    p = jax.tree.map(lambda v: np.asarray(v, np.float64), params)

    def swish(h):
      return h / (1 + np.exp(-h))

    def norm(h, name):
      groups = h.reshape(2, 2, -1)
      groups = groups - groups.mean((0, 2), keepdims=True)
      groups = groups / np.sqrt((groups**2).mean((0, 2), keepdims=True) + 1e-6)
      parameters = p.get(name, {'scale': 1, 'bias': 0})
      return groups.reshape(h.shape) * parameters['scale'] + parameters['bias']

    def dense(h, name):
      return h @ p[name]['kernel'] + p[name]['bias']

    def pixel(h, name):
      return h @ p[name]['kernel'][1, 1] + p[name]['bias']

    flat = x.reshape(2, 4).astype(np.float64)
    shift, scale = np.split(dense(condition, 'modulation'), 2, axis=-1)
    h = pixel(swish(norm(flat, 'norm_0')), 'conv_0')
    h = pixel(swish(norm(h, 'norm_1') * (1 + scale) + shift), 'conv_1')
    h = flat @ p['skip']['kernel'] + h
    a = p['attention']
    q, k, v = (
      np.einsum('nc,chd->hnd', norm(h, 'attention_norm'), a[name]['kernel'])
      + a[name]['bias'][:, None]
      for name in ('query', 'key', 'value')
    )
    weights = np.exp(q @ k.swapaxes(1, 2) / np.sqrt(3))
    heads = weights / weights.sum(-1, keepdims=True) @ v
    h = h + np.einsum('hnd,hdc->nc', heads, a['out']['kernel']) + a['out']['bias']
    apply = jax.jit(module.apply, static_argnums=3)
    actual = apply({'params': params}, x, condition, False)
    np.testing.assert_allclose(actual.reshape(2, 6), h, rtol=1e-4, atol=1e-4)


if __name__ == '__main__':
  absltest.main()
