"""Objectives on linear-Gaussian models, whose likelihood is known.

z ~ N(0, 1), x_m = a_m z + N(0, s_m^2), and the experts are what a perfect encoder of
one modality would say.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from mmsbm.build import build
from mmsbm.distributions import DiagGaussian, DiagLaplace
from mmsbm.infra.errors import UserError
from mmsbm.objectives import (
  MMJSD,
  MMVAE,
  MVAE,
  MVTCAE,
  OBJECTIVES,
  Experts,
  Hoelder,
  MMVAEPlus,
  MoPoE,
)

SLOPES, NOISE = np.array([1.0, -0.6, 1.5]), np.array([0.8, 1.1, 0.7])
ROWS = 4
X = np.random.default_rng(0).normal(size=(ROWS, 3)) * 1.5
EVERYTHING = jnp.ones((ROWS, 3), bool)
DRAWS = 4_000


def evidence(x, prior_mean=0.0, prior_var=1.0):
  """log p(x) [B] with z ~ N(prior_mean, prior_var)."""
  out = []
  for i, row in enumerate(x):
    mean = SLOPES * np.broadcast_to(prior_mean, len(x))[i]
    var = np.broadcast_to(prior_var, len(x))[i]
    cov = np.outer(SLOPES, SLOPES) * var + np.diag(NOISE**2)
    out.append(scipy.stats.multivariate_normal(mean, cov).logpdf(row))
  return np.array(out)


def single_posteriors(family=DiagGaussian):
  """p(z | x_m), [B, M, 1]."""
  var = 1 / (1 + (SLOPES / NOISE) ** 2)
  mean = var * SLOPES * X / NOISE**2
  log_var = np.broadcast_to(np.log(var), mean.shape)
  return family(*(jnp.asarray(a[..., None], jnp.float32) for a in (mean, log_var)))


def likelihood_factors():
  """p(x_m | z) as a density of z: with N(0, 1) their product is the posterior."""
  mean = X / SLOPES
  log_var = np.broadcast_to(2 * np.log(NOISE / np.abs(SLOPES)), mean.shape)
  return DiagGaussian(
    *(jnp.asarray(a[..., None], jnp.float32) for a in (mean, log_var))
  )


def log_likelihood(z, w=None, x=X, present=EVERYTHING):
  mean = SLOPES * z + (0.0 if w is None else w[..., 0])
  residual = (x - mean) / NOISE
  log_p = -0.5 * residual**2 - jnp.log(NOISE) - 0.5 * math.log(2 * math.pi)
  return jnp.where(present, log_p, 0.0)


def mean_loss(objective, experts, fn=log_likelihood, draws=DRAWS):
  """Mean loss [B] over draws of z, and its standard error."""
  keys = jax.random.split(jax.random.key(1), draws)
  losses = jax.jit(jax.vmap(lambda key: objective(key, experts, fn)[0]))(keys)
  losses = np.asarray(losses, np.float64)
  return losses.mean(0), losses.std(0) / math.sqrt(draws)


# --- bounds -------------------------------------------------------------------


def test_product_with_the_prior_is_the_exact_posterior():
  objective = MVAE(single_terms=False, num_random_subsets=0)
  experts = Experts(shared=likelihood_factors(), present=EVERYTHING)
  q = objective.posterior(None, experts)
  precision = 1 + ((SLOPES / NOISE) ** 2).sum()
  np.testing.assert_allclose(q.log_var, -math.log(precision), rtol=1e-5)
  expected = (SLOPES * X / NOISE**2).sum(-1) / precision
  np.testing.assert_allclose(q.mean[:, 0], expected, rtol=1e-5)
  # The bound of the exact posterior is the likelihood.
  loss, error = mean_loss(objective, experts)
  assert (np.abs(loss + evidence(X)) < 4 * error + 1e-5).all()


@pytest.mark.parametrize(
  ('objective', 'shared'),
  [
    (MVAE(single_terms=False, num_random_subsets=0), single_posteriors()),
    (MVTCAE(alpha=0.0, beta=1.0), single_posteriors()),
    (MoPoE(beta=1.0), single_posteriors()),
    (MoPoE(beta=1.0, prior_expert='all'), likelihood_factors()),
    (Hoelder(beta=1.0), single_posteriors()),
    (MMVAE(estimator='elbo', num_samples=2), single_posteriors()),
    (MMVAE(estimator='iwae', num_samples=3), single_posteriors()),
    (MMVAE(estimator='dreg', num_samples=3), single_posteriors()),
  ],
  ids=['mvae', 'mvtcae', 'mopoe', 'mopoe_prior', 'hoelder', 'elbo', 'iwae', 'dreg'],
)
def test_bounds_lie_below_the_likelihood_and_not_far(objective, shared):
  loss, error = mean_loss(objective, Experts(shared=shared, present=EVERYTHING))
  gap = loss + evidence(X)
  assert (gap > -4 * error).all()
  # The posteriors of one modality are wide here: a sign or a factor would be nats.
  assert gap.mean() < 2.5


def test_bounds_get_tighter_with_more_draws():
  losses = []
  for number in (1, 4, 16, 256):
    objective = MMVAE(estimator='iwae', num_samples=number)
    experts = Experts(shared=single_posteriors(), present=EVERYTHING)
    losses.append(mean_loss(objective, experts, draws=64_000 // number)[0].mean())
  assert losses == sorted(losses, reverse=True)
  # What the looser of the authors' two bounds tends to: the mean over m of the log of
  # the integral of p(X, z) q_m(z) / q(z), not quite log p(X).
  z = jnp.linspace(-6, 6, 2001)[:, None, None]
  each = np.exp(single_posteriors().log_prob(z[..., None]))
  joint = np.exp(log_likelihood(z).sum(-1) - 0.5 * z[..., 0] ** 2)
  weight = (joint / each.mean(-1))[..., None] * each
  limit = np.log(weight.sum(0) * 0.006 / math.sqrt(2 * math.pi)).mean(-1)
  assert (limit < evidence(X)).all()
  np.testing.assert_allclose(losses[-1], -limit.mean(), atol=0.02)


def test_mixture_of_equal_experts_is_that_expert():
  # Both modalities say the same: the mixture, and its bound, are those of one.
  twice = jax.tree.map(lambda a: a[:, [0, 0]], likelihood_factors())
  fn = lambda z, w: log_likelihood(z)[..., [0, 0]]  # noqa: E731
  both = Experts(shared=twice, present=EVERYTHING[:, :2])
  loss, error = mean_loss(MMVAE(estimator='elbo'), both, fn)
  q = jax.tree.map(lambda a: a[:, 0], twice)
  keys = jax.random.split(jax.random.key(2), DRAWS)
  z = jax.vmap(q.sample)(keys)
  expected = 2 * log_likelihood(z)[..., 0].mean(0) - q.kl_to_prior()
  assert (np.abs(loss + expected) < 8 * error).all()


def test_jensen_shannon_is_a_bound_under_its_dynamic_prior():
  experts = Experts(shared=single_posteriors(), present=EVERYTHING)
  objective = MMJSD(prior_expert=False)
  _, f = objective.divergence(experts)
  loss, error = mean_loss(objective, experts)
  exact = evidence(X, np.asarray(f.mean[:, 0]), np.exp(np.asarray(f.log_var[:, 0])))
  assert (loss + exact > -4 * error).all()
  # With N(0, I) as one more expert of four.
  kl, f = MMJSD().divergence(experts)
  each = [jax.tree.map(lambda a, m=m: a[:, m], experts.shared) for m in range(3)]
  zeros = jnp.zeros((ROWS, 1))
  expected = sum(q.kl_to(f) for q in [*each, DiagGaussian(zeros, zeros)]) / 4
  np.testing.assert_allclose(kl, expected, rtol=1e-5)
  precision = sum(np.exp(-np.asarray(q.log_var)) for q in each) + 1
  np.testing.assert_allclose(f.log_var, -np.log(precision / 4), rtol=1e-4)


def test_divergences_of_mvtcae_for_equal_experts():
  three = jax.tree.map(lambda a: a[:, [0, 0, 0]], single_posteriors())
  experts = Experts(shared=three, present=EVERYTHING)
  _, terms = MVTCAE(alpha=1.0, beta=1.0)(jax.random.key(0), experts, log_likelihood)
  # A product of three equal Gaussians has a third of their variance.
  expected = 0.5 * (1 / 3 - 1 + math.log(3))
  np.testing.assert_allclose(terms['divergence'], expected, rtol=1e-5)


def test_hoelder_trains_the_weights_of_its_components():
  """The gradient is that of the exact bound, weights included."""
  shared = jax.tree.map(lambda a: a[:1], single_posteriors())
  grid = jnp.linspace(-9, 9, 4001)[:, None]

  def exact(shift):
    own = Experts(shared.replace(mean=shared.mean + shift), EVERYTHING[:1])
    log_q = jax.vmap(lambda z: Hoelder().log_density(own, z[None]))(grid)[:, 0]
    log_p = log_likelihood(grid[:, None], x=X[:1])[:, 0].sum(-1)
    log_p += -0.5 * grid[:, 0] ** 2 - 0.5 * math.log(2 * math.pi)
    return -(jnp.exp(log_q) * (log_p - log_q)).sum() * 18 / 4000

  def drawn(shift, key):
    own = Experts(shared.replace(mean=shared.mean + shift), EVERYTHING[:1])
    fn = lambda z, w: log_likelihood(z, x=X[:1], present=True)  # noqa: E731
    return Hoelder(beta=1.0)(key, own, fn)[0].sum()

  shift = jnp.array([[[0.2], [0.5], [-0.4]]])
  keys = jax.random.split(jax.random.key(5), 20_000)
  values, gradients = jax.jit(jax.vmap(jax.value_and_grad(drawn), (None, 0)))(
    shift, keys
  )
  error = [np.std(a, axis=0) / len(keys) ** 0.5 for a in (values, gradients)]
  value, gradient = jax.jit(jax.value_and_grad(exact))(shift)
  assert abs(values.mean() - value) < 4 * error[0]
  assert (np.abs(gradients.mean(0) - gradient) < 4 * error[1]).all()
  assert (np.abs(gradient) > 20 * error[1]).any()


def test_mopoe_of_one_modality_is_its_vae():
  present = EVERYTHING & (jnp.arange(3) == 1)
  experts = Experts(shared=single_posteriors(), present=present)
  key = jax.random.key(3)
  fn = lambda z, w: log_likelihood(z, present=present)  # noqa: E731
  loss, terms = MoPoE(beta=0.5)(key, experts, fn)
  q = jax.tree.map(lambda a: a[:, 1], experts.shared)
  np.testing.assert_allclose(terms['divergence'], q.kl_to_prior(), rtol=1e-5)
  z = q.sample(jax.random.split(key, 3)[1])
  expected = 0.5 * q.kl_to_prior() - log_likelihood(z)[:, 1]
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  other = MVTCAE().posterior(None, experts)
  np.testing.assert_allclose(other.mean, q.mean, rtol=1e-6)


def test_random_subsets_estimate_the_divergence_of_all():
  experts = Experts(shared=single_posteriors(), present=EVERYTHING.at[0, 2].set(False))
  exact = MoPoE().divergence(None, experts)
  drawn = MoPoE(max_subsets=6).divergence
  keys = jax.random.split(jax.random.key(0), DRAWS)
  values = np.asarray(jax.vmap(lambda key: drawn(key, experts))(keys))
  error = values.std(0) / math.sqrt(DRAWS)
  assert (np.abs(values.mean(0) - exact) < 4 * error + 1e-6).all()


# --- private latents ----------------------------------------------------------


def private_experts(present=EVERYTHING, family=DiagGaussian):
  zeros = jnp.zeros((ROWS, 3, 1))
  shared = single_posteriors(family)
  return Experts(
    shared=shared,
    present=present,
    private=family(0.3 * shared.mean, zeros - 0.4),
    auxiliary=family(zeros[0], zeros[0]),
  )


def test_private_latents_give_a_bound():
  # x_m = a_m z + w_m + noise.
  cov = np.outer(SLOPES, SLOPES) + np.diag(NOISE**2 + 1)
  exact = scipy.stats.multivariate_normal(np.zeros(3), cov).logpdf(X)
  bounds = []
  for number in (1, 40):
    objective = MMVAEPlus(estimator='iwae', num_samples=number)
    loss, error = mean_loss(objective, private_experts())
    assert (loss + exact > -4 * error).all()
    bounds.append(-loss.mean())
  assert bounds[0] < bounds[1] < exact.mean() + 0.01


def test_private_latents_come_from_where_they_should():
  """Of the source from its posterior, of the others from the auxiliary priors."""
  experts = private_experts()
  moved = experts.replace(
    private=DiagGaussian(jnp.full((ROWS, 3, 1), 7.0), jnp.full((ROWS, 3, 1), -12.0)),
    auxiliary=DiagGaussian(jnp.full((3, 1), -5.0), jnp.full((3, 1), -12.0)),
  )
  _, w = MMVAEPlus(num_samples=2).draws(jax.random.key(0), moved)
  assert w.shape == (2, 3, ROWS, 3, 1)
  expected = np.where(np.eye(3, dtype=bool)[:, None, :, None], 7.0, -5.0)
  np.testing.assert_allclose(w, np.broadcast_to(expected, w.shape), atol=0.05)


def test_beta_weighs_both_latents():
  experts, key = private_experts(), jax.random.key(0)
  one, two, three = (
    jax.jit(
      lambda experts, beta=beta: MMVAEPlus(estimator='elbo', beta=beta)(
        key, experts, log_likelihood
      )[0]
    )(experts)
    for beta in (0.0, 1.0, 2.0)
  )
  np.testing.assert_allclose(three - two, two - one, rtol=1e-3, atol=1e-5)
  z, w = MMVAEPlus().draws(key, experts)
  own = jnp.stack([w[0, m, :, m] for m in range(3)], axis=1)
  ratio = experts.private.log_prob(own) - experts.auxiliary.log_prob(own)
  density = jax.nn.logsumexp(
    experts.shared.log_prob(z[0][:, :, None]), axis=-1
  ) - math.log(3)
  prior = -0.5 * (z[0, ..., 0] ** 2 + math.log(2 * math.pi))
  expected = (density - prior).T + ratio
  np.testing.assert_allclose(two - one, expected.mean(-1), rtol=1e-4, atol=1e-5)


# --- gradients ----------------------------------------------------------------


def gradient(objective, modalities, draws):
  """Of the mean loss with respect to the means of the experts, and its error."""
  experts = jax.tree.map(lambda a: a[:1, :modalities], single_posteriors())

  def loss(shift, key):
    shared = experts.replace(mean=experts.mean + shift)
    present = EVERYTHING[:1, :modalities]
    fn = lambda z, w: log_likelihood(z, x=X[:1], present=True)  # noqa: E731
    some = lambda z, w: fn(z, w)[..., :modalities]  # noqa: E731
    return objective(key, Experts(shared=shared, present=present), some)[0].sum()

  keys = jax.random.split(jax.random.key(5), draws)
  each = np.asarray(jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(0.2, keys), np.float64)
  return each.mean(), each.std() / math.sqrt(draws)


@pytest.mark.parametrize(
  ('modalities', 'number', 'beta'), [(1, 5, 1.0), (3, 1, 1.0), (1, 5, 0.5)]
)
def test_dreg_is_unbiased_and_of_less_variance(modalities, number, beta):
  kw = dict(num_samples=number, beta=beta)
  iwae, error = gradient(MMVAE(**kw), modalities, 200_000)
  dreg, dreg_error = gradient(MMVAE(estimator='dreg', **kw), modalities, 200_000)
  assert abs(iwae - dreg) < 4 * math.hypot(error, dreg_error)
  assert abs(iwae) > 5 * error
  if beta == 1:
    assert dreg_error < error


def test_dreg_leaves_the_auxiliary_priors_alone():
  experts, key = private_experts(), jax.random.key(0)

  def gradient_of(estimator):
    def loss(log_var):
      own = experts.replace(auxiliary=DiagGaussian(jnp.zeros((3, 1)), log_var))
      objective = MMVAEPlus(estimator=estimator, num_samples=4)
      return objective(key, own, log_likelihood)[0].sum()

    return jax.jit(jax.grad(loss))(jnp.zeros((3, 1)))

  dreg, iwae = gradient_of('dreg'), gradient_of('iwae')
  assert (np.abs(iwae) > 1e-3).all()
  np.testing.assert_allclose(dreg, iwae, rtol=1e-4)


# --- missing modalities -------------------------------------------------------


@pytest.mark.parametrize('name', OBJECTIVES)
def test_every_pattern_of_missing_modalities(name):
  """Finite, and without influence of what is absent; with nothing, without gradient."""
  patterns = np.array(list(itertools.product([False, True], repeat=3)))
  objective, key = OBJECTIVES[name](), jax.random.key(0)
  family = DiagLaplace if 'laplace' in objective.families else DiagGaussian
  x = np.resize(X, patterns.shape)

  def loss(experts, junk):
    fill = lambda a: jnp.where(patterns[..., None], a, junk)  # noqa: E731
    shared, private = (jax.tree.map(fill, e) for e in (experts.shared, experts.private))
    values, terms = objective(
      key,
      experts.replace(shared=shared, private=private),
      lambda z, w: log_likelihood(z, w, x, patterns),
    )
    return values.sum(), (values, terms)

  experts = private_experts(family=family)
  size = len(patterns)
  tile = lambda a: jnp.tile(a, (size // ROWS, 1, 1))  # noqa: E731
  experts = Experts(
    shared=jax.tree.map(tile, experts.shared),
    present=jnp.asarray(patterns),
    private=jax.tree.map(tile, experts.private) if name == 'mmvaeplus' else None,
    auxiliary=experts.auxiliary,
  )
  grad_fn = jax.jit(jax.grad(loss, has_aux=True, allow_int=True))
  gradients, (values, terms) = grad_fn(experts, 3.0)
  _, (others, _) = grad_fn(experts, -40.0)
  np.testing.assert_array_equal(values, others)
  assert np.isfinite(values).all()
  assert values[0] == 0
  assert (values[1:] != 0).all()
  assert all(np.isfinite(term).all() for term in terms.values())
  for leaf in (gradients.shared.mean, gradients.shared.log_var):
    assert np.isfinite(leaf).all()
    assert (np.asarray(leaf)[~patterns] == 0).all()
  assert (np.asarray(gradients.shared.mean)[patterns] != 0).all()


@pytest.mark.parametrize(
  'spec',
  [
    dict(name='mmvae', num_samples=0),
    dict(name='mmvae', estimator='iwea'),
    dict(name='mopoe', max_subsets=0),
    dict(name='mopoe', prior_expert='some'),
    dict(name='mvae', num_random_subsets=-1),
    dict(name='mvtcae', alpha=1.5),
  ],
)
def test_arguments_out_of_range(spec):
  with pytest.raises(UserError):
    build(OBJECTIVES, spec)


@pytest.mark.parametrize('name', OBJECTIVES)
def test_posterior_given_some(name):
  objective = OBJECTIVES[name]()
  shared = single_posteriors()
  present = jnp.array([[0, 0, 0], [0, 1, 0], [1, 0, 1], [1, 1, 1]], bool)
  keys = jax.random.split(jax.random.key(0), ROWS)
  q = objective.posterior(keys, Experts(shared=shared, present=present))
  np.testing.assert_array_equal(q.mean[0], 0.0)
  np.testing.assert_array_equal(q.log_var[0], 0.0)
  if name != 'mvae':
    np.testing.assert_allclose(q.mean[1], shared.mean[1, 1], rtol=1e-5)
  if name == 'hoelder':
    # One of the two, or what lies between them.
    low, high = sorted((float(shared.mean[2, 0, 0]), float(shared.mean[2, 2, 0])))
    assert low - 1e-6 <= float(q.mean[2, 0]) <= high + 1e-6
  if name in ('mmjsd', 'mmvae', 'mmvaeplus'):
    assert float(q.mean[2, 0]) in (float(shared.mean[2, 0, 0]), shared.mean[2, 2, 0])
