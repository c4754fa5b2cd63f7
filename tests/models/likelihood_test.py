"""Bounds on linear Gaussian models, whose log likelihood is known."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.config import Section
from mmsbm.diffusion.parametrization import EDM
from mmsbm.diffusion.probability_flow import ProbabilityFlow
from mmsbm.diffusion.process import Diffusion
from mmsbm.diffusion.sde import VE
from mmsbm.distributions import DiagGaussian, Normal
from mmsbm.latents import OBSERVED, LatentLayout
from mmsbm.learners.autoencoder import VAE
from mmsbm.learners.codec import Codec, make_codec
from mmsbm.learners.joint_vae import JointVAE
from mmsbm.learners.latent_score import LatentScore
from mmsbm.modalities import Modality, Vector, make_modalities
from mmsbm.models.joint_vae import JointModel
from mmsbm.models.likelihood import (
  exchange_prior,
  importance_bound,
  joint_log_weight,
  joint_vae_log_weights,
  latent_log_prob,
  vae_log_weights,
)
from mmsbm.models.priors import Standard
from mmsbm.objectives import MMVAE, MVAE, MMVAEPlus

SCALE = 0.7
# Orthogonal rows: the posterior of the latents is diagonal.
WEIGHT = np.array([[1.0, 1.0, 0.0], [0.3, -0.3, 0.8]], np.float32)
BIAS = np.array([0.5, -1.0, 0.2], np.float32)
# Modalities as files hold them are twice what the networks see, plus 1.
KIND = Vector(shape=(3,), offset=1.0, scale=2.0)
SDE = VE(sigma_min=1e-3, sigma_max=1e4)
FLOW = ProbabilityFlow(num_steps=80)


class LinearEncoder(nn.Module):
  """The exact posterior under N(0, I), its mean moved and its variance scaled."""

  move: float = 0.0
  log_scale: float = 0.0

  def __call__(self, x, train):
    precision = jnp.square(WEIGHT).sum(1) / SCALE**2 + 1
    mean = (x - BIAS) @ WEIGHT.T / SCALE**2 / precision + self.move
    return mean, jnp.broadcast_to(self.log_scale - jnp.log(precision), mean.shape)


class LinearDecoder(nn.Module):
  def __call__(self, z, train):
    return z @ WEIGHT + BIAS


def make_vae(name='a', index=0, beta=1.0, **encoder):
  return VAE(codec=codec(name, LinearEncoder(**encoder)), index=index, beta=beta)


def codec(name, encoder):
  return Codec(
    modality=Modality(name=name, kind_name='vector', kind=KIND),
    latent_dim=2,
    encoder=encoder,
    decoder=LinearDecoder(),
    likelihood=Normal(scale=SCALE),
  )


def log_normal(x, mean, cov):
  """log N(x [B, D]; mean, cov), [B]."""
  centered = np.asarray(x, np.float64) - mean
  square = (centered * np.linalg.solve(cov, centered.T).T).sum(-1)
  return -0.5 * (square + np.linalg.slogdet(2 * np.pi * cov)[1])


def raw_examples(num, seed=0):
  x = np.random.default_rng(seed).normal(size=(num, 3)).astype(np.float32)
  return x * 2 + 1, x


def keys(num, seed=0):
  return jax.random.split(jax.random.key(seed), num)


# --- bounds of one VAE ------------------------------------------------------


@pytest.mark.parametrize('num_samples', [1, 7])
def test_the_exact_posterior_gives_the_exact_likelihood(num_samples):
  """Every weight is p(x); the VAE's own beta does not matter."""
  raw, x = raw_examples(30)
  exact = log_normal(x, BIAS, WEIGHT.T @ WEIGHT + SCALE**2 * np.eye(3))
  weights = vae_log_weights(make_vae(beta=4.0), {}, keys(30), raw, num_samples)
  assert weights.shape == (num_samples, 30)
  np.testing.assert_allclose(weights, np.tile(exact, (num_samples, 1)), atol=2e-5)
  np.testing.assert_allclose(importance_bound(weights), exact, atol=2e-5)


def test_the_bound_is_below_and_tightens():
  raw, x = raw_examples(1000)
  exact = log_normal(x, BIAS, WEIGHT.T @ WEIGHT + SCALE**2 * np.eye(3)).mean()
  vae = make_vae(move=0.4, log_scale=0.5)
  weights = vae_log_weights(vae, {}, keys(1000), raw, 400)
  bounds = [float(importance_bound(weights[:k]).mean()) for k in (1, 5, 25, 400)]
  assert bounds[0] < bounds[1] < bounds[2] < bounds[3] < exact + 0.01
  assert exact - bounds[0] > 0.2
  np.testing.assert_allclose(bounds[3], exact, atol=0.01)
  # The evidence lower bound is short of it by KL(q || posterior), in closed form.
  precision = np.square(WEIGHT).sum(1) / SCALE**2 + 1
  gap = 0.5 * (np.exp(0.5) - 1 - 0.5 + 0.4**2 * precision).sum()
  elbo = np.asarray(weights).mean(0)
  error = 4 * np.std(elbo - np.asarray(exact)) / np.sqrt(1000)
  np.testing.assert_allclose(elbo.mean(), exact - gap, atol=error)
  np.testing.assert_allclose(elbo.mean(), exact - gap, atol=0.05)


def test_the_bound_of_small_numbers_is_finite():
  """Weights far below what a float can hold."""
  weights = jnp.array([[-3000.0, 2000.0], [-3001.0, 2001.0]])
  expected = np.array([-3000.0, 2001.0]) + np.log(0.5 * (1 + np.exp(-1)))
  np.testing.assert_allclose(importance_bound(weights), expected, rtol=1e-6)


def test_draws_of_a_row_are_its_own():
  raw, _ = raw_examples(6)
  vae = make_vae(move=0.4)
  whole = np.asarray(vae_log_weights(vae, {}, keys(6), raw, 3))
  part = vae_log_weights(vae, {}, keys(6)[3:5], raw[3:5], 3)
  np.testing.assert_allclose(part, whole[:, 3:5], atol=1e-5)
  assert len(np.unique(whole)) == whole.size


@pytest.mark.parametrize(
  'kind,likelihood',
  [
    (dict(kind='image', shape=(2, 2, 3)), dict(name='normal', scale=0.35)),
    (dict(kind='image', shape=(2, 2, 3)), dict(name='laplace', scale=0.75)),
    (dict(kind='mask', shape=(2, 2, 1)), dict(name='bernoulli')),
    (dict(kind='attributes', shape=(4,)), dict(name='bernoulli')),
    (dict(kind='label', num_classes=5), dict(name='categorical')),
    (dict(kind='vector', shape=(3,), offset=0.0, scale=0.4), dict(name='normal')),
  ],
)
def test_every_kind_of_modality_has_a_bound(kind, likelihood):
  mlp = dict(name='mlp', widths=(8,))
  (modality,) = make_modalities(Section({'a': kind}))
  spec = dict(latent_dim=2, encoder=mlp, decoder=mlp, likelihood=likelihood)
  vae = VAE(codec=make_codec(Section(spec), modality), index=0)
  raw = np.random.default_rng(0).integers(0, 2, (5, *modality.shape))
  raw = raw.astype(modality.kind.dtype)
  variables = jax.jit(vae.init)(jax.random.key(0), {'x': {'a': raw}})
  weights = vae_log_weights(vae, variables, keys(5), raw, 4)
  bound = np.asarray(importance_bound(weights))
  assert bound.shape == (5,) and np.isfinite(bound).all()
  if likelihood['name'] in ('bernoulli', 'categorical'):
    # A probability. What has few values sums to 1 over them, or less for a bound.
    assert (bound < 0).all()
  if modality.kind_name == 'label':
    each = np.arange(5, dtype=np.int32)
    weights = vae_log_weights(vae, variables, keys(5), each, 4000)
    total = np.exp(importance_bound(weights)).sum()
    np.testing.assert_allclose(total, 1.0, atol=0.02)


# --- the posterior with another prior ---------------------------------------


def test_a_prior_is_exchanged_as_bayes_has_it():
  """One observation of each latent, under N(0, 1) and under N(mean, std^2)."""
  noise, seen = np.array([0.2, 3.0]), np.array([1.5, -0.7])
  mean, std = np.array([0.4, -2.0]), np.array([0.5, 1.7])

  def posterior(mean, std):
    precision = 1 / std**2 + 1 / noise**2
    return (mean / std**2 + seen / noise**2) / precision, -np.log(precision)

  old = DiagGaussian(*(jnp.asarray(a) for a in posterior(0.0, np.ones(2))))
  new = exchange_prior(old, mean, std)
  expected = posterior(mean, std)
  np.testing.assert_allclose(new.mean, expected[0], rtol=1e-5)
  np.testing.assert_allclose(new.log_var, expected[1], rtol=1e-5)


def test_what_is_ignored_gets_the_new_prior():
  old = DiagGaussian(jnp.array([0.1, 0.1]), jnp.array([0.0, 0.3]))
  new = exchange_prior(old, jnp.array([0.1, 5.0]), jnp.array([1e-6, 2.0]))
  np.testing.assert_allclose(new.mean, [0.1, 5.0], rtol=1e-5)
  np.testing.assert_allclose(new.log_var, 2 * np.log([1e-6, 2.0]), rtol=1e-5)


# --- the score model --------------------------------------------------------

MEAN = np.array([0.3, -0.2, 0.1, 0.5], np.float32)
COV = np.array(
  [
    [1.0, 0.0, 0.6, 0.2],
    [0.0, 0.8, -0.3, 0.1],
    [0.6, -0.3, 1.2, 0.0],
    [0.2, 0.1, 0.0, 0.9],
  ],
  np.float32,
)


class GaussianNet(nn.Module):
  """What the `edm` network is for N(mean, cov), observed latents clean at time 0."""

  mean: tuple[float, ...]
  cov: tuple[tuple[float, ...], ...]
  layout: LatentLayout

  def __call__(self, z, t, role, train):
    mean, cov = jnp.asarray(self.mean), jnp.asarray(self.cov)
    t, role = self.layout.expand(t), self.layout.expand(role)
    # Observed latents have the noise of their own time, none at 0; all others that
    # of the row, so that a wrong role or time shows.
    own = jnp.where(t > 0, SDE.sigma(t), 0.0)
    common = SDE.sigma(t.max(1, keepdims=True))
    noise = jnp.where(role == OBSERVED, own, common)
    # The input is z / r, as every dimension's time has it.
    sigma = SDE.sigma(t)
    r = jnp.sqrt(1 + jnp.square(sigma))
    total = cov + jnp.square(noise)[:, :, None] * jnp.eye(len(mean))
    score = -jnp.linalg.solve(total, (z * r - mean)[..., None])[..., 0]
    return (score + z / r) * sigma * r


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
  """What the bounds ask of a ScoreBasedModel."""

  autoencoders: tuple
  score: LatentScore

  @property
  def layout(self):
    return self.score.layout


def make_model(mean=MEAN, cov=COV, **encoder):
  """Two linear VAEs under a Gaussian score model of their standardised latents."""
  layout = LatentLayout((2, 2))
  network = GaussianNet(tuple(mean.tolist()), tuple(map(tuple, cov.tolist())), layout)
  return Model(
    autoencoders=(make_vae('a', 0, **encoder), make_vae('b', 1, **encoder)),
    score=LatentScore(
      network=network,
      layout=layout,
      diffusion=Diffusion(sde=SDE, parametrization=EDM(), times=None, weighting='edm'),
      condition_probability=0.5,
    ),
  )


def make_variables(mean, std):
  return {
    'unimodal': {'a': {}, 'b': {}},
    'score': {},
    'latents': {'mean': jnp.asarray(mean), 'std': jnp.asarray(std)},
  }


def test_the_density_of_latents_given_others():
  """Of modalities, through the score model with its roles and times."""
  model, variables = make_model(), make_variables(np.zeros(4), np.ones(4))
  z = np.random.default_rng(0).multivariate_normal(MEAN, COV, 12).astype(np.float32)
  observed = np.tile(np.array([[False, False], [True, False], [False, True]]), (4, 1))
  got, _ = latent_log_prob(model, FLOW, variables, keys(12), z, observed)
  joint = log_normal(z, MEAN, COV)
  first = log_normal(z[:, :2], MEAN[:2], COV[:2, :2])
  last = log_normal(z[:, 2:], MEAN[2:], COV[2:, 2:])
  expected = joint - observed[:, 0] * first - observed[:, 1] * last
  np.testing.assert_allclose(got, expected, atol=2e-3)


# --- the whole model --------------------------------------------------------

LATENT_MEAN = np.array([0.2, -0.4, 0.1, 0.3], np.float32)
LATENT_STD = np.array([1.2, 0.5, 0.8, 1.4], np.float32)


def joint_log_likelihood(x, mean, cov):
  """log p(x_a, x_b) of Gaussian standardised latents and linear decoders."""
  weight = np.kron(np.eye(2), WEIGHT)
  z_mean = LATENT_MEAN + LATENT_STD * mean
  z_cov = LATENT_STD[:, None] * cov * LATENT_STD
  x_cov = weight.T @ z_cov @ weight + SCALE**2 * np.eye(6)
  return log_normal(x, z_mean @ weight + np.tile(BIAS, 2), x_cov)


def joint_raw(num):
  (raw_a, a), (raw_b, b) = raw_examples(num, 0), raw_examples(num, 1)
  return (raw_a, raw_b), np.concatenate([a, b], 1)


def test_the_joint_bound_is_exact_for_latents_that_are_independent():
  """Then the posterior with its prior exchanged is the exact one."""
  raw, x = joint_raw(20)
  zeros, eye = np.zeros(4, np.float32), np.eye(4, dtype=np.float32)
  model = make_model(zeros, eye)
  variables = make_variables(LATENT_MEAN, LATENT_STD)
  got, stderr = joint_log_weight(model, FLOW, variables, keys(20), raw)
  np.testing.assert_allclose(got, joint_log_likelihood(x, zeros, eye), atol=2e-3)
  assert not np.asarray(stderr).any()


@pytest.mark.parametrize('num_probes', [0, 2])
def test_the_joint_bound_is_below_the_likelihood_of_correlated_modalities(num_probes):
  raw, x = joint_raw(600)
  variables = make_variables(LATENT_MEAN, LATENT_STD)
  flow = ProbabilityFlow(num_steps=30, num_probes=num_probes)
  got, _ = joint_log_weight(make_model(), flow, variables, keys(600), raw)
  got, exact = np.asarray(got), joint_log_likelihood(x, MEAN, COV)
  # KL(q || posterior), in closed form: q is diagonal and its covariance constant.
  gap = expected_gap(x)
  error = (got - (exact - gap)).std() / np.sqrt(600)
  assert abs((got - (exact - gap)).mean()) < 4 * error
  assert gap.mean() > 0.2 > 4 * error and (gap > 0).all()


def expected_gap(x):
  """KL between the exchanged posterior and the exact one of z given x, [B]."""
  weight = np.kron(np.eye(2), WEIGHT).astype(np.float64)
  centered = (x - np.tile(BIAS, 2)) @ weight.T / SCALE**2
  data = weight @ weight.T / SCALE**2
  z_mean = LATENT_MEAN + LATENT_STD * MEAN
  prior = np.linalg.inv(LATENT_STD[:, None] * COV * LATENT_STD)
  exact_precision = data + prior
  exact_mean = np.linalg.solve(exact_precision, (centered + prior @ z_mean).T).T
  precision = np.diag(data) + 1 / LATENT_STD**2
  mean = (centered + LATENT_MEAN / LATENT_STD**2) / precision
  away = mean - exact_mean
  square = ((away @ exact_precision) * away).sum(-1)
  trace = (np.diag(exact_precision) / precision).sum()
  log_det = np.log(precision).sum() - np.linalg.slogdet(exact_precision)[1]
  return 0.5 * (trace + square - 4 + log_det)


# --- joint VAEs ---------------------------------------------------------------


class Factor(nn.Module):
  """p(x | z) as a density of z: the expert of a perfect product with the prior."""

  factor: float = 1.0

  def __call__(self, x, train):
    precision = jnp.square(WEIGHT).sum(1) / SCALE**2 * self.factor
    mean = self.factor * (x - BIAS) @ WEIGHT.T / SCALE**2 / precision
    return mean, jnp.broadcast_to(-jnp.log(precision), mean.shape)


def joint_model(objective, encoder, private=0):
  codecs = tuple(codec(name, encoder) for name in 'ab')
  vae = JointVAE(codecs, objective, private_dim=private)
  return JointModel(vae, {'default': Standard()})


def joint_weights(model, num, num_samples, observed=(True, True)):
  """Log weights of log p(observed), [K, B], of x_m [K, B, M], and what is exact."""
  (raw_a, a), (raw_b, b) = raw_examples(num), raw_examples(num, seed=1)
  private, raw = model.learner.private_dim, (raw_a, raw_b)
  variables = {'joint': {'params': {'auxiliary_log_var': jnp.zeros((2, private))}}}
  encoded = model.encode(variables, raw)
  shown = jnp.broadcast_to(jnp.array(observed), (num, 2))
  weights, each = jax.jit(
    lambda keys: joint_vae_log_weights(
      model, variables, keys, encoded, raw, shown, num_samples
    )
  )(keys(num))
  mean, (shared, own) = np.concatenate([BIAS, BIAS]), np.split(WEIGHT, [2 - private])
  cov = np.kron(np.ones((2, 2)), shared.T @ shared) + np.kron(np.eye(2), own.T @ own)
  cov += SCALE**2 * np.eye(6)
  both = log_normal(np.concatenate([a, b], 1), mean, cov)
  return weights, each, both, log_normal(a, BIAS, cov[:3, :3])


def test_the_exact_joint_posterior_gives_the_exact_likelihood():
  objective = MVAE(single_terms=False, num_random_subsets=0)
  model = joint_model(objective, Factor())
  weights, _, both, _ = joint_weights(model, 20, 3)
  np.testing.assert_allclose(weights, np.tile(both, (3, 1)), atol=1e-4)
  # Given a alone: its own likelihood, and the conditional density of b.
  weights, each, both, alone = joint_weights(model, 200, 4_000, (True, False))
  np.testing.assert_allclose(weights, np.tile(alone, (4_000, 1)), atol=1e-4)
  conditional = importance_bound(each[:, :, 1])
  assert np.mean(conditional) < np.mean(both - alone) + 0.01
  np.testing.assert_allclose(np.mean(conditional), np.mean(both - alone), atol=0.02)


@pytest.mark.parametrize(
  ('objective', 'private'), [(MMVAE(), 0), (MMVAEPlus(), 1)], ids=['mmvae', 'mmvaeplus']
)
def test_the_bound_of_a_mixture_tightens(objective, private):
  model = joint_model(objective, LinearEncoder(), private)
  weights, _, both, _ = joint_weights(model, 300, 1_000)
  bounds = [float(importance_bound(weights[:k]).mean()) for k in (1, 10, 1_000)]
  assert bounds[0] < bounds[1] < bounds[2] < both.mean() + 0.01
  assert both.mean() - bounds[0] > 0.2
  np.testing.assert_allclose(bounds[2], both.mean(), atol=0.05)
