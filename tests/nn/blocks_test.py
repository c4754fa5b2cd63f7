"""Shared parts against formulas written out in NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from mmsbm.nn import batch_norm, blocks


def convolve(x, kernel):
  """Stride-1 cross-correlation with zero padding, by loops over the kernel."""
  size = kernel.shape[0]
  h, w = x.shape[1:3]
  pad = size // 2
  x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  out = 0.0
  for i in range(size):
    for j in range(size):
      out = out + x[:, i : i + h, j : j + w] @ kernel[i, j]
  return out


class _Layer(nn.Module):
  """One layer made by a helper, as a module."""

  kind: str
  options: tuple = ()

  @nn.compact
  def __call__(self, x):
    return getattr(blocks, self.kind)(x, name='layer', **dict(self.options))


class InitialisationTest(parameterized.TestCase):
  @parameterized.parameters(
    ('linear', (('features', 4000),), (1, 16), 16),
    ('conv', (('features', 500), ('size', 3)), (1, 4, 4, 2), 18),
    ('conv', (('features', 600), ('size', 7), ('groups', 600)), (1, 4, 4, 600), 49),
    (
      'conv',
      (('features', 40), ('size', 4), ('stride', 2), ('transpose', True)),
      (1, 4, 4, 40),
      640,
    ),
  )
  def test_uniform_within_one_over_root_fan_in(self, kind, options, shape, fan_in):
    x = jnp.zeros(shape)
    init = jax.jit(_Layer(kind, options).init)
    params = init(jax.random.key(0), x)['params']['layer']
    for name in ('kernel', 'bias'):
      value = np.asarray(params[name]) * np.sqrt(fan_in)
      self.assertLessEqual(np.abs(value).max(), 1 + 1e-6)
      # Variance of U(-1, 1) is 1/3, its fourth moment 1/5.
      error = np.sqrt((1 / 5 - 1 / 9) / value.size)
      self.assertLess(abs((value**2).mean() - 1 / 3), 4.5 * error, name)

  def test_strided_convolution_pads_both_sides(self):
    """Kernel 3, stride 2, padding 1 on 4 pixels reads positions -1..1 and 1..3."""
    layer = _Layer('conv', (('features', 1), ('size', 3), ('stride', 2)))
    x = jnp.zeros((1, 4, 4, 1)).at[0, 3, 3, 0].set(1.0)
    params = {'layer': {'kernel': jnp.ones((3, 3, 1, 1)), 'bias': jnp.zeros(1)}}
    out = layer.apply({'params': params}, x)
    np.testing.assert_array_equal(out[0, :, :, 0], [[0, 0], [0, 1]])

  def test_transposed_convolution_geometry(self):
    """Kernel 4, stride 2, padding 1 spreads one pixel over 4x4, starting at -1."""
    options = (('features', 1), ('size', 4), ('stride', 2), ('transpose', True))
    x = jnp.zeros((1, 3, 3, 1)).at[0, 1, 1, 0].set(1.0)
    params = {'layer': {'kernel': jnp.ones((4, 4, 1, 1)), 'bias': jnp.zeros(1)}}
    out = _Layer('conv', options).apply({'params': params}, x)[0, :, :, 0]
    expected = np.zeros((6, 6))
    expected[1:5, 1:5] = 1
    np.testing.assert_array_equal(out, expected)


class BatchNormTest(absltest.TestCase):
  def test_train_and_eval(self):
    x = np.random.default_rng(0).normal(2.0, 3.0, (2, 3, 1, 4)).astype(np.float32)
    scale, bias = np.array([1.0, 2, 3, 4]), np.array([0.5, 0, -1, 2])
    variables = {
      'params': {'scale': jnp.asarray(scale), 'bias': jnp.asarray(bias)},
      'batch_stats': {'mean': jnp.full(4, 0.3), 'var': jnp.full(4, 0.7)},
    }
    module = batch_norm.BatchNorm()
    out, updated = module.apply(variables, x, train=True, mutable=['batch_stats'])
    flat = x.reshape(6, 4).astype(np.float64)
    mean, var = flat.mean(0), flat.var(0)
    expected = (x - mean) / np.sqrt(var + 1e-5) * scale + bias
    np.testing.assert_allclose(out, expected, atol=2e-5)
    stats = updated['batch_stats']
    np.testing.assert_allclose(stats['mean'], 0.27 + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(stats['var'], 0.63 + 0.1 * var * 6 / 5, rtol=1e-5)

    out = module.apply(variables, x, train=False)
    expected = (x - 0.3) / np.sqrt(0.7 + 1e-5) * scale + bias
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)

  def test_init_leaves_running_statistics(self):
    variables = batch_norm.BatchNorm().init(
      jax.random.key(0), 5 + jnp.arange(6.0).reshape(3, 2), train=True
    )
    np.testing.assert_array_equal(variables['batch_stats']['mean'], [0, 0])
    np.testing.assert_array_equal(variables['batch_stats']['var'], [1, 1])


class ResidualBlockTest(parameterized.TestCase):
  @parameterized.parameters((2, 1, 3), (1, 2, 3), (2, 1, 2))
  def test_matches_formula(self, down, up, out):
    """act(skip + BN conv act BN conv), slope 0.2, then pool or nearest upsample."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 4, 4, 2))
    module = blocks.ResidualBlock(mid=5, out=out, down=down, up=up)
    variables = jax.eval_shape(
      lambda: module.init(jax.random.key(0), jnp.asarray(x, jnp.float32), train=False)
    )
    variables = jax.tree.map(
      lambda v: np.abs(rng.normal(size=v.shape)) + 0.1, variables
    )
    params, stats = variables['params'], variables['batch_stats']
    for name in params:  # Kernels of both signs.
      if 'kernel' in params[name]:
        params[name]['kernel'] = rng.normal(size=params[name]['kernel'].shape)

    def norm(h, name):
      scale = params[name]['scale'] / np.sqrt(stats[name]['var'] + 1e-5)
      return (h - stats[name]['mean']) * scale + params[name]['bias']

    def act(h):
      return np.where(h > 0, h, 0.2 * h)

    h = act(norm(convolve(x, params['conv_0']['kernel']), 'norm_0'))
    h = norm(convolve(h, params['conv_1']['kernel']), 'norm_1')
    self.assertEqual('skip' in params, out != 2)
    skip = x @ params['skip']['kernel'][0, 0] if out != 2 else x
    expected = act(skip + h)
    if down > 1:
      expected = sum(expected[:, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4
    if up > 1:
      expected = np.kron(expected, np.ones((1, 2, 2, 1)))
    variables = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), variables)
    apply = jax.jit(module.apply, static_argnames='train')
    actual = apply(variables, jnp.asarray(x, jnp.float32), train=False)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-3)

  def test_bilinear_upsampling_uses_half_pixels(self):
    x = jnp.array([0.0, 4.0]).reshape(1, 1, 2, 1)
    actual = blocks.upsample(x, 2, 'bilinear')[0, 0, :, 0]
    np.testing.assert_allclose(actual, [0, 1, 3, 4], atol=1e-6)


class SmallPartsTest(absltest.TestCase):
  def test_sinusoidal_embedding(self):
    out = blocks.sinusoidal_embedding(jnp.array([0.0, 0.5]), 6)
    angles = 0.5 * np.array([1, 1e-2, 1e-4])
    np.testing.assert_allclose(out[0], [0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(out[1, :3], np.sin(angles), rtol=1e-5)
    np.testing.assert_allclose(out[1, 3:], np.cos(angles), rtol=1e-5)

  def test_activations(self):
    self.assertAlmostEqual(float(blocks.leaky_relu(jnp.float32(-2.0))), -0.4, places=6)
    # Phi(1), to more digits than the tanh approximation (0.841192) has.
    self.assertAlmostEqual(float(blocks.exact_gelu(1.0)), 0.8413447, places=6)

  def test_patches(self):
    x = jax.random.normal(jax.random.key(0), (2, 6, 4, 3))
    tokens = blocks.space_to_depth(x, 2)
    self.assertEqual(tokens.shape, (2, 6, 12))
    # Token 3 is the patch in row 1, column 1.
    np.testing.assert_array_equal(tokens[:, 3], x[:, 2:4, 2:4].reshape(2, -1))
    np.testing.assert_array_equal(blocks.depth_to_space(tokens, (6, 4, 3), 2), x)
    with self.assertRaisesRegex(ValueError, 'divides height and width'):
      blocks.num_patches((28, 28, 3), 8)

  def test_mixer_block_mixes_both_ways(self):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 3, 4)).astype(np.float32)
    module = blocks.MixerBlock(expansion=1, activation='relu')
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(1), x))['params']
    params = jax.tree.map(lambda v: rng.normal(size=v.shape).astype(np.float32), shapes)
    out = jax.jit(module.apply)({'params': params}, x)
    p = jax.tree.map(lambda v: np.asarray(v, np.float64), params)

    def norm(h, name):
      h = h - h.mean(-1, keepdims=True)
      h = h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-6)
      return h * p[name]['scale'] + p[name]['bias']

    def mlp(h, name):
      first, last = p[f'{name}_in'], p[f'{name}_out']
      h = np.maximum(h @ first['kernel'] + first['bias'], 0)
      return h @ last['kernel'] + last['bias']

    h = np.asarray(x[0], np.float64)
    h = h + mlp(norm(h, 'LayerNorm_0').T, 'tokens').T
    h = h + mlp(norm(h, 'LayerNorm_1'), 'channels')
    np.testing.assert_allclose(out[0], h, rtol=1e-4, atol=1e-4)

  def test_conditioned_mixer(self):
    """x + (1 + gate) MLP(norm(x) (1 + scale) + shift), over tokens, then channels."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 3, 4)).astype(np.float32)
    condition = rng.normal(size=(1, 2)).astype(np.float32)
    module = blocks.ConditionedMixerBlock(expansion=2, dropout=0.0)
    shapes = jax.eval_shape(
      lambda: module.init(jax.random.key(1), x, condition, False)
    )['params']
    params = jax.tree.map(lambda v: rng.normal(size=v.shape).astype(np.float32), shapes)
    apply = jax.jit(module.apply, static_argnums=3)
    out = apply({'params': params}, x, condition, False)
    p = jax.tree.map(lambda v: np.asarray(v, np.float64), params)
    mod = condition[0] @ p['modulation']['kernel'] + p['modulation']['bias']
    mod = np.split(mod, 6)

    def norm(h, shift, scale):
      h = h - h.mean(-1, keepdims=True)
      return h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-6) * (1 + scale) + shift

    def mlp(h, name):
      first, last = p[f'{name}_in'], p[f'{name}_out']
      h = np.asarray(jax.nn.gelu(h @ first['kernel'] + first['bias']))
      return h @ last['kernel'] + last['bias']

    h = np.asarray(x[0], np.float64)
    h = h + (1 + mod[2]) * mlp(norm(h, *mod[:2]).T, 'tokens').T
    h = h + (1 + mod[5]) * mlp(norm(h, *mod[3:5]), 'channels')
    np.testing.assert_allclose(out[0], h, rtol=1e-4, atol=1e-3)
    # And the identity at first, which the last layers of both branches see to.
    for name in ('tokens_out', 'channels_out'):
      params[name] = jax.tree.map(np.zeros_like, params[name])
    np.testing.assert_array_equal(apply({'params': params}, x, condition, False), x)

  def test_conditioned_mlp(self):
    """x + (1 + gate) (gelu(norm(x) (1 + scale) + shift) W + b) W' + b'."""
    module = blocks.ConditionedMLP(expansion=2, dropout=0.0)
    x, condition = np.random.default_rng(3).normal(size=(2, 1, 4)).astype(np.float32)
    apply = jax.jit(module.apply, static_argnames='train')
    init = jax.jit(module.init, static_argnames='train')
    params = init(jax.random.key(0), x, condition, train=False)['params']
    np.testing.assert_array_equal(
      apply({'params': params}, x, condition, train=False), x
    )
    params = jax.tree.map(
      lambda v: np.random.default_rng(v.size).normal(size=v.shape).astype(np.float32),
      params,
    )
    p = jax.tree.map(lambda v: np.asarray(v, np.float64), params)
    mod = condition @ p['modulation']['kernel'] + p['modulation']['bias']
    shift, scale, gate = np.split(np.asarray(mod), 3, axis=-1)
    h = np.asarray(x - x.mean(), np.float64) / np.sqrt(np.var(x) + 1e-6)
    h = h * (1 + scale) + shift
    h = np.asarray(jax.nn.gelu(h @ p['in']['kernel'] + p['in']['bias']))
    h = h @ p['out']['kernel'] + p['out']['bias']
    np.testing.assert_allclose(
      apply({'params': params}, x, condition, train=False),
      x + (1 + gate) * h,
      rtol=1e-4,
      atol=1e-3,
    )


if __name__ == '__main__':
  absltest.main()
