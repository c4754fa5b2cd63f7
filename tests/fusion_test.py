"""Fusion against values of published programs, and against products by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from mmsbm.distributions import DiagGaussian, DiagLaplace
from mmsbm.fusion import (
  all_subsets,
  draw_member,
  draw_subsets,
  hoelder_pool,
  mixture_log_prob,
  prior_where,
  product_of_experts,
  select,
)


def wave(shape, offset, step):
  flat = np.sin(offset + step * np.arange(np.prod(shape)))
  return flat.reshape(shape).astype(np.float32)


# Three experts for two rows of two dimensions.
EXPERTS = DiagGaussian(
  jnp.asarray(wave((3, 2, 2), 0.3, 0.7)).swapaxes(0, 1),
  jnp.asarray(0.8 * wave((3, 2, 2), 1.1, 0.5)).swapaxes(0, 1),
)
ALL = jnp.ones((2, 3), bool)
TWO = ALL.at[:, 2].set(False)
PUBLISHED = {
  'three': (ALL, False, [[-0.168520, 0.006426], [-0.111708, -0.201862]],
            [[-1.268291, -1.261657], [-1.276086, -1.296313]]),
  'prior': (ALL, True, [[-0.131522, 0.005008], [-0.087331, -0.158505]],
            [[-1.516176, -1.511002], [-1.522264, -1.538112]]),
  'two': (TWO, False, [[0.126988, -0.263323], [-0.570580, -0.524639]],
          [[-0.376703, -0.628214], [-0.886123, -1.056538]]),
}  # fmt: skip


@pytest.mark.parametrize('case', PUBLISHED)
def test_product_equals_the_published_programs(case):
  used, prior, mean, log_var = PUBLISHED[case]
  q = product_of_experts(EXPERTS, used, prior=prior)
  np.testing.assert_allclose(q.mean, mean, atol=1e-6)
  np.testing.assert_allclose(q.log_var, log_var, rtol=2e-6)


def test_product_is_proportional_to_the_densities():
  grid = jnp.linspace(-3, 3, 601)[:, None]
  experts = DiagGaussian(EXPERTS.mean[:1, :, :1], EXPERTS.log_var[:1, :, :1])
  q = product_of_experts(experts, ALL[:1], prior=True)
  density = np.exp(q.log_prob(grid))
  each = np.exp(experts.log_prob(grid[:, None, :])).prod(1)
  product = each * scipy.stats.norm.pdf(grid[:, 0])
  np.testing.assert_allclose(density, product / (product.sum() * 0.01), rtol=1e-4)


def test_order_and_absent_experts_are_of_no_influence():
  order = np.array([2, 0, 1])
  shuffled = jax.tree.map(lambda a: a[:, order], EXPERTS)
  used = jnp.array([[True, False, True], [False, True, True]])
  q = product_of_experts(EXPERTS, used, prior=False)
  other = product_of_experts(shuffled, used[:, order], prior=False)
  np.testing.assert_allclose(q.mean, other.mean, rtol=1e-6)
  # What is absent may hold anything finite.
  spoilt = jax.tree.map(lambda a: jnp.where(used[..., None], a, 50.0), EXPERTS)
  again = product_of_experts(spoilt, used, prior=False)
  np.testing.assert_array_equal(q.mean, again.mean)
  one_less = jax.tree.map(lambda a: a[:1, [0, 2]], EXPERTS)
  less = product_of_experts(one_less, ALL[:1, :2], prior=False)
  np.testing.assert_allclose(q.mean[:1], less.mean, rtol=1e-6)
  assert (q.log_var <= jnp.where(used[..., None], EXPERTS.log_var, 9.0).min(1)).all()


def test_no_expert_is_the_prior_with_finite_gradients():
  none = jnp.zeros((2, 3), bool)

  def total(experts, prior):
    q = product_of_experts(experts, none, prior=prior)
    return q.mean.sum() + q.log_var.sum(), q

  for prior in (False, True):
    (_, q), gradient = jax.value_and_grad(total, has_aux=True)(EXPERTS, prior)
    np.testing.assert_array_equal(q.mean, 0.0)
    np.testing.assert_array_equal(q.log_var, 0.0)
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(gradient))


def test_exponents():
  # Two halves of one expert are that expert.
  twice = jax.tree.map(lambda a: a[:, [0, 0]], EXPERTS)
  q = product_of_experts(twice, jnp.full((2, 2), 0.5), prior=0.0)
  np.testing.assert_allclose(q.mean, EXPERTS.mean[:, 0], rtol=1e-6)
  np.testing.assert_allclose(q.log_var, EXPERTS.log_var[:, 0], rtol=1e-5)


@pytest.mark.parametrize('family', [DiagGaussian, DiagLaplace])
def test_mixture_density(family):
  experts = family(EXPERTS.mean, EXPERTS.log_var)
  used = jnp.array([[True, False, True], [False, False, False]])
  z = jnp.asarray(wave((5, 2, 2), 0.2, 0.9))
  log_prob = mixture_log_prob(experts, used, z)
  assert log_prob.shape == (5, 2)
  each = np.exp(experts.log_prob(z[:, :, None]))
  np.testing.assert_allclose(
    log_prob[:, 0], np.log(0.5 * (each[:, 0, 0] + each[:, 0, 2])), rtol=1e-5
  )
  standard = family(jnp.zeros(2), jnp.zeros(2)).log_prob(z[:, 1])
  np.testing.assert_allclose(log_prob[:, 1], standard, rtol=1e-5)
  far = jax.grad(lambda z: mixture_log_prob(experts, used, z).sum())(z + 200.0)
  assert np.isfinite(far).all()


def test_select_and_prior_where():
  index = jnp.array([[2, 0], [1, 1], [0, 2]])
  chosen = select(EXPERTS, index)
  for t, row in itertools.product(range(3), range(2)):
    np.testing.assert_array_equal(chosen.mean[t, row], EXPERTS.mean[row, index[t, row]])
  blank = prior_where(jnp.array([True, False]), select(EXPERTS, index[0]))
  np.testing.assert_array_equal(blank.log_var[0], 0.0)
  np.testing.assert_array_equal(blank.mean[1], EXPERTS.mean[1, 0])


def test_all_subsets():
  letters = ['_'.join(np.array(list('abc'))[row]) for row in all_subsets(3)]
  assert letters == ['a', 'b', 'c', 'a_b', 'a_c', 'b_c', 'a_b_c']
  for num in range(1, 9):
    assert len(np.unique(all_subsets(num), axis=0)) == 2**num - 1


def test_random_subsets_are_uniform():
  members = jnp.broadcast_to(jnp.array([True, False, True, True]), (14_000, 4))
  subsets = np.asarray(jax.jit(draw_subsets)(jax.random.key(0), members))
  assert not subsets[:, 1].any()
  counts = np.bincount(subsets @ [1, 0, 2, 4], minlength=8)
  assert counts[0] == 0
  assert scipy.stats.chisquare(counts[1:]).pvalue > 1e-3
  none = draw_subsets(jax.random.key(0), jnp.zeros((3, 4), bool))
  assert not none.any()


def test_random_members_are_uniform():
  members = jnp.broadcast_to(jnp.array([True, False, True, True]), (9_000, 4))
  chosen = np.asarray(draw_member(jax.random.key(1), members))
  counts = np.bincount(chosen, minlength=4)
  assert counts[1] == 0
  assert scipy.stats.chisquare(counts[[0, 2, 3]]).pvalue > 1e-3


@pytest.mark.parametrize('used', [(1, 1, 1), (1, 0, 1), (0, 1, 0), (0, 0, 0)])
def test_hoelder_pool_is_the_squared_sum_of_roots(used):
  grid = np.linspace(-8, 8, 3201)[:, None]
  experts = DiagGaussian(EXPERTS.mean[:1, :, :1], EXPERTS.log_var[:1, :, :1])
  pool, log_weights = hoelder_pool(experts, jnp.array([used], bool))
  assert pool.mean.shape == (1, 6, 1)
  each = np.exp(pool.log_prob(grid[:, None, :]))
  density = (each * np.exp(log_weights)).sum(-1)
  roots = np.sqrt(np.exp(experts.log_prob(grid[:, None, :])))[:, np.array(used, bool)]
  square = roots.sum(-1) ** 2
  if not any(used):
    square = scipy.stats.norm.pdf(grid[:, 0])
  np.testing.assert_allclose(density, square / (square.sum() * 0.005), atol=1e-5)


def test_hoelder_pool_of_two_dimensions_by_hand():
  # Variances 1 and 4 in each dimension, means that differ by 1 and 2.
  mean = jnp.array([[[0.0, 0.0], [1.0, 2.0]]])
  log_var = jnp.log(jnp.array([[[1.0, 1.0], [4.0, 4.0]]]))
  pool, log_weights = hoelder_pool(DiagGaussian(mean, log_var), jnp.ones((1, 2), bool))
  np.testing.assert_allclose(pool.mean[0, 1], [0.2, 0.4], rtol=1e-6)
  np.testing.assert_allclose(np.exp(pool.log_var[0, 1]), 8 / 5, rtol=1e-6)
  coefficient = (4 / 5) * np.exp(-(1 + 4) / 20)
  weights = np.array([1, 2 * coefficient, 1])
  np.testing.assert_allclose(np.exp(log_weights[0]), weights / weights.sum(), rtol=1e-5)
