"""Densities against scipy, and numbers of published programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from mmsbm.distributions import (
  LIKELIHOODS,
  Bernoulli,
  Categorical,
  DiagGaussian,
  DiagLaplace,
  Laplace,
  Normal,
)
from mmsbm.infra.errors import UserError


def wave(shape, offset, step):
  """Inputs for which the published programs' values are known."""
  flat = np.sin(offset + step * np.arange(np.prod(shape)))
  return flat.reshape(shape).astype(np.float32)


MEANS = wave((3, 2, 2), 0.3, 0.7)
LOG_VARS = 0.8 * wave((3, 2, 2), 1.1, 0.5)


def test_kl_equals_the_published_programs():
  posterior = DiagGaussian(jnp.asarray(MEANS), jnp.asarray(LOG_VARS))
  kl = posterior.kl_to_prior()
  np.testing.assert_allclose(kl[0], [0.773798, 0.920984], rtol=1e-5)
  np.testing.assert_allclose(kl.mean(), 0.690649, rtol=1e-5)
  one, two = (DiagGaussian(MEANS[i], LOG_VARS[i]) for i in range(2))
  np.testing.assert_allclose(one.kl_to(two), [2.190738, 7.737342], rtol=1e-5)


@pytest.mark.parametrize(
  ('likelihood', 'x', 'expected'),
  [
    (Normal(scale=0.75), MEANS[1], [-3.197313, -6.869583]),
    (Laplace(scale=0.75), MEANS[1], [-3.087288, -5.515080]),
    (Bernoulli(), (MEANS[1] > 0).astype(np.float32), [-1.756162, -2.394033]),
    (Categorical(), np.eye(2, dtype=np.float32), [-1.002927, -0.863694]),
  ],
  ids=['normal', 'laplace', 'bernoulli', 'categorical'],
)
def test_log_prob_equals_the_published_programs(likelihood, x, expected):
  value = likelihood.log_prob(jnp.asarray(MEANS[0]), jnp.asarray(x))
  np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize(
  ('family', 'reference', 'kurtosis'),
  [
    (DiagGaussian, scipy.stats.norm, 3),
    # Of unit variance.
    (DiagLaplace, lambda m, std: scipy.stats.laplace(m, std / np.sqrt(2)), 6),
  ],
  ids=['normal', 'laplace'],
)
def test_density_divergence_and_draws_of_a_posterior(family, reference, kurtosis):
  posterior = family(jnp.array([[0.7, -1.2]]), jnp.array([[-1.0, 0.6]]))
  mean, std = np.asarray(posterior.mean), np.exp(0.5 * np.asarray(posterior.log_var))
  z, step = np.linspace(-20, 20, 40_001, retstep=True)
  log_prob = reference(mean, std).logpdf(z[:, None])
  value = posterior.log_prob(jnp.stack([z, z], axis=-1))
  np.testing.assert_allclose(value, log_prob.sum(-1), rtol=1e-5)
  # From the prior, and from any other.
  other = family(jnp.array([[-0.4, 0.9]]), jnp.array([[0.8, -0.3]]))
  for kl, *moments in (
    (posterior.kl_to_prior(), np.zeros(2), np.ones(2)),
    (posterior.kl_to(other), other.mean, np.exp(0.5 * other.log_var)),
  ):
    ratio = log_prob - reference(*moments).logpdf(z[:, None])
    np.testing.assert_allclose(kl, (np.exp(log_prob) * ratio).sum() * step, rtol=1e-4)
  keys = jax.random.split(jax.random.key(0), 100_000)
  draws = np.asarray(jax.jit(jax.vmap(posterior.sample))(keys))[:, 0]
  np.testing.assert_allclose(draws.mean(0), mean[0], atol=4 * std.max() / 316)
  error = np.sqrt((kurtosis - 1) / len(draws)) / 2
  np.testing.assert_allclose(draws.std(0), std[0], rtol=4 * error)


@pytest.mark.parametrize(
  ('likelihood', 'reference'),
  [
    (Normal(scale=0.3), scipy.stats.norm(scale=0.3)),
    (Laplace(scale=2.0), scipy.stats.laplace(scale=2.0)),
  ],
  ids=['normal', 'laplace'],
)
def test_log_prob_sums_over_all_entries_of_an_example(likelihood, reference):
  output, x = wave((2, 3, 4, 1), 0.1, 0.3), wave((2, 3, 4, 1), 1.0, 0.7)
  expected = reference.logpdf(x - output).reshape(2, -1).sum(-1)
  value = likelihood.log_prob(jnp.asarray(output), jnp.asarray(x))
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_array_equal(likelihood.mean(jnp.asarray(output)), output)


def test_probabilities_sum_to_one_and_give_the_mean():
  logits = jnp.array([[1.3, -0.4, 0.2]])
  categories = jnp.eye(3)
  prob = jnp.exp(Categorical().log_prob(jnp.tile(logits, (3, 1)), categories))
  np.testing.assert_allclose(prob.sum(), 1.0, rtol=1e-6)
  np.testing.assert_allclose(Categorical().mean(logits)[0], prob, rtol=1e-6)
  outcomes = jnp.array([[a, b] for a in (0.0, 1.0) for b in (0.0, 1.0)])
  logits = jnp.array([[0.9, -2.0]])
  prob = jnp.exp(Bernoulli().log_prob(jnp.tile(logits, (4, 1)), outcomes))
  np.testing.assert_allclose(prob.sum(), 1.0, rtol=1e-6)
  np.testing.assert_allclose(Bernoulli().mean(logits)[0], prob @ outcomes, rtol=1e-6)


def test_extreme_logits_give_finite_values_and_gradients():
  logits = jnp.array([[200.0, -200.0]])
  for likelihood in (Bernoulli(), Categorical()):
    for x in (jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])):
      value, grad = jax.value_and_grad(
        lambda o, x=x, p=likelihood: p.log_prob(o, x)[0]
      )(logits)
      assert np.isfinite(value) and np.isfinite(grad).all()


def test_the_table_has_every_likelihood():
  assert set(LIKELIHOODS) == {'normal', 'laplace', 'bernoulli', 'categorical'}


@pytest.mark.parametrize('likelihood', [Normal, Laplace])
def test_likelihood_refuses_a_scale_that_is_not_positive(likelihood):
  for scale in (0.0, -1.0):
    with pytest.raises(UserError, match=f'scale={scale} must be positive'):
      likelihood(scale=scale)
