"""The hub network: one formula, symmetry of its modalities, cost linear in them."""

import functools

import jax
import numpy as np
import pytest

from mmsbm.infra.errors import UserError
from mmsbm.latents import MISSING, NOISY, OBSERVED
from mmsbm.nn import hub

_DIMS = (3, 5, 2)
_COLUMNS = np.split(np.arange(10), (3, 8))


def _network(dims=_DIMS, **kwargs):
  sizes = {
    'token_width': 4,
    'hub_width': 6,
    'num_blocks': 2,
    'num_heads': 2,
    'condition_width': 4,
    'time_features': 4,
  }
  return hub.HubScoreNet(dims, **sizes | kwargs)


def _inputs(dims=_DIMS, batch=4):
  rng = np.random.default_rng(0)
  return (
    rng.normal(size=(batch, sum(dims))).astype(np.float32),
    rng.uniform(0.1, 1, (batch, len(dims))).astype(np.float32),
    rng.integers(0, 3, (batch, len(dims))).astype(np.int32),
  )


def _random_like(shapes):
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda v: rng.normal(0, 0.4, v.shape).astype(np.float32), shapes)


def _init_shapes(network, *inputs):
  return jax.eval_shape(lambda: network.init(jax.random.key(0), *inputs, False))


@functools.cache
def _made():
  """Random parameters, in which nothing is 0, and a jitted apply."""
  variables = _random_like(_init_shapes(_network(), *_inputs()))
  return variables, jax.jit(lambda v, *a: _network().apply(v, *a, False))


def test_block_is_its_formula():
  rng = np.random.default_rng(2)
  m, b, width, hub_width = 3, 2, 4, 6
  x = rng.normal(size=(m, b, width))
  h = rng.normal(size=(b, hub_width))
  condition, known = rng.normal(size=(m, b, 2)), rng.normal(size=(b, 3))
  # Of the first row two modalities are there, of the second one.
  missing = np.array([[0, 1], [1, 1], [0, 0]], bool)[..., None]
  block = hub._HubBlock(expansion=2, num_heads=2, dropout=0.0)
  inputs = [np.float32(a) for a in (x, h, condition, known)] + [missing]
  variables = _random_like(_init_shapes(block, *inputs))
  p = jax.tree.map(np.float64, variables['params'])

  def dense(a, q):
    return a @ q['kernel'] + q.get('bias', 0)

  def private(a, q):
    return np.stack([a[i] @ q['kernel'][i] + q['bias'][i] for i in range(m)])

  def norm(a, shift, scale):
    a = a - a.mean(-1, keepdims=True)
    return a / np.sqrt((a**2).mean(-1, keepdims=True) + 1e-6) * (1 + scale) + shift

  def gelu(a):
    return np.asarray(jax.nn.gelu(a), np.float64)

  shift, scale = np.split(dense(condition, p['modulation']), 2, -1)
  h_shift, h_scale, h_gate = np.split(dense(known, p['hub']['modulation']), 3, -1)
  heard = norm(h, h_shift, h_scale)
  u = gelu(private(norm(x, shift, scale), p['in']) + dense(heard, p['hear']))
  expected_x = x + private(u, p['out'])
  weight = np.exp(private(u, p['weight']))
  found = np.zeros((b, 8))
  for row in range(b):
    there = [i for i in range(m) if not missing[i, row, 0]]
    for head in range(2):
      part = slice(4 * head, 4 * head + 4)
      w = np.array([weight[i, row, head] for i in there])
      found[row, part] = (w / w.sum()) @ np.stack([u[i, row, part] for i in there])
  g = gelu(dense(np.concatenate([heard, found], -1), p['hub_mlp']))
  expected_h = h + (1 + h_gate) * dense(g, p['hub_out'])

  run = jax.jit(block.apply, static_argnames='train')
  new_x, new_h = run(variables, *inputs, train=False)
  np.testing.assert_allclose(new_x, expected_x, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(new_h, expected_h, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('dims', [_DIMS, (4, 4)])
def test_latents_come_back_from_tokens(dims):
  z = _inputs(dims)[0]
  tokens = hub._to_tokens(z, dims)
  assert tokens.shape == (len(dims), 4, max(dims))
  for token, part in zip(tokens, np.split(z, np.cumsum(dims)[:-1], -1), strict=True):
    np.testing.assert_array_equal(token[:, : part.shape[1]], part)
    np.testing.assert_array_equal(token[:, part.shape[1] :], 0)
  np.testing.assert_array_equal(hub._from_tokens(tokens + 1, dims), z + 1)


def test_modalities_permute_with_their_parameters():
  """What belongs to a modality is its row of every leaf with M rows, and columns."""
  variables, apply = _made()
  order = np.array([2, 0, 1])
  columns = np.concatenate([_COLUMNS[m] for m in order])
  flags = 10 + np.concatenate([[2 * m, 2 * m + 1] for m in order])
  params = jax.tree.map(np.copy, variables['params'])
  params['hub_in']['kernel'] = params['hub_in']['kernel'][np.r_[columns, flags]]
  for leaf in ('kernel', 'bias'):
    params['hub_out'][leaf] = params['hub_out'][leaf][..., columns]
  private = [params, *(params[name] for name in ('in', 'out'))]
  private += [params[f'block_{i}'][n] for i in (0, 1) for n in ('in', 'out', 'weight')]
  for tree in private:
    for leaf in {'modality', 'missing', 'kernel', 'bias'} & set(tree):
      tree[leaf] = tree[leaf][order]
  z, t, role = _inputs()
  permuted = _network(tuple(_DIMS[m] for m in order))
  actual = jax.jit(lambda v, *a: permuted.apply(v, *a, False))(
    {'params': params}, z[:, columns], t[:, order], role[:, order]
  )
  expected = apply(variables, z, t, role)[:, columns]
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_the_three_roles_differ_and_the_last_hides_latent_and_time():
  variables, apply = _made()
  z, t, _ = _inputs()
  outputs = []
  for role in range(3):
    roles = np.full(t.shape, NOISY)
    roles[:, 1] = role
    outputs.append(apply(variables, z, t, roles))
    moved = [z.copy(), t.copy()]
    moved[0][:, _COLUMNS[1]] += 1
    moved[1][:, 1] *= 2
    for new_z, new_t in ((moved[0], t), (z, moved[1])):
      difference = np.abs(apply(variables, new_z, new_t, roles) - outputs[-1])
      if role == MISSING:
        assert difference.max() == 0
      else:
        # It reaches every modality, so through the hub.
        assert (np.maximum.reduceat(difference, [0, 3, 8], -1) > 1e-5).all()
  for i in range(3):
    assert (np.abs(outputs[i] - outputs[i - 1]).max(-1) > 1e-3).all()


def test_the_vector_of_a_missing_modality_counts_only_where_it_is_missing():
  variables, apply = _made()
  z, t, role = _inputs()
  role[:, 0], role[:, 2] = OBSERVED, NOISY
  role[:, 1] = [MISSING, NOISY, OBSERVED, MISSING]
  params = {**variables['params']}
  params['missing'] = params['missing'].copy()
  params['missing'][1] += np.array([1, 0, -1, 2], np.float32)
  difference = np.abs(
    apply({'params': params}, z, t, role) - apply(variables, z, t, role)
  )
  np.testing.assert_array_equal(difference[1:3], 0)
  assert difference[[0, 3]][:, _COLUMNS[1]].max(-1).min() > 1e-4
  # The hub does not read it, and so it does not reach the others.
  np.testing.assert_array_equal(difference[:, np.r_[0:3, 8:10]], 0)


def test_output_and_gradient_are_finite_when_all_is_missing():
  variables, _ = _made()
  z, t, role = _inputs()

  @jax.jit
  def run(v, z, t):
    def loss(v):
      out = _network().apply(v, z, t, np.full_like(role, MISSING), True)
      return (out**2).sum(), out

    return jax.grad(loss, has_aux=True)(v)

  gradients, out = run(variables, z * np.nan, t * np.nan)
  assert np.isfinite(out).all() and np.ptp(out, axis=0).max() == 0
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize('sizes', [(16,), (4, 16)])
def test_cost_of_a_gradient_is_affine_in_the_number_of_modalities(sizes):
  def cost(num):
    dims = (sizes * num)[:num]
    network, inputs = hub.HubScoreNet(dims), _inputs(dims)
    shapes = _init_shapes(network, *inputs)

    def gradient(v, *inputs):
      return jax.grad(lambda v: (network.apply(v, *inputs, True) ** 2).sum())(v)

    return jax.jit(gradient).lower(shapes, *inputs).cost_analysis()['flops']

  at_10, at_20, at_40 = (cost(num) for num in (10, 20, 40))
  assert at_10 > 1e6
  # Twice as many more modalities cost twice as much more.
  assert 1.9 < (at_40 - at_20) / (at_20 - at_10) < 2.1
  assert at_40 < 3.5 * at_10


def test_heads_must_divide_the_hidden_units():
  with pytest.raises(UserError, match='num_heads=3 must divide expansion'):
    _init_shapes(_network(num_heads=3), *_inputs())
