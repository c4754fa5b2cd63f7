"""Score networks: published sizes, closed forms, symmetries, dependence on time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from mmsbm.infra.errors import UserError
from mmsbm.latents import MISSING, OBSERVED
from mmsbm.nn import score_nets
from mmsbm.nn.score_nets import SCORE_NETS

_SMALL = {
  'hub': {
    'token_width': 8,
    'hub_width': 16,
    'num_blocks': 2,
    'num_heads': 2,
    'condition_width': 8,
    'time_features': 8,
  },
  'mlp': {'width': 16, 'num_blocks': 2, 'time_features': 8},
  'transformer': {'width': 16, 'num_layers': 2, 'num_heads': 2, 'time_features': 8},
  'unet': {'width': 6, 'multipliers': (1, 2)},
}


def num_parameters(module):
  shape = (1, len(module.dims))
  variables = jax.eval_shape(
    lambda key: module.init(
      key,
      jnp.zeros((1, sum(module.dims))),
      jnp.zeros(shape),
      jnp.zeros(shape, bool),
      train=False,
    ),
    jax.random.key(0),
  )
  return sum(v.size for v in jax.tree.leaves(variables['params']))


def make_inputs(dims, batch=3):
  rng = np.random.default_rng(0)
  shape = (batch, len(dims))
  return (
    rng.normal(size=(batch, sum(dims))).astype(np.float32),
    rng.uniform(0.1, 1, size=shape).astype(np.float32),
    (rng.random(shape) < 0.5).astype(np.int32),
  )


@functools.cache
def make(name, dims, **kwargs):
  """Random parameters (no zero-initialised layer is left) and a jitted apply.

  Shapes come from `eval_shape`: running `init` would compile it op by op.
  """
  module = SCORE_NETS[name](dims, **{**_SMALL[name], **kwargs})
  shapes = jax.eval_shape(
    lambda: module.init(jax.random.key(0), *make_inputs(dims), train=False)
  )
  rng = np.random.default_rng(1)
  variables = jax.tree.map(
    lambda v: 0.4 * rng.normal(size=v.shape).astype(np.float32), shapes
  )
  return module, variables, jax.jit(lambda v, *a: module.apply(v, *a, train=False))


def randomise(params, seed=0):
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda v: rng.normal(size=v.shape).astype(np.float32), params)


class PublishedSizeTest(parameterized.TestCase):
  @parameterized.parameters(
    (128, 64, 10, (1, 2, 2, 2), 42_669_450, 42.7),
    (64, 64, 5, (1, 2, 2, 2), 10_964_947, 11.0),
    (256, 256, 3, (1, 2, 2, 2, 2), 222_847_613, 222.8),
  )
  def test_unet(self, width, dim, num, multipliers, exact, published):
    module = SCORE_NETS['unet']((dim,) * num, width=width, multipliers=multipliers)
    count = num_parameters(module)
    self.assertEqual(count, exact)
    self.assertEqual(round(count / 1e6, 1), published)


class UNetPartsTest(parameterized.TestCase):
  @parameterized.parameters(True, False)
  def test_attention(self, linear):
    module = score_nets.SpatialAttention(linear=linear, num_heads=2, head_dim=4)
    x = np.random.default_rng(3).normal(1, 2, (1, 2, 3, 5)).astype(np.float32)
    init = functools.partial(module.init, jax.random.key(1), x)
    params = randomise(jax.eval_shape(init)['params'])
    p = jax.tree.map(lambda v: np.asarray(v, np.float64), params)
    x64 = np.asarray(x, np.float64)

    def norm(h, name):
      h = (h - h.mean()) / np.sqrt(h.var() + 1e-5)
      return h * p[name]['scale'] + p[name]['bias']

    def softmax(h, axis):
      e = np.exp(h - h.max(axis, keepdims=True))
      return e / e.sum(axis, keepdims=True)

    h = (norm(x64, 'norm') @ p['qkv']['kernel'][0, 0]).reshape(6, 3, 2, 4)
    heads = []
    for i in range(2):
      q, k, v = h[:, 0, i], h[:, 1, i], h[:, 2, i]
      if linear:
        heads.append(softmax(q, 1) * 0.5 @ (softmax(k, 0).T @ v))
      else:
        heads.append(softmax(q @ k.T * 0.5, 1) @ v)
    out = np.concatenate(heads, 1) @ p['out']['kernel'][0, 0] + p['out']['bias']
    out = out.reshape(1, 2, 3, 5)
    expected = x64 + (norm(out, 'out_norm') if linear else out)
    np.testing.assert_allclose(
      jax.jit(module.apply)({'params': params}, x), expected, rtol=1e-4, atol=1e-4
    )

  def test_convnext_block(self):
    """With kernels that act on one pixel only, the block is a formula per pixel."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(1, 2, 2, 3)).astype(np.float32)
    time = rng.normal(size=(1, 4)).astype(np.float32)
    module = score_nets.ConvNeXtBlock(features=2)
    init = functools.partial(module.init, jax.random.key(2), x, time)
    params = randomise(jax.eval_shape(init)['params'])
    for name in ('depthwise', 'in', 'out'):
      kernel = params[name]['kernel']
      middle = kernel.shape[0] // 2
      only = np.zeros_like(kernel)
      only[middle, middle] = kernel[middle, middle]
      params[name]['kernel'] = only
    p = jax.tree.map(lambda v: np.asarray(v, np.float64), params)
    x64 = np.asarray(x, np.float64)

    def gelu(h):
      return np.asarray(jax.nn.gelu(h, approximate=False))

    def norm(h, name):
      h = (h - h.mean()) / np.sqrt(h.var() + 1e-5)
      return h * p[name]['scale'] + p[name]['bias']

    def pixel(h, name, middle=0):
      return h @ p[name]['kernel'][middle, middle] + p[name].get('bias', 0)

    h = x64 * p['depthwise']['kernel'][3, 3, 0] + p['depthwise']['bias']
    h = h + gelu(time) @ p['time']['kernel'] + p['time']['bias']
    h = gelu(pixel(norm(h, 'norm_0'), 'in', 1))
    h = pixel(norm(h, 'norm_1'), 'out', 1)
    expected = pixel(x64, 'skip') + h
    actual = jax.jit(module.apply)({'params': params}, x, time)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)

  def test_latents_are_channels(self):
    """Modality m enters by input channel m and leaves by output channel m."""
    _, variables, apply = make('unet', (4, 4))
    z, t, role = make_inputs((4, 4))
    new = jax.tree.map(np.copy, variables)
    new['params']['input']['kernel'][:, :, 1] = 0
    before = apply(new, z, t, role)
    for m in (0, 1):
      moved = z.copy()
      moved[:, 4 * m : 4 * m + 4] += 1
      difference = np.abs(apply(new, moved, t, role) - before).max()
      self.assertEqual(difference > 1e-3, m == 0)

    new['params']['output']['kernel'][:] = 0
    new['params']['output']['bias'] = np.array([1.0, 2.0], np.float32)
    out = apply(new, z, t, role)
    np.testing.assert_array_equal(out[0], np.repeat([1, 2], 4))

  def test_first_skip_is_unused(self):
    """The upward path sees as many skips as there are stages, less one."""
    module = SCORE_NETS['unet']((64, 64), width=6, multipliers=(1, 2, 2))
    inputs = make_inputs((64, 64))
    params = jax.eval_shape(
      lambda: module.init(jax.random.key(0), *inputs, train=False)
    )['params']
    self.assertEqual(params['up_2_0']['in']['kernel'].shape, (3, 3, 24, 24))
    self.assertEqual(params['up_1_0']['in']['kernel'].shape, (3, 3, 24, 12))
    self.assertNotIn('up_0_0', params)
    self.assertEqual(params['input']['kernel'].shape, (7, 7, 2, 4))

  def test_time_is_the_scaled_largest_of_the_row(self):
    module, variables, apply = make('unet', (4, 4))
    z, t, role = make_inputs((4, 4))
    t = np.array([[0.2, 0.9], [0.8, 0.3], [0.5, 0.6]], np.float32)
    expected = apply(variables, z, t, role)
    largest = np.broadcast_to(t.max(-1, keepdims=True), t.shape)
    np.testing.assert_array_equal(apply(variables, z, largest, role), expected)
    scaled = jax.jit(module.clone(time_scale=4.0).apply, static_argnames='train')
    np.testing.assert_allclose(
      scaled(variables, z, t / 4, role, train=False), expected, rtol=1e-4, atol=1e-4
    )
    other = apply(variables, z, t / 4, role)
    self.assertGreater(np.abs(other - expected).max(), 1e-3)

  def test_odd_sides_are_padded_and_other_sizes_refused(self):
    def init(dims):
      module = SCORE_NETS['unet'](dims, **_SMALL['unet'])
      return jax.eval_shape(
        lambda: module.init_with_output(
          jax.random.key(0), *make_inputs(dims), train=False
        )
      )

    self.assertEqual(init((9, 9))[0].shape, (3, 18))
    for dims in ((16, 9), (8, 8)):
      for kind in (UserError, ValueError):
        with self.assertRaisesRegex(kind, 'equal square latent sizes'):
          init(dims)


class OwnNetsTest(parameterized.TestCase):
  @parameterized.parameters('hub', 'mlp', 'transformer')
  def test_zero_at_first_with_unequal_sizes(self, name):
    dims = (3, 5, 8)
    module = SCORE_NETS[name](dims, **_SMALL[name])
    inputs = make_inputs(dims)

    @jax.jit
    def run():
      variables = module.init(jax.random.key(0), *inputs, train=False)

      def loss(v):
        out = module.apply(v, *inputs, train=False)
        return (out * inputs[0]).sum(), out

      return jax.grad(loss, has_aux=True)(variables)

    gradient, out = run()
    np.testing.assert_array_equal(out, np.zeros((3, 16)))
    # The output layer learns at once; after its first step everything does.
    last = {'hub': 'out', 'mlp': 'output', 'transformer': 'out_1'}[name]
    self.assertGreater(np.abs(gradient['params'][last]['kernel']).max(), 0)

  @parameterized.parameters('hub', 'mlp', 'transformer', 'unet')
  def test_gradients(self, name):
    dims = (4, 4) if name == 'unet' else (3, 5, 8)
    module, variables, _ = make(name, dims)
    inputs = (
      *make_inputs(dims)[:2],
      np.array([[0, 1, 2], [1, 0, 0], [2, 2, 1]])[:, : len(dims)],
    )
    weights = np.random.default_rng(5).normal(size=inputs[0].shape)
    weights = weights.astype(np.float32)
    gradients = jax.jit(
      jax.grad(lambda v: (weights * module.apply(v, *inputs, train=True)).sum())
    )(variables)
    for path, gradient in jax.tree.leaves_with_path(gradients):
      self.assertTrue(np.isfinite(gradient).all(), path)
      self.assertGreater(np.abs(gradient).max(), 0, path)

  @parameterized.parameters('hub', 'mlp', 'transformer')
  def test_every_modality_matters(self, name):
    """Latent, time and flag of each modality reach the output of the others."""
    dims = (3, 5, 8)
    _, variables, apply = make(name, dims)
    z, t, role = make_inputs(dims)
    apply = functools.partial(apply, variables)
    before = apply(z, t, role)
    for m, (start, stop) in enumerate(((0, 3), (3, 8), (8, 16))):
      other = np.r_[0:start, stop:16]
      new_z, new_t, new_role = z.copy(), t.copy(), role.copy()
      new_z[:, start] += 1
      new_t[:, m] *= 0.1
      new_role[:, m] ^= OBSERVED
      for change in (
        (new_z, t, role),
        (z, new_t, role),
        (z, t, new_role),
      ):
        difference = np.abs(apply(*change) - before)[:, other].max(-1)
        self.assertTrue((difference > 1e-4).all(), m)
    self.assertTrue(np.isfinite(apply(z, 0 * t, role)).all())

  @parameterized.parameters(
    ('hub', (3, 5, 8)), ('mlp', (3, 5, 8)), ('transformer', (3, 5, 8)), ('unet', (4, 4))
  )
  def test_rows_are_independent(self, name, dims):
    _, variables, apply = make(name, dims)
    z, t, role = make_inputs(dims)
    new_z, new_t, new_role = z.copy(), t.copy(), role.copy()
    new_z[0] += 1
    new_t[0] *= 0.5
    new_role[0] ^= OBSERVED
    before = apply(variables, z, t, role)
    after = apply(variables, new_z, new_t, new_role)
    np.testing.assert_array_equal(before[1:], after[1:])
    self.assertGreater(np.abs(before[0] - after[0]).max(), 1e-3)

  @parameterized.parameters('hub', 'mlp', 'transformer')
  def test_a_missing_modality_has_neither_latent_nor_time(self, name):
    dims = (3, 5, 8)
    _, variables, apply = make(name, dims)
    z, t, role = make_inputs(dims)
    role[:, 1] = MISSING
    before = apply(variables, z, t, role)
    new_z, new_t = z.copy(), t.copy()
    new_z[:, 3:8], new_t[:, 1] = np.nan, 7.0
    np.testing.assert_array_equal(apply(variables, new_z, new_t, role), before)
    # But that it is missing is known.
    role[:, 1] = OBSERVED
    self.assertGreater(np.abs(apply(variables, z, t, role) - before).max(), 1e-3)

  def test_transformer_permutes_with_its_modalities(self):
    dims, order = (3, 5, 8), (2, 0, 1)
    _, variables, apply = make('transformer', dims)
    z, t, role = make_inputs(dims)
    params = variables['params']
    moved = {**params, 'modality': params['modality'][list(order)]}
    for i, m in enumerate(order):
      moved |= {f'in_{i}': params[f'in_{m}'], f'out_{i}': params[f'out_{m}']}
    columns = np.concatenate([np.split(np.arange(16), (3, 8))[m] for m in order])
    _, _, permuted = make('transformer', tuple(dims[m] for m in order))
    actual = permuted(
      {'params': moved}, z[:, columns], t[:, list(order)], role[:, list(order)]
    )
    expected = apply(variables, z, t, role)[:, columns]
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)

  @parameterized.parameters('hub', 'mlp', 'transformer')
  def test_dropout_only_in_training(self, name):
    """Train mode without a rate needs no key and changes nothing."""
    dims = (3, 5, 8)
    module, variables, apply = make(name, dims)
    inputs = make_inputs(dims)
    plain = apply(variables, *inputs)

    @jax.jit
    def run(v):
      quiet = module.apply(v, *inputs, train=True)
      rngs = {'dropout': jax.random.key(0)}
      noisy = module.clone(dropout=0.5).apply(v, *inputs, train=True, rngs=rngs)
      return quiet, noisy

    quiet, noisy = run(variables)
    np.testing.assert_allclose(quiet, plain, rtol=1e-4, atol=1e-4)
    self.assertGreater(np.abs(noisy - plain).max(), 1e-2)

  def test_heads_must_divide_width(self):
    with self.assertRaisesRegex(UserError, 'must divide'):
      SCORE_NETS['transformer']((3, 5), width=10, num_heads=4).init(
        jax.random.key(0), *make_inputs((3, 5)), train=False
      )


if __name__ == '__main__':
  absltest.main()
