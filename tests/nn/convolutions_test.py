"""Convolutions that are written for the CPU are those of JAX and Flax."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.nn import blocks, convolutions

# Height, width, channels, outputs, kernel, strides, padding, groups.
CASES = {
  'three by three': (6, 5, 9, 2, (3, 3), (1, 1), ((1, 1), (1, 1)), 1),
  'no padding': (7, 6, 9, 2, (3, 3), (1, 1), 'VALID', 1),
  'as flax pads a stride': (7, 8, 9, 3, (3, 3), (2, 2), 'SAME', 1),
  'stride 2 of an even kernel': (8, 8, 9, 4, (4, 4), (2, 2), ((1, 1), (1, 1)), 1),
  'a stride that leaves rows': (8, 7, 5, 4, (3, 3), (2, 3), ((1, 1), (1, 1)), 1),
  'oblong, more zeros on a side': (5, 9, 4, 4, (3, 2), (1, 1), ((2, 0), (0, 2)), 1),
  'one by one': (4, 3, 3, 5, (1, 1), (1, 1), ((0, 0), (0, 0)), 1),
  'more outputs than inputs': (6, 6, 1, 12, (3, 3), (1, 1), ((1, 1), (1, 1)), 1),
  'smaller than the kernel': (2, 1, 4, 3, (3, 3), (1, 1), ((1, 1), (1, 1)), 1),
  'depthwise': (6, 5, 4, 4, (7, 7), (1, 1), ((3, 3), (3, 3)), 4),
  'depthwise, more zeros on a side': (6, 5, 4, 4, (3, 3), (1, 1), ((2, 0), (1, 2)), 4),
  'large depthwise': (20, 20, 2, 2, (7, 7), (1, 1), ((3, 3), (3, 3)), 2),
  'two groups': (6, 5, 4, 6, (3, 3), (1, 1), ((1, 1), (1, 1)), 2),
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request):
  height, width, channels, outputs, size, strides, pads, groups = request.param
  keys = jax.random.split(jax.random.key(0))
  x = jax.random.normal(keys[0], (2, height, width, channels))
  kernel = jax.random.normal(keys[1], (*size, channels // groups, outputs))
  options = dict(
    window_strides=strides, padding=pads, feature_group_count=groups,
    dimension_numbers=convolutions.NHWC,
  )  # fmt: skip
  ours = dict(options, strides=options['window_strides'])
  del ours['window_strides']
  return (
    functools.partial(convolutions.general_dilated, **ours),
    functools.partial(jax.lax.conv_general_dilated, **options),
    x,
    kernel,
  )


def close(got, expected):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 2e-5, 2e-5), got, expected)


def test_general_dilated_has_the_values_and_gradients_of_jax(case):
  ours, theirs, x, kernel = case

  def loss(convolve, x, kernel):
    return jnp.sin(convolve(x, kernel)).sum()

  close(ours(x, kernel), theirs(x, kernel))
  expected = jax.grad(loss, (1, 2))(theirs, x, kernel)
  close(jax.grad(loss, (1, 2))(ours, x, kernel), expected)
  with convolutions.canonical_gradients():
    close(jax.grad(loss, (1, 2))(ours, x, kernel), expected)


def test_general_dilated_can_be_differentiated_forward_and_twice(case):
  ours, theirs, x, kernel = case

  def both(convolve):
    def slope(x):
      return jax.grad(lambda x: jnp.sin(convolve(x, kernel)).sum())(x)

    return jax.jvp(lambda x: convolve(x, kernel), (x,), (x,))[1], jax.jvp(
      slope, (x,), (x,)
    )[1]

  close(both(ours), both(theirs))


def test_general_dilated_leaves_dilated_convolutions_to_jax():
  x, kernel = jnp.ones((1, 5, 5, 1)), jnp.ones((3, 3, 1, 1))
  y = convolutions.general_dilated(
    x, kernel, (1, 1), 'VALID', rhs_dilation=(2, 2), dimension_numbers=convolutions.NHWC
  )
  assert y.shape == (1, 1, 1, 1) and y.item() == 9


def test_gradients_are_canonical_only_where_it_is_said():
  x, kernel = jnp.ones((1, 4, 4, 9)), jnp.ones((3, 3, 9, 1))

  def text():
    convolve = functools.partial(
      convolutions.general_dilated, dimension_numbers=convolutions.NHWC
    )
    return str(jax.make_jaxpr(lambda x: convolve(x, kernel, (1, 1), 'SAME'))(x))

  assert 'custom_vjp' not in text()
  with convolutions.canonical_gradients():
    assert 'custom_vjp' in text()
  assert 'custom_vjp' not in text()


def test_transposed_convolution_is_that_of_flax():
  x = jax.random.normal(jax.random.key(0), (2, 3, 5, 4))
  inits = dict(
    kernel_init=blocks.torch_kernel_init, bias_init=blocks.torch_bias_init(9)
  )
  theirs = nn.ConvTranspose(6, (4, 4), (2, 2), padding='SAME', **inits)
  ours = convolutions.ConvTranspose(6, **inits)
  key = jax.random.key(1)
  variables = theirs.init(key, x)
  jax.tree.map(np.testing.assert_array_equal, ours.init(key, x), variables)

  def outputs(module):
    def loss(variables, x):
      return jnp.sin(module.apply(variables, x)).sum()

    return module.apply(variables, x), jax.grad(loss, (0, 1))(variables, x)

  close(outputs(ours), outputs(theirs))
