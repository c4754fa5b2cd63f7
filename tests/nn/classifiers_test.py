"""Classifiers: published size, features, dropout, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from mmsbm.nn.classifiers import CLASSIFIERS

_SMALL = {
  'conv': {'widths': (4, 5), 'feature_dim': 6},
  'patch': {'width': 8, 'num_layers': 1, 'feature_dim': 6},
}


def random_variables(module, x):
  """Random parameters; shapes without compiling `init`."""
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x, train=False))
  return jax.tree.map(
    lambda v: 0.3 * rng.normal(size=v.shape).astype(np.float32), shapes
  )


class ClassifiersTest(parameterized.TestCase):
  def test_published_size(self):
    """Three convolutions 28 -> 14 -> 7 -> 4, then 2048 - 512 - 10."""
    module = CLASSIFIERS['conv'](num_classes=10)
    params = jax.eval_shape(
      lambda: module.init(jax.random.key(0), jnp.zeros((1, 28, 28, 3)), train=False)
    )['params']
    self.assertEqual(params['features']['kernel'].shape, (2048, 512))
    count = sum(v.size for v in jax.tree.leaves(params))
    self.assertEqual(count, 1_147_466)  # Published: 1.15 M.

  @parameterized.parameters('conv', 'patch')
  def test_logits_are_linear_in_the_features(self, name):
    module = CLASSIFIERS[name](num_classes=3, dropout=0.5, **_SMALL[name])
    x = np.random.default_rng(0).normal(size=(5, 8, 8, 2)).astype(np.float32)
    variables = random_variables(module, x)
    apply = jax.jit(module.apply, static_argnames='train')
    logits, features = apply(variables, x, train=False)
    self.assertEqual((logits.shape, features.shape), ((5, 3), (5, 6)))
    last = variables['params']['logits']
    expected = features @ last['kernel'] + last['bias']
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)

    # Dropout reaches the logits, not the features that are reported.
    rngs = {'dropout': jax.random.key(2)}
    dropped, same = apply(variables, x, train=True, rngs=rngs)
    np.testing.assert_allclose(same, features, rtol=1e-5, atol=1e-5)
    self.assertFalse(np.allclose(dropped, logits))

  @parameterized.parameters('conv', 'patch')
  def test_gradients(self, name):
    module = CLASSIFIERS[name](num_classes=3, **_SMALL[name])
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 2)).astype(np.float32)
    variables = random_variables(module, x)
    gradients = jax.jit(
      jax.grad(lambda v: (module.apply(v, x, train=True)[0] ** 2).sum())
    )(variables)
    for path, gradient in jax.tree.leaves_with_path(gradients):
      self.assertTrue(np.isfinite(gradient).all(), path)
      self.assertGreater(np.abs(gradient).max(), 0, path)


if __name__ == '__main__':
  absltest.main()
