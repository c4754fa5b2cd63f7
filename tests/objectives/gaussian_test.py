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
import scipy.special
import scipy.stats

from mmsbm.config import build
from mmsbm.distributions import DiagGaussian, DiagLaplace
from mmsbm.fusion import all_subsets
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
PATTERNS = np.array(list(itertools.product([False, True], repeat=3)))
DRAWS = 4_000


def evidence(x, members=(0, 1, 2)):
  """log p(x_S) [B] of the modalities S."""
  chosen = np.asarray(members)
  slopes = SLOPES[chosen]
  cov = np.outer(slopes, slopes) + np.diag(NOISE[chosen] ** 2)
  normal = scipy.stats.multivariate_normal(np.zeros(len(slopes)), cov)
  return np.atleast_1d(normal.logpdf(x[:, chosen]))


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


def mean_terms(objective, experts, fn=log_likelihood, draws=DRAWS):
  """Means [3, B] of loss, reconstruction and divergence, and their standard errors."""
  keys = jax.random.split(jax.random.key(1), draws)

  def run(key):
    loss, terms = objective(key, experts, fn)
    return jnp.stack([loss, terms['reconstruction'], terms['divergence']])

  values = np.asarray(jax.jit(jax.vmap(run))(keys), np.float64)
  return values.mean(0), values.std(0) / math.sqrt(draws)


def mean_loss(*args, **kwargs):
  """Mean loss [B] over draws of z, and its standard error."""
  mean, error = mean_terms(*args, **kwargs)
  return mean[0], error[0]


def every_pattern(experts):
  """Experts, as numpy arrays, and x of eight rows, one for each pattern."""

  def tile(a):
    return np.tile(a, (2, 1, 1))

  shared, private = (jax.tree.map(tile, e) for e in (experts.shared, experts.private))
  auxiliary = jax.tree.map(np.asarray, experts.auxiliary)
  return Experts(shared, PATTERNS, private, auxiliary), np.tile(X, (2, 1))


# --- exact losses -------------------------------------------------------------

# A density of z is its logarithm on a grid, [G].
GRID, STEP = np.linspace(-15, 15, 6001, retstep=True)


def expected(log_q, values):
  return (np.exp(log_q) * values).sum() * STEP


def kl(log_q, log_p):
  return expected(log_q, log_q - log_p)


def normalised(log_density):
  return log_density - scipy.special.logsumexp(log_density) - math.log(STEP)


def mixture(each):
  return scipy.special.logsumexp(each, axis=0) - math.log(len(each))


def densities(posterior, row=()):
  """log densities of all experts of a row, [M, G]."""
  mean, log_var = (np.float64(a)[row] for a in (posterior.mean, posterior.log_var))
  std = np.exp(0.5 * log_var)
  if isinstance(posterior, DiagLaplace):
    return scipy.stats.laplace(mean, std / math.sqrt(2)).logpdf(GRID)
  return scipy.stats.norm(mean, std).logpdf(GRID)


def mopoe_product(objective, each, prior):
  full = len(each) == len(SLOPES)
  factor = {'none': 0, 'all': 1, 'full': full}[objective.prior_expert]
  return normalised(each.sum(0) + factor * prior)


def mmjsd_posterior(objective, each, prior):
  if objective.inference == 'mixture' or len(each) == 1:
    return mixture(each)
  # The weighted geometric mean with the prior as one more expert.
  members = [*each, prior] if objective.prior_expert else each
  return normalised(np.mean(members, axis=0))


# log q(z | X) from the experts of what is present, [n, G], and the prior.
EXACT_POSTERIORS = {
  MVAE: lambda objective, each, prior: normalised(each.sum(0) + prior),
  MVTCAE: lambda objective, each, prior: normalised(each.sum(0)),
  MoPoE: mopoe_product,
  MMJSD: lambda objective, each, prior: mmjsd_posterior(objective, each, prior),
  Hoelder: lambda objective, each, prior: normalised(2 * mixture(each / 2)),
  MMVAE: lambda objective, each, prior: mixture(each),
  MMVAEPlus: lambda objective, each, prior: mixture(each),
}


def exact_mvae(objective, each, prior, log_p):
  def parts(used):
    q = EXACT_POSTERIORS[MVAE](objective, each[used], prior)
    return np.array([-expected(q, log_p[0, used].sum(0)), kl(q, prior)])

  subsets = all_subsets(len(each))
  total = parts(subsets[-1])
  total = total + objective.single_terms * sum(parts(s) for s in subsets[: len(each)])
  total += objective.num_random_subsets * np.mean([parts(s) for s in subsets], axis=0)
  return total[0] + objective.beta * total[1], *parts(subsets[-1])


def exact_mvtcae(objective, each, prior, log_p):
  q, share = normalised(each.sum(0)), objective.alpha / len(SLOPES)
  reconstruction = -expected(q, log_p[0].sum(0))
  divergence = (1 - objective.alpha) * kl(q, prior) + share * sum(
    kl(q, one) for one in each
  )
  loss = (1 - share) * reconstruction + objective.beta * divergence
  return loss, reconstruction, divergence


def exact_mopoe(objective, each, prior, log_p):
  products = [mopoe_product(objective, each[s], prior) for s in all_subsets(len(each))]
  reconstruction = np.mean([-expected(q, log_p[0].sum(0)) for q in products])
  divergence = np.mean([kl(q, prior) for q in products])
  return reconstruction + objective.beta * divergence, reconstruction, divergence


def exact_mmjsd(objective, each, prior, log_p):
  experts = np.concatenate([each, prior[None]]) if objective.prior_expert else each
  f = normalised(experts.mean(0))
  reconstruction = np.mean([-expected(q, log_p[0].sum(0)) for q in each])
  divergence = np.mean([kl(q, f) for q in experts])
  return reconstruction + objective.beta * divergence, reconstruction, divergence


def exact_hoelder(objective, each, prior, log_p):
  q = EXACT_POSTERIORS[Hoelder](objective, each, prior)
  reconstruction, divergence = -expected(q, log_p[0].sum(0)), kl(q, prior)
  return reconstruction + objective.beta * divergence, reconstruction, divergence


def exact_mmvae(objective, each, prior, log_p):
  """Of one draw, or of several in the estimator 'elbo'."""
  pairs = zip(each, np.broadcast_to(log_p.sum(1), each.shape), strict=True)
  reconstruction = np.mean([-expected(q, values) for q, values in pairs])
  divergence = objective.beta * kl(mixture(each), prior)
  return reconstruction + divergence, reconstruction, divergence


EXACT_LOSSES = {
  MVAE: exact_mvae,
  MVTCAE: exact_mvtcae,
  MoPoE: exact_mopoe,
  MMJSD: exact_mmjsd,
  Hoelder: exact_hoelder,
  MMVAE: exact_mmvae,
  MMVAEPlus: exact_mmvae,
}


def exact_terms(objective, experts):
  """(loss, reconstruction, divergence) [3, B], from what is present alone.

  Row i is of X[i], or X[i - ROWS]. With private latents w_n of source m:

    E log p(x_n | z, w_n) = log N(x_n; a_n z + E w_n, s_n^2) - Var w_n / (2 s_n^2).
  """
  experts = jax.tree.map(np.asarray, experts)
  out = np.zeros((3, len(experts.present)))
  prior = densities(experts.shared.prior_like(np.zeros(1)))
  for row, present in enumerate(experts.present):
    own = np.flatnonzero(present)
    if not len(own):
      continue
    w_mean, w_var, private_kl = np.zeros((1, 3)), np.zeros((1, 3)), 0.0
    if isinstance(objective, MMVAEPlus):
      q, r = experts.private, experts.auxiliary
      pairs = [(q.mean[row], r.mean), (np.exp(q.log_var[row]), np.exp(r.log_var))]
      is_source = np.eye(3, dtype=bool)[own]
      w_mean, w_var = (np.where(is_source, a[:, 0], b[:, 0]) for a, b in pairs)
      private_kl = objective.beta * np.mean(q.kl_to_prior()[row, own])
    residual = (X[row % ROWS] - w_mean)[..., None] - SLOPES[:, None] * GRID
    log_p = scipy.stats.norm.logpdf(residual, scale=NOISE[:, None])
    log_p -= (w_var / NOISE**2 / 2)[..., None]
    out[:, row] = EXACT_LOSSES[type(objective)](
      objective, densities(experts.shared, row)[own], prior, log_p[:, own]
    )
    out[[0, 2], row] += private_kl
  return out


@pytest.mark.parametrize(
  ('objective', 'family'),
  [
    (MVAE(beta=0.6), DiagGaussian),
    (MVTCAE(alpha=0.4, beta=1.5), DiagGaussian),
    (MVTCAE(alpha=0.0, beta=1.0), DiagGaussian),
    (MoPoE(beta=0.7), DiagGaussian),
    (MoPoE(beta=1.0, prior_expert='full'), DiagGaussian),
    (MMJSD(beta=0.5), DiagGaussian),
    (MMJSD(beta=2.0, prior_expert=False), DiagGaussian),
    (Hoelder(beta=2.5), DiagGaussian),
    (Hoelder(beta=0.8, max_pairs=1), DiagGaussian),
    (MMVAE(estimator='elbo', num_samples=2, beta=0.5), DiagGaussian),
    (MMVAEPlus(estimator='elbo', beta=1.5), DiagLaplace),
  ],
  ids=[
    'mvae', 'mvtcae', 'mvtcae_elbo', 'mopoe', 'mopoe_full', 'mmjsd', 'mmjsd_no_prior',
    'hoelder', 'hoelder_drawn', 'mmvae', 'mmvaeplus',
  ],
)  # fmt: skip
def test_mean_losses_are_exact_for_every_pattern(objective, family):
  """Those of the model of what is present alone, and 0 of nothing."""
  experts, x = every_pattern(private_experts(family=family))
  auxiliary = family(np.full((3, 1), 0.4), np.full((3, 1), -0.7))
  experts = jax.tree.map(jnp.asarray, experts.replace(auxiliary=auxiliary))
  fn = lambda z, w: log_likelihood(z, w, x, PATTERNS)  # noqa: E731
  mean, error = mean_terms(objective, experts, fn)
  difference = np.abs(mean - exact_terms(objective, experts))
  # What is not drawn has no error.
  assert (difference < 4 * error + 2e-5 * np.abs(mean) + 1e-5).all()
  assert (error < 0.1).all()


# --- bounds -------------------------------------------------------------------

JOINT = MVAE(single_terms=False, num_random_subsets=0)


def likelihood_of_sets(objective):
  """Sum of log p(x_S) over the sets S of MVAE, [B]."""
  subsets = [np.flatnonzero(s) for s in all_subsets(3)]
  each = np.stack([evidence(X, s) for s in subsets])
  whole = each[-1] + objective.single_terms * each[:3].sum(0)
  return whole + objective.num_random_subsets * each.mean(0)


@pytest.mark.parametrize('objective', [JOINT, MVAE()], ids=['joint', 'default'])
def test_product_with_the_prior_is_the_exact_posterior(objective):
  experts = Experts(shared=likelihood_factors(), present=EVERYTHING)
  q = objective.posterior(None, experts)
  precision = 1 + ((SLOPES / NOISE) ** 2).sum()
  np.testing.assert_allclose(q.log_var, -math.log(precision), rtol=1e-5)
  mean = (SLOPES * X / NOISE**2).sum(-1) / precision
  np.testing.assert_allclose(q.mean[:, 0], mean, rtol=1e-5)
  # The bound of the exact posterior is the likelihood, of every set in the loss.
  loss, error = mean_loss(objective, experts)
  assert (np.abs(loss + likelihood_of_sets(objective)) < 4 * error + 1e-5).all()
  # That of any other lies below it.
  other = experts.replace(shared=single_posteriors())
  assert (exact_terms(objective, other)[0] > 0.01 - likelihood_of_sets(objective)).all()


@pytest.mark.parametrize(
  'objective',
  [
    JOINT,
    MVTCAE(alpha=0.0, beta=1.0),
    MoPoE(beta=1.0),
    MoPoE(beta=1.0, prior_expert='all'),
    MoPoE(beta=1.0, prior_expert='full'),
    Hoelder(beta=1.0),
    MMVAE(estimator='elbo'),
  ],
  ids=['mvae', 'mvtcae', 'mopoe', 'mopoe_all', 'mopoe_full', 'hoelder', 'mmvae'],
)
def test_exact_losses_are_bounds_for_every_pattern(objective):
  experts, _ = every_pattern(Experts(shared=single_posteriors(), present=EVERYTHING))
  loss, _, _ = exact_terms(objective, experts)
  for row, present in enumerate(PATTERNS[1:], start=1):
    exact = evidence(X[[row % ROWS]], np.flatnonzero(present))
    assert loss[row] > -exact - 1e-9


@pytest.mark.parametrize('family', [DiagGaussian, DiagLaplace])
def test_several_draws_give_a_bound_between_one_and_the_likelihood(family):
  experts = Experts(shared=single_posteriors(family), present=EVERYTHING)
  loss, error = mean_loss(MMVAE(num_samples=3), experts)
  prior = densities(experts.shared.prior_like(np.zeros(1)))
  log_p = np.asarray(log_likelihood(GRID[:, None, None]), np.float64).sum(-1)
  exact = scipy.special.logsumexp(log_p + prior[:, None], axis=0) + math.log(STEP)
  if family is DiagGaussian:
    np.testing.assert_allclose(exact, evidence(X), rtol=1e-5)
  assert (loss > -exact - 4 * error).all()
  one = exact_terms(MMVAE(), experts)[0]
  assert (loss < one + 4 * error).all()
  assert loss.mean() < one.mean() - 0.1


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


def test_jensen_shannon_is_a_bound_under_its_dynamic_prior():
  experts = Experts(shared=single_posteriors(), present=EVERYTHING)
  objective = MMJSD(prior_expert=False)
  _, f = objective.divergence(experts)
  log_p = np.asarray(log_likelihood(GRID[:, None, None]), np.float64).sum(-1)
  exact = scipy.special.logsumexp(log_p.T + densities(f), axis=-1) + math.log(STEP)
  assert (exact_terms(objective, experts)[0] > -exact).all()
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


@pytest.mark.parametrize('max_pairs', [1, 2, 3])
def test_hoelder_trains_the_weights_of_its_components(max_pairs):
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
    return Hoelder(beta=1.0, max_pairs=max_pairs)(key, own, fn)[0].sum()

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


def test_what_all_pairs_have_in_common_makes_no_noise():
  """Drawn weights do not add up to one; a constant likelihood is no part of that."""
  experts, _ = every_pattern(Experts(shared=single_posteriors(), present=EVERYTHING))
  experts = jax.tree.map(jnp.asarray, experts)

  def total(mean, constant):
    own = experts.replace(shared=experts.shared.replace(mean=mean))
    fn = lambda z, w: jnp.where(PATTERNS, -jnp.square(z) + constant, 0.0)  # noqa: E731
    return Hoelder(max_pairs=1)(jax.random.key(3), own, fn)[0]

  mean = experts.shared.mean
  shift = total(mean, 64.0) - total(mean, 0.0)
  np.testing.assert_allclose(shift, -64.0 * PATTERNS.sum(-1), rtol=1e-4)
  gradients = [
    jax.grad(lambda m, c=constant: total(m, c).sum())(mean) for constant in (0.0, 64.0)
  ]
  np.testing.assert_allclose(*gradients, rtol=1e-3, atol=1e-3)


def test_random_subsets_estimate_the_divergence_of_all():
  experts = Experts(shared=single_posteriors(), present=EVERYTHING.at[0, 2].set(False))
  exact = MoPoE().divergence(None, experts)
  drawn = MoPoE(max_subsets=6).divergence
  keys = jax.random.split(jax.random.key(0), DRAWS)
  values = np.asarray(jax.jit(jax.vmap(lambda key: drawn(key, experts)))(keys))
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
  assert (exact_terms(MMVAEPlus(), private_experts())[0] > -exact).all()


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


# --- gradients ----------------------------------------------------------------


def gradients(objective, modalities, draws):
  """Of the mean loss by the mean and log_var of every expert, and their errors."""
  experts = jax.tree.map(lambda a: a[:1, :modalities], private_experts())
  moments = jax.tree.map(lambda a: a + 0.2, (experts.shared, experts.private))
  if not isinstance(objective, MMVAEPlus):
    moments = moments[:1]

  def loss(moments, key):
    own = experts.replace(**dict(zip(('shared', 'private'), moments, strict=False)))
    fn = lambda z, w: log_likelihood(z, w, x=X[:1], present=True)  # noqa: E731
    return objective(key, own, lambda z, w: fn(z, w)[..., :modalities])[0].sum()

  keys = jax.random.split(jax.random.key(5), draws)
  each = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(moments, keys)
  each = np.concatenate([a.reshape(draws, -1) for a in jax.tree.leaves(each)], axis=1)
  return each.mean(0, dtype=np.float64), each.std(0) / math.sqrt(draws)


@pytest.mark.parametrize(
  ('kind', 'modalities', 'number', 'beta'),
  [(MMVAEPlus, 1, 5, 1.0), (MMVAE, 3, 1, 1.0), (MMVAE, 1, 5, 0.5)],
)
def test_dreg_is_unbiased_and_of_less_variance(kind, modalities, number, beta):
  kw = dict(num_samples=number, beta=beta)
  iwae, error = gradients(kind(**kw), modalities, 100_000)
  dreg, dreg_error = gradients(kind(estimator='dreg', **kw), modalities, 100_000)
  assert (np.abs(iwae - dreg) < 4 * np.hypot(error, dreg_error)).all()
  assert (np.abs(iwae) > 5 * error).all()
  if beta == 1:
    assert np.square(dreg_error).sum() < np.square(error).sum()


def test_dreg_of_private_latents_by_its_formula():
  """arXiv 1810.04152, eq. 8: -mean_m sum_k v_k (1 - beta + beta v_k) d log w_k / d z_k.

  z_k stands for the draws of the encoders, v_k is the normalised weight. Auxiliary
  priors have the gradient of 'iwae', whose value 'dreg' has.
  """
  number, beta, key = 4, 0.7, jax.random.key(0)
  dreg, iwae = (
    MMVAEPlus(estimator=name, num_samples=number, beta=beta)
    for name in ('dreg', 'iwae')
  )
  experts = private_experts()

  def loss_fn(objective):
    def fn(moments):
      shared, private, auxiliary = moments
      own = Experts(shared, EVERYTHING, private, auxiliary)
      return objective(key, own, log_likelihood)[0].sum()

    return jax.jit(jax.value_and_grad(fn))

  moments = (experts.shared, experts.private, experts.auxiliary)
  loss, (shared, private, auxiliary) = loss_fn(dreg)(moments)
  value, (*_, auxiliary_iwae) = loss_fn(iwae)(moments)
  np.testing.assert_allclose(loss, value, rtol=1e-5)
  np.testing.assert_allclose(auxiliary.log_var, auxiliary_iwae.log_var, rtol=1e-4)
  assert (np.abs(auxiliary.log_var) > 1e-3).all()

  def log_weights(latents):
    log_w, _ = iwae.log_weights(experts, experts, log_likelihood, latents)
    return log_w.sum(), log_w

  (z, w) = latents = iwae.draws(key, experts)
  (by_z, by_w), log_w = jax.jit(jax.grad(log_weights, has_aux=True))(latents)
  v = jax.nn.softmax(log_w, axis=0)
  scale = (-v * (1 - beta + beta * v) / 3)[..., None]
  # Of every source its own: [K, M, B, p].
  own = lambda a: jnp.einsum('kmbmp->kmbp', a)  # noqa: E731
  cases = ((shared, moments[0], z, by_z), (private, moments[1], own(w), own(by_w)))
  for got, q, draw, gradient in cases:
    by_mean = scale * gradient
    by_log_var = by_mean * 0.5 * (draw - q.mean.swapaxes(0, 1))
    expected = by_mean.sum(0).swapaxes(0, 1)
    np.testing.assert_allclose(got.mean, expected, rtol=1e-3, atol=1e-5)
    expected = by_log_var.sum(0).swapaxes(0, 1)
    np.testing.assert_allclose(got.log_var, expected, rtol=1e-3, atol=1e-5)


# --- invariances --------------------------------------------------------------

# Those whose terms are not chosen at random, under `same_noise`.
NOT_RANDOM = {
  'mvae': MVAE(num_random_subsets=0, beta=0.5),
  'mvtcae': MVTCAE(),
  'hoelder': Hoelder(),
  'mmvae': MMVAE(num_samples=3),
  'mmvaeplus': MMVAEPlus(num_samples=3, beta=2.0),
}


@pytest.fixture
def same_noise(monkeypatch):
  """Noise that is a function of the key alone: of all experts, in any precision."""

  def sample(self, key):
    noise = jax.random.normal(key, dtype=jnp.float32).astype(self.mean.dtype)
    return self.mean + jnp.exp(0.5 * self.log_var) * noise

  monkeypatch.setattr(DiagGaussian, 'sample', sample)


@pytest.mark.parametrize('name', NOT_RANDOM)
def test_order_absence_and_precision_do_not_change_a_loss(name, same_noise):
  experts, x = every_pattern(private_experts())

  def loss(experts, x, slopes, noise):
    def fn(z, w):
      mean = slopes * z + (0.0 if w is None else w[..., 0])
      log_p = -0.5 * ((x - mean) / noise) ** 2 - jnp.log(noise)
      return jnp.where(experts.present, log_p, 0.0)

    return NOT_RANDOM[name](jax.random.key(0), experts, fn)[0]

  def arguments(modalities, rows=slice(None)):
    of_row = lambda a: a[rows][:, modalities]  # noqa: E731
    auxiliary = jax.tree.map(lambda a: a[modalities], experts.auxiliary)
    own = jax.tree.map(of_row, experts.replace(auxiliary=None))
    own = own.replace(auxiliary=auxiliary)
    return own, of_row(x), SLOPES[modalities], NOISE[modalities]

  run, everything = jax.jit(loss), arguments([0, 1, 2])
  values = np.asarray(run(*everything))
  close = dict(rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(run(*arguments([2, 0, 1])), values, **close)
  if name in ('mmvae', 'mmvaeplus'):  # Of the others the mean losses say it.
    row = [PATTERNS.tolist().index([True, False, True])]
    np.testing.assert_allclose(run(*arguments([0, 2], row)), values[row], **close)
  with jax.enable_x64(True):
    double = jax.tree.map(lambda a: a if a.dtype == bool else np.float64(a), everything)
    again = run(*double)
    assert again.dtype == np.float64
    np.testing.assert_allclose(again, values, **close)


# --- missing modalities -------------------------------------------------------


DREG = dict(estimator='dreg', num_samples=3)


@pytest.mark.parametrize(
  'name,options',
  [
    *((name, {}) for name in OBJECTIVES), ('mmvae', DREG), ('mmvaeplus', DREG),
    ('mopoe', dict(max_subsets=2)),
  ],
)  # fmt: skip
def test_every_pattern_of_missing_modalities(name, options):
  """Finite, and without influence of what is absent; with nothing, without gradient."""
  objective, key = OBJECTIVES[name](**options), jax.random.key(0)
  family = DiagLaplace if objective.families is None else DiagGaussian
  experts, x = every_pattern(private_experts(family=family))
  if name != 'mmvaeplus':
    experts = experts.replace(private=None, auxiliary=None)

  def loss(experts, junk):
    fill = lambda a: jnp.where(PATTERNS[..., None], a, junk)  # noqa: E731
    shared, private = (jax.tree.map(fill, e) for e in (experts.shared, experts.private))
    values, terms = objective(
      key,
      experts.replace(shared=shared, private=private),
      lambda z, w: log_likelihood(z, w, x, PATTERNS),
    )
    return values.sum(), (values, terms)

  grad_fn = jax.jit(jax.grad(loss, has_aux=True, allow_int=True))
  gradients, (values, terms) = grad_fn(experts, 3.0)
  _, (others, _) = grad_fn(experts, -40.0)
  np.testing.assert_array_equal(values, others)
  assert np.isfinite(values).all()
  assert values[0] == 0
  assert (values[1:] != 0).all()
  assert all(np.isfinite(term).all() for term in terms.values())
  for leaf in jax.tree.leaves((gradients.shared, gradients.private)):
    assert np.isfinite(leaf).all()
    assert (np.asarray(leaf)[~PATTERNS] == 0).all()
    assert (np.asarray(leaf)[PATTERNS] != 0).all()
  for leaf in jax.tree.leaves(gradients.auxiliary):
    assert np.isfinite(leaf).all()
    assert (np.asarray(leaf) != 0).any()


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


@pytest.mark.parametrize(
  'objective',
  [
    *(kind() for kind in OBJECTIVES.values()),
    *(MoPoE(prior_expert=p) for p in ('all', 'full')),
    MMJSD(prior_expert=False),
    MMJSD(inference='mixture'),
  ],
  ids=[*OBJECTIVES, 'mopoe_all', 'mopoe_full', 'mmjsd_alone', 'mmjsd_mixture'],
)
def test_posterior_for_every_pattern(objective):
  """Its density as a whole, in any order; what is drawn is one component of it."""
  experts, _ = every_pattern(Experts(shared=single_posteriors(), present=EVERYTHING))
  keys = jax.random.split(jax.random.key(0), len(PATTERNS))
  q = jax.jit(objective.posterior)(keys, experts)
  grid = np.arange(2500, 3500, 20)
  z = np.broadcast_to(np.float32(GRID[grid, None, None]), (len(grid), 8, 1))
  log_density_fn = jax.jit(jax.vmap(objective.log_density, (None, 0)))
  log_density = log_density_fn(experts, z)
  prior = scipy.stats.norm.logpdf(GRID)
  for row, present in enumerate(PATTERNS):
    each, exact = densities(experts.shared, row)[present], prior
    if present.any():
      exact = EXACT_POSTERIORS[type(objective)](objective, each, prior)
    np.testing.assert_allclose(log_density[:, row], exact[grid], rtol=1e-4, atol=1e-4)
    components = [exact]
    draws = type(objective) in (MMVAE, MMVAEPlus, Hoelder)
    if isinstance(objective, MMJSD):
      draws = objective.inference == 'mixture'
    if draws and present.any():
      components = [*each]
      if isinstance(objective, Hoelder):
        components += [
          normalised((a + b) / 2) for a, b in itertools.combinations(each, 2)
        ]
    drawn = densities(q, row)
    assert min(np.abs(drawn - c)[grid].max() for c in components) < 1e-3
  other = jax.tree.map(lambda a: a[:, [2, 0, 1]], experts)
  again = log_density_fn(other, z)
  np.testing.assert_allclose(again, log_density, rtol=1e-5, atol=1e-5)
