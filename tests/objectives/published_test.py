"""Whole losses against values of the published programs.

Three linear modalities, eight examples, z at the mean of its posterior.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.distributions import DiagGaussian, Laplace, Normal
from mmsbm.fusion import all_subsets
from mmsbm.objectives import MMJSD, MVAE, MVTCAE, Experts, MoPoE

DIMS = (2, 3, 4)
# b lacks the first three rows, c the last three.
INCOMPLETE = np.array([[1] * 8, [0] * 3 + [1] * 5, [1] * 5 + [0] * 3], bool).T
COMPLETE = np.ones_like(INCOMPLETE)
KEY = jax.random.key(0)


def wave(shape, offset, step):
  flat = np.sin(offset + step * np.arange(np.prod(shape)))
  return flat.reshape(shape).astype(np.float32)


X = [wave((8, d), 0.1 * (i + 1), 0.37) for i, d in enumerate(DIMS)]
EXPERTS = DiagGaussian(
  jnp.stack([x @ wave((x.shape[1], 2), 0.2, 0.9) for x in X], axis=1),
  jnp.stack([x @ (0.3 * wave((x.shape[1], 2), 0.4, 1.1)) for x in X], axis=1),
)


@pytest.fixture(autouse=True)
def no_noise(monkeypatch):
  monkeypatch.setattr(DiagGaussian, 'sample', lambda self, key: self.mean)


def log_likelihood(present, likelihood):
  def fn(z, w=None):
    assert w is None
    out = []
    for i, x in enumerate(X):
      mean = z @ wave((2, DIMS[i]), 0.6, 1.3)
      flat = likelihood.log_prob(
        mean.reshape(-1, DIMS[i]), jnp.broadcast_to(x, mean.shape).reshape(-1, DIMS[i])
      )
      out.append(flat.reshape(mean.shape[:-1]))
    return jnp.where(present, jnp.stack(out, -1), 0.0)

  return fn


def loss(objective, present, likelihood):
  experts = Experts(shared=EXPERTS, present=jnp.asarray(present))
  values, terms = objective(KEY, experts, log_likelihood(present, likelihood))
  assert values.shape == (8,)
  return values.mean(), terms


JOINT = MVAE(single_terms=False, num_random_subsets=0)


@pytest.mark.parametrize(
  ('objective', 'present', 'likelihood', 'expected'),
  [
    (JOINT, COMPLETE, Laplace(scale=0.75), 12.247644),
    (JOINT, INCOMPLETE, Laplace(scale=0.75), 8.796877),
    (MVTCAE(alpha=5 / 6, beta=2.5), COMPLETE, Laplace(scale=0.75), 9.944400),
    (MVTCAE(alpha=5 / 6, beta=2.5), INCOMPLETE, Laplace(scale=0.75), 6.926858),
    (MVTCAE(alpha=0.5, beta=1.0), COMPLETE, Normal(), 9.704617),
  ],
)
def test_losses_of_products(objective, present, likelihood, expected):
  np.testing.assert_allclose(
    loss(objective, present, likelihood)[0], expected, rtol=1e-5
  )


def test_parts_of_mvtcae():
  objective = MVTCAE(alpha=5 / 6, beta=2.5)
  q = objective.posterior(None, Experts(shared=EXPERTS, present=jnp.asarray(COMPLETE)))
  np.testing.assert_allclose(q.kl_to_prior().sum(), 4.782852, rtol=1e-5)
  one = DiagGaussian(EXPERTS.mean[:, 0], EXPERTS.log_var[:, 0])
  np.testing.assert_allclose(q.kl_to(one).sum(), 5.870557, rtol=1e-5)
  log_p = log_likelihood(COMPLETE, Laplace(scale=0.75))(q.mean[None])[0]
  np.testing.assert_allclose(-log_p[:, 0].sum(), 19.761774, rtol=1e-5)
  some = Experts(shared=EXPERTS, present=jnp.asarray(INCOMPLETE))
  q = objective.posterior(None, some)
  np.testing.assert_allclose(q.kl_to_prior().sum(), 4.164853, rtol=1e-5)
  two = DiagGaussian(EXPERTS.mean[:, 1], EXPERTS.log_var[:, 1])
  kl = jnp.where(INCOMPLETE[:, 1], q.kl_to(two), 0.0)
  np.testing.assert_allclose(kl.sum(), 2.547942, rtol=1e-5)


def test_loss_of_mopoe():
  # The published program gives a row to each subset in turn, the rest to the last.
  chosen = all_subsets(3)[[0, 1, 2, 3, 4, 5, 6, 6]]
  objective = MoPoE(beta=2.5, prior_expert='full')
  experts = Experts(shared=EXPERTS, present=jnp.asarray(COMPLETE))
  values, terms = objective.loss_of(
    KEY, experts, log_likelihood(COMPLETE, Laplace(scale=0.75)), chosen
  )
  np.testing.assert_allclose(values.mean(), 12.391154, rtol=1e-5)
  np.testing.assert_allclose(terms['divergence'].mean(), 0.433502, rtol=1e-5)


def test_products_of_mopoe():
  expected = [
    [0.431642, 0.197325], [0.036045, -0.501334], [-0.527420, -0.238053],
    [0.212527, -0.165062], [-0.051322, 0.003736], [-0.217321, -0.389107],
    [-0.013506, -0.139049],
  ]  # fmt: skip
  subsets = jnp.asarray(all_subsets(3))[:, None]
  experts = Experts(shared=EXPERTS, present=jnp.asarray(COMPLETE))
  q = MoPoE(prior_expert='full').product(experts, subsets & experts.present)
  np.testing.assert_allclose(q.mean[:, 0], expected, atol=1e-6)


def test_dynamic_prior_of_mmjsd():
  means, log_vars = wave((3, 2, 2), 0.3, 0.7), 0.8 * wave((3, 2, 2), 1.1, 0.5)
  shared = DiagGaussian(*(jnp.asarray(a).swapaxes(0, 1) for a in (means, log_vars)))
  experts = Experts(shared=shared, present=jnp.ones((2, 3), bool))
  kl, f = MMJSD(prior_expert=False).divergence(experts)
  np.testing.assert_allclose(kl.mean(), 0.912572, rtol=1e-5)
  expected = [[-0.168520, 0.006426], [-0.111708, -0.201862]]
  np.testing.assert_allclose(f.mean, expected, atol=1e-6)
  expected = [[-0.169679, -0.163045], [-0.177474, -0.197701]]
  np.testing.assert_allclose(f.log_var, expected, atol=1e-6)


def test_importance_weights_of_mvtcae():
  # All draws at the mean of the posterior: one weight, -log of which is summed.
  objective = MVTCAE()
  experts = Experts(shared=EXPERTS, present=jnp.asarray(COMPLETE))
  q = objective.posterior(None, experts)
  log_p = log_likelihood(COMPLETE, Laplace(scale=0.75))(q.mean[None])[0].sum(-1)
  zeros = jnp.zeros_like(q.mean)
  prior = DiagGaussian(zeros, zeros).log_prob(q.mean)
  weights = log_p + prior - objective.log_density(experts, q.mean)
  np.testing.assert_allclose(-weights.sum(), 102.750900, rtol=1e-5)


def test_subsets_of_mopoe_with_missing_modalities():
  """Uniform over those of what is present: a, c, ac; all seven; a, b, ab."""
  experts = Experts(shared=EXPERTS, present=jnp.asarray(INCOMPLETE))
  objective = MoPoE(prior_expert='full')
  each = objective.product(
    experts, jnp.asarray(all_subsets(3))[:, None] & experts.present
  ).kl_to_prior()
  members = {0: [0, 1, 3], 1: [0, 2, 4], 2: range(7)}
  kl = objective.divergence(None, experts)
  for row, kind in enumerate([1, 1, 1, 2, 2, 0, 0, 0]):
    expected = np.mean([each[s, row] for s in members[kind]])
    np.testing.assert_allclose(kl[row], expected, rtol=1e-5)
