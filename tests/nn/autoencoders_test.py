"""Encoders and decoders: published sizes, structure, shapes, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from mmsbm.infra.errors import UserError
from mmsbm.nn.decoders import DECODERS
from mmsbm.nn.encoders import ENCODERS

_SMALL = {
  'encoder': {'stem': 4, 'blocks': ((4, 4, 6, 2),), 'latent_dim': 3},
  'decoder': {'blocks': ((8, 6, 6, 2),)},
}
_CELEBA = {'activation': 'exact_gelu', 'stem_slope': 0.1, 'latent_dim': 256}
_CELEBA_OUT = {'activation': 'exact_gelu', 'upsample': 'bilinear', 'output': 'sigmoid'}


def num_parameters(module, shape):
  variables = jax.eval_shape(
    lambda key: module.init(key, jnp.zeros((1, *shape)), train=False),
    jax.random.key(0),
  )
  return sum(v.size for v in jax.tree.leaves(variables['params']))


def make(module, shape, seed=0):
  """Random variables, all norm scales and variances positive, and a jitted apply.

  Shapes come from `eval_shape`: running `init` would compile it op by op.
  """
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(
    lambda: module.init(jax.random.key(0), jnp.zeros((2, *shape)), train=False)
  )

  def draw(path, leaf):
    values = rng.normal(size=leaf.shape).astype(np.float32)
    return 0.3 * values if path[-1].key in ('kernel', 'bias') else 0.5 + abs(values)

  variables = jax.tree.map_with_path(draw, shapes)
  return variables, jax.jit(lambda v, x: module.apply(v, x, train=False))


def normal(*shape):
  return np.random.default_rng(7).normal(size=shape).astype(np.float32)


class PublishedSizeTest(parameterized.TestCase):
  def test_polymnist(self):
    encoder = num_parameters(ENCODERS['resnet'](64, pad=2), (28, 28, 3))
    decoder = num_parameters(DECODERS['resnet']((28, 28, 3), pad=2), (64,))
    self.assertEqual((encoder, decoder), (1_293_056, 1_124_419))
    # Published: 2.43 M (1.30 + 1.13), with the 1x1 convolutions that three blocks
    # with an identity skip allocate and never use.
    encoder, decoder = encoder + 64 * 64, decoder + 2 * 64 * 64
    self.assertEqual(round(encoder / 1e6, 2), 1.30)
    self.assertEqual(round(decoder / 1e6, 2), 1.13)
    self.assertEqual(round((encoder + decoder) / 1e6, 2), 2.43)

  def test_celebamask_hq(self):
    image = num_parameters(
      ENCODERS['resnet'](
        blocks=((64, 128, 128, 2), (128, 256, 256, 2), (256, 512, 512, 2)), **_CELEBA
      ),
      (128, 128, 3),
    ) + num_parameters(
      DECODERS['resnet'](
        (128, 128, 3),
        blocks=((512, 512, 256, 2), (256, 256, 128, 2), (128, 128, 64, 2)),
        **_CELEBA_OUT,
      ),
      (256,),
    )
    self.assertEqual(round(image / 1e6, 1), 51.8)
    mask = num_parameters(
      ENCODERS['resnet'](blocks=((64, 128, 128, 4), (128, 256, 256, 4)), **_CELEBA),
      (128, 128, 1),
    ) + num_parameters(
      DECODERS['resnet'](
        (128, 128, 1), blocks=((256, 256, 128, 4), (128, 128, 64, 4)), **_CELEBA_OUT
      ),
      (256,),
    )
    self.assertEqual(round((mask + 64 * 64) / 1e6, 2), 7.64)
    published = {'norm': 'batch', 'activation': 'relu'}
    encoder = ENCODERS['mlp'](256, widths=(128, 256, 512, 512, 512), **published)
    decoder = DECODERS['mlp']((18,), widths=(512, 512, 512, 256, 128), **published)
    attributes = num_parameters(encoder, (18,)) + num_parameters(decoder, (256,))
    self.assertEqual(round(attributes / 1e6, 2), 1.79)


class ResNetTest(parameterized.TestCase):
  def test_mean_and_log_var_use_different_channels(self):
    """Scaling the last norm and the skip of one half of the channels moves one."""
    variables, apply = make(ENCODERS['resnet'](**_SMALL['encoder']), (8, 8, 1))
    before = apply(variables, normal(2, 8, 8, 1))
    for moved, half in ((0, slice(0, 3)), (1, slice(3, 6))):
      new = jax.tree.map(np.copy, variables)
      new['params']['block_0']['norm_1']['bias'][half] += 1.0
      after = apply(new, normal(2, 8, 8, 1))
      self.assertGreater(np.abs(after[moved] - before[moved]).min(), 1e-3)
      np.testing.assert_array_equal(after[1 - moved], before[1 - moved])

  def test_pad_is_zero_padding_and_cropping(self):
    x = normal(2, 4, 4, 1)
    args = _SMALL['encoder']
    variables, padded = make(ENCODERS['resnet'](pad=2, **args), (4, 4, 1))
    _, plain = make(ENCODERS['resnet'](**args), (8, 8, 1))
    expected = plain(variables, np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0))))
    for a, b in zip(padded(variables, x), expected, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)

    z = normal(2, 3)
    args = _SMALL['decoder']
    variables, padded = make(DECODERS['resnet']((4, 4, 1), pad=2, **args), (3,))
    _, plain = make(DECODERS['resnet']((8, 8, 1), **args), (3,))
    whole = plain(variables, z)
    expected = whole[:, 2:6, 2:6]
    np.testing.assert_allclose(padded(variables, z), expected, rtol=1e-4, atol=1e-4)

    # Linear at the end; ReLU after the latent layer.
    new = jax.tree.map(np.copy, variables)
    new['params']['output']['bias'] += 10.0
    np.testing.assert_allclose(plain(new, z), whole + 10, rtol=1e-4, atol=1e-4)
    new['params']['latent']['bias'][:] = -100.0
    out = plain(new, z)
    # Of rows of a batch the last bit may differ on some machines.
    np.testing.assert_allclose(out[0], out[1], rtol=1e-6)

  def test_wrong_shapes_say_what_to_do(self):
    x = jnp.zeros((1, 28, 28, 3))
    with self.assertRaisesRegex(UserError, 'set `pad`'):
      ENCODERS['resnet'](64).init(jax.random.key(0), x, train=False)
    with self.assertRaisesRegex(UserError, 'set `pad`'):
      DECODERS['resnet']((28, 28, 3), pad=1).init(
        jax.random.key(0), jnp.zeros((1, 64)), train=False
      )
    with self.assertRaisesRegex(UserError, 'expects 5 channels and gets 4'):
      ENCODERS['resnet'](2, stem=4, blocks=((5, 4, 4, 2),)).init(
        jax.random.key(0), x, train=False
      )


class AllTest(parameterized.TestCase):
  @parameterized.parameters(
    ('resnet', (4, 4, 3), _SMALL['encoder'], _SMALL['decoder']),
    ('mlp', (5,), {'latent_dim': 3, 'norm': 'layer'}, {'norm': 'batch'}),
    ('mlp', (4, 2, 1), {'latent_dim': 3}, {}),
    (
      'patch',
      (8, 4, 3),
      {'latent_dim': 3, 'width': 8, 'num_layers': 1},
      {'width': 8, 'num_layers': 1},
    ),
  )
  def test_shapes_and_gradients(self, name, shape, encoder_args, decoder_args):
    """Once trained a little, every parameter of both networks has a gradient."""
    encoder = ENCODERS[name](**encoder_args)
    decoder = DECODERS[name](shape, **decoder_args)
    x = normal(6, *shape)
    variables = {
      'encoder': make(encoder, shape)[0],
      'decoder': make(decoder, (3,))[0],
    }
    params = {k: v['params'] for k, v in variables.items()}

    def loss(params):
      def call(module, part, *args):
        new = {**variables[part], 'params': params[part]}
        return module.apply(new, *args, train=True, mutable=['batch_stats'])[0]

      mean, log_var = call(encoder, 'encoder', x)
      self.assertEqual((mean.shape, log_var.shape), ((6, 3), (6, 3)))
      out = call(decoder, 'decoder', mean + jnp.exp(0.1 * log_var))
      self.assertEqual(out.shape, x.shape)
      return jnp.mean((out - x) ** 2)

    gradients = jax.jit(jax.grad(loss))(params)
    for path, gradient in jax.tree.leaves_with_path(gradients):
      self.assertTrue(np.isfinite(gradient).all(), path)
      self.assertGreater(np.abs(gradient).max(), 0, path)

  def test_rows_are_independent_in_evaluation(self):
    x = normal(2, 4, 4, 3)
    other = x.copy()
    other[0] += 1.0
    for name, args in (
      ('resnet', _SMALL['encoder']),
      ('mlp', {'latent_dim': 3, 'norm': 'batch'}),
      ('patch', {'latent_dim': 3, 'num_layers': 1}),
    ):
      variables, apply = make(ENCODERS[name](**args), (4, 4, 3))
      before, after = apply(variables, x)[0], apply(variables, other)[0]
      np.testing.assert_array_equal(before[1], after[1])
      self.assertGreater(np.abs(before[0] - after[0]).max(), 1e-3)

  def test_new_posteriors_of_own_encoders_have_unit_variance(self):
    x = normal(2, 4, 4, 3)
    for name, args in (('mlp', {'widths': (4,)}), ('patch', {'num_layers': 0})):
      module = ENCODERS[name](latent_dim=3, **args)
      init = jax.jit(lambda key, m=module: m.init_with_output(key, x, train=False))
      (_, log_var), _ = init(jax.random.key(0))
      np.testing.assert_array_equal(log_var, 0)

  def test_patch_decoder_without_mixing_is_local(self):
    """Token n of the latent layer reaches exactly patch n."""
    module = DECODERS['patch']((4, 6, 1), patch=2, width=4, num_layers=0)
    variables, apply = make(module, (3,))
    before = apply(variables, normal(1, 3))
    # First channel of token 4: row 1, column 1.
    variables['params']['latent']['bias'][4 * 4] += 1.0
    changed = np.asarray(apply(variables, normal(1, 3)) != before)[0, :, :, 0]
    expected = np.zeros((4, 6), bool)
    expected[2:4, 2:4] = True
    np.testing.assert_array_equal(changed, expected)


if __name__ == '__main__':
  absltest.main()
