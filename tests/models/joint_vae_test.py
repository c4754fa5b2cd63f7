"""Joint models with linear networks, whose posteriors are known."""

import dataclasses
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from mmsbm.generate import Generator

from mmsbm.diffusion.decoder import DiffusionDecoder
from mmsbm.diffusion.guided_levels import DecoderGuidance
from mmsbm.diffusion.parametrization import EDM
from mmsbm.diffusion.sde import VE
from mmsbm.distributions import Normal
from mmsbm.infra import sharding
from mmsbm.infra.errors import UserError
from mmsbm.latents import LatentLayout
from mmsbm.learners.joint_vae import JointVAE
from mmsbm.learners.latent_score import LatentScore
from mmsbm.modalities import Modality, Vector
from mmsbm.models.base import Setup
from mmsbm.models.gaussian_mixture import fit_gaussian_mixture
from mmsbm.models.joint_vae import GaussianMixture, JointModel, Prior
from mmsbm.objectives import MMVAE, MVTCAE, OBJECTIVES, MMVAEPlus
from mmsbm.samplers.dpm_solver import DPMSolver

DIM, MANY = 2, 4_000


class Encode(nn.Module):
  """q(z | x_m) = N(x_m + shift, exp(log_var))."""

  shift: float
  log_var: float

  def __call__(self, x, train):
    return x + self.shift, jnp.full_like(x, self.log_var)


class Decode(nn.Module):
  """Twice the latent, of which the first entries are z."""

  def __call__(self, z, train):
    return 2 * z


class GaussianDenoiser(nn.Module):
  """What the edm network is for x given z, N(2 z, 0.5^2)."""

  def __call__(self, x, t, z, train):
    # x comes divided by sqrt(1 + s^2), s = e^t.
    s = jnp.exp(t)[:, None]
    root = jnp.sqrt(1 + s**2)
    noisy = x * root
    clean = (0.25 * noisy + s**2 * 2 * z) / (0.25 + s**2)
    return (clean - noisy / root**2) * root / s


class GaussianNet(nn.Module):
  """What the edm network is for standard normal data."""

  def __call__(self, z, t, role, train):
    return jnp.zeros_like(z)


def make(objective, private=0, family='normal'):
  modalities = tuple(
    Modality(
      name=f'm{i}',
      kind_name='vector',
      kind=Vector(),
      shape=(DIM + private,),
      latent_dim=DIM + private,
      encoder=Encode(shift, log_var),
      decoder=Decode(),
      likelihood=Normal(),
    )
    for i, (shift, log_var) in enumerate([(0.0, 0.0), (1.0, -1.0), (-2.0, 0.5)])
  )
  sde = VE(sigma_min=0.01, sigma_max=40.0)
  score = LatentScore(
    network=GaussianNet(),
    layout=LatentLayout((DIM,)),
    sde=sde,
    parametrization=EDM(),
    times=None,
    weighting='edm',
    condition_probability=0.0,
  )
  setups = {
    'default': Setup(Prior()),
    'mixture': Setup(GaussianMixture()),
    'score': Setup(DPMSolver(stochastic=True, num_steps=60, grid='edm')),
  }
  model = JointModel(JointVAE(modalities, objective, family, private), setups, score)
  example = {'x': {m.name: np.zeros((1, *m.shape), np.float32) for m in modalities}}
  init = model.learner.init if private else lambda key, batch: {'params': {}}
  variables = {
    'joint': init(jax.random.key(0), example),
    'score': {},
    'latents': {'mean': jnp.array([3.0, -1.0]), 'std': jnp.array([0.5, 2.0])},
    'mixtures': {
      'mixture': {
        'log_weights': jnp.log(jnp.array([0.25, 0.75])),
        'mean': jnp.array([[5.0, 0.0], [-5.0, 1.0]]),
        'scale': jnp.array([[[1.0, 0.0], [0.8, 0.6]], [[0.5, 0.0], [0.0, 2.0]]]),
      }
    },
  }  # fmt: skip
  return Generator(model, variables, mesh=sharding.make_mesh(), chunk_size=MANY)


@pytest.fixture(scope='module')
def product():
  return make(MVTCAE())


X = tuple(np.array([[0.5 * i, 1.0 - i]], np.float32) for i in range(3))


def codes_of(generator, num, private=0):
  x = tuple(np.pad(np.tile(a, (num, 1)), ((0, 0), (0, private))) for a in X)
  return generator.encode(x)


def draw(generator, observed, setup='default', num=MANY, seed=0, **kw):
  shown = np.broadcast_to(np.array(observed, bool), (num, 3))
  return generator.sample_latents(
    codes_of(generator, num), shown, key=jax.random.key(seed), setup=setup, **kw
  )


def check_moments(z, mean, std):
  np.testing.assert_allclose(z.mean(0), mean, atol=4 * np.max(std) / MANY**0.5)
  np.testing.assert_allclose(z.std(0), std, rtol=0.06)


def test_given_some_it_draws_from_their_product(product):
  for observed in ([1, 0, 0], [0, 1, 1], [1, 1, 1]):
    used = np.array(observed, bool)
    precision = np.exp(-np.array([0.0, -1.0, 0.5]))[used]
    means = np.stack([X[0], X[1] + 1, X[2] - 2])[used, 0]
    mean = (precision[:, None] * means).sum(0) / precision.sum()
    for setup in product.model.setups:
      check_moments(draw(product, observed, setup), mean, precision.sum() ** -0.5)


def test_given_nothing_it_draws_as_the_setup_says(product):
  check_moments(draw(product, [0, 0, 0]), 0.0, 1.0)
  check_moments(draw(product, [0, 0, 0], 'score'), [3.0, -1.0], [0.5, 2.0])
  z = draw(product, [0, 0, 0], 'mixture')
  first = z[:, 0] > 0
  assert abs(first.mean() - 0.25) < 4 * (0.25 * 0.75 / MANY) ** 0.5
  check_moments(z[~first], [-5.0, 1.0], [0.5, 2.0])
  np.testing.assert_allclose(np.cov(z[first].T), [[1.0, 0.8], [0.8, 1.0]], atol=0.15)


def test_a_row_depends_on_itself_only(product):
  patterns = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 0], [1, 1, 0]], bool)
  codes = codes_of(product, 4)
  for setup in product.model.setups:
    args = dict(key=jax.random.key(3), setup=setup)
    whole = product.sample_latents(codes, patterns, **args)
    for rows in ([2], [1, 3]):
      part = product.sample_latents(
        codes[rows], patterns[rows], rows=np.array(rows), **args
      )
      np.testing.assert_allclose(part, whole[rows], rtol=1e-5, atol=1e-6)
    # What is not observed is of no influence.
    # A code is the means of all modalities, then their log variances.
    hidden = np.repeat(np.tile(~patterns, (1, 2)), DIM, axis=1)
    other = np.where(hidden, 100.0, codes).astype(np.float32)
    np.testing.assert_array_equal(
      product.sample_latents(other, patterns, **args), whole
    )


def test_cost_is_that_of_the_score_model_where_nothing_is_given(product):
  counts = {
    (setup, given): product.model.num_evaluations(setup, given)
    for setup in product.model.setups
    for given in (0, 2)
  }
  assert counts.pop(('score', 0)) == 60
  assert set(counts.values()) == {0}


def test_reconstructions_are_of_each_modality_alone(product):
  x = product.reconstruct(codes_of(product, 5), key=jax.random.key(0))
  for shift, given, out in zip([0.0, 1.0, -2.0], X, x, strict=True):
    np.testing.assert_allclose(out, np.tile(2 * (given + shift), (5, 1)), rtol=1e-6)
  z = product.mean_latents(
    codes_of(product, 2), np.array([[0, 1, 0], [0, 0, 0]], bool), key=jax.random.key(0)
  )
  np.testing.assert_allclose(z, [X[1][0] + 1, [0, 0]], rtol=1e-6)


def test_a_mixture_draws_one_expert_for_each_row():
  z = draw(make(MMVAE()), [1, 0, 1])
  # N((0, 1), 1) and N((-1, -3), e^0.5).
  second = z[:, 1] < -1
  assert 0.4 < second.mean() < 0.6
  np.testing.assert_allclose(z[:, 0].mean(), -0.5, atol=0.1)


PATTERNS = np.array(list(itertools.product([False, True], repeat=3)))
LOG_VAR = np.array([0.0, -1.0, 0.5])


@pytest.mark.parametrize('name', OBJECTIVES)
def test_every_pattern_of_what_is_given(name):
  """Draws are finite, depend on what is given and, of nothing, are from the prior."""
  private, num = int(name == 'mmvaeplus'), 800
  generator = make(OBJECTIVES[name](), private)
  observed = np.repeat(PATTERNS, num, axis=0)
  codes, args = codes_of(generator, len(observed), private), dict(key=jax.random.key(2))
  z = generator.sample_latents(codes, observed, **args)
  assert np.isfinite(z).all() and z.shape[1] == DIM + 3 * private
  moved = generator.sample_latents(codes + 1, observed, **args)
  np.testing.assert_array_equal(moved[:num], z[:num])
  assert (moved[num:, :DIM] != z[num:, :DIM]).all()
  np.testing.assert_allclose(z[:num].mean(0), 0.0, atol=4 / num**0.5)
  np.testing.assert_allclose(z[:num].std(0), 1.0, atol=4 / (2 * num) ** 0.5)
  # Private latents are those of what is given.
  if private:
    np.testing.assert_array_equal((moved != z)[:, DIM:], observed)


@pytest.mark.parametrize(
  ('family', 'density', 'unit'),
  [('normal', scipy.stats.norm, 1.0), ('laplace', scipy.stats.laplace, 0.5**0.5)],
  ids=['normal', 'laplace'],
)
def test_draws_come_with_the_ratio_of_prior_to_posterior(family, density, unit):
  """Of shared latents, whose posterior is a mixture, and of private ones."""
  log_prob = lambda z, mean, std: density.logpdf(z, mean, std * unit)  # noqa: E731
  model = make(MMVAEPlus(), private=1, family=family).model
  observed, scale = np.repeat(PATTERNS, 5, axis=0), np.exp(0.5 * LOG_VAR)
  mean = np.random.default_rng(0).normal(size=(len(observed), 3, DIM + 1))
  log_var = np.broadcast_to(LOG_VAR[:, None], mean.shape)
  codes = np.stack([mean, log_var], axis=1).reshape(len(mean), -1).astype(np.float32)
  variables = {'joint': {'params': {'auxiliary_log_var': jnp.zeros((3, 1))}}}
  keys = jax.random.split(jax.random.key(0), len(mean))
  latents, ratio = jax.jit(model.draw)(variables, keys, codes, observed)
  z, w = np.split(np.asarray(latents, np.float64), [DIM], axis=1)
  each = log_prob(z[:, None], mean[..., :DIM], scale[:, None]).sum(-1)
  # What is not given is drawn from the prior: its ratio is 1.
  own = log_prob(w, 0.0, 1.0) - log_prob(w, mean[..., DIM], scale)
  expected = np.where(observed, own, 0.0).sum(-1)
  for row, given in enumerate(observed):
    if given.any():
      mixture = scipy.special.logsumexp(each[row, given]) - np.log(given.sum())
      expected[row] += log_prob(z[row], 0.0, 1.0).sum() - mixture
  np.testing.assert_allclose(ratio, expected, rtol=1e-4, atol=1e-4)


def test_private_latents():
  generator = make(MMVAEPlus(), private=1)
  num = 2_000
  codes = codes_of(generator, num, private=1)
  observed = np.tile([[True, False, True]], (num, 1))
  z = generator.sample_latents(codes, observed, key=jax.random.key(0))
  assert z.shape == (num, DIM + 3) and generator.model.latent_dims == {
    'shared': DIM, 'm0': 1, 'm1': 1, 'm2': 1,
  }  # fmt: skip
  # Of observed ones from the posterior N(shift, e^log_var), otherwise N(0, 1).
  np.testing.assert_allclose(z[:, DIM:].mean(0), [0.0, 0.0, -2.0], atol=0.15)
  np.testing.assert_allclose(z[:, DIM:].std(0), [1.0, 1.0, np.exp(0.25)], rtol=0.08)
  x = generator.decode(z, key=jax.random.key(0))
  np.testing.assert_allclose(x[1], 2 * z[:, [0, 1, 3]], rtol=1e-5)
  # Of 8-bit pictures one would not see that they were not finite.
  z[7, 3] = np.inf
  with pytest.raises(UserError, match=r"\['m1'\] gave values that are not finite"):
    generator.decode(z, key=jax.random.key(0))


def test_diffusion_decoders_draw():
  """N(2 z, 0.5^2) as a diffusion, beside a decoder that gives 2 z."""
  generator = make(MVTCAE())
  learner = generator.model.learner
  first = dataclasses.replace(
    learner.modalities[0],
    diffusion=DiffusionDecoder(
      network=GaussianDenoiser(),
      shape=(DIM,),
      sde=VE(sigma_min=0.002, sigma_max=60.0),
      parametrization=EDM(),
      times=None,
      weighting='edm',
      offset=0.0,
      scale=1.0,
    ),
    decoder=GaussianDenoiser(),
  )
  learner = dataclasses.replace(learner, modalities=(first, *learner.modalities[1:]))
  model = dataclasses.replace(
    generator.model, learner=learner, decoder_sampler=DPMSolver(num_steps=40)
  )
  assert model.num_evaluations('score', 0) == 100
  assert model.num_evaluations('score', 1) == 40
  every = dataclasses.replace(model, decoder_guidance=DecoderGuidance(scale=0.5))
  assert every.num_evaluations('score', 1) == 80
  variables = {'joint': {'params': {'decoders_0': {}}}}
  made = Generator(model, variables, mesh=sharding.make_mesh(), chunk_size=MANY)
  latents = np.tile(np.array([[0.3, -1.0]], np.float32), (MANY, 1))
  x = made.decode(latents, key=jax.random.key(4))
  check_moments(x[0], [0.6, -2.0], 0.5)
  # Away from the latent 0: N(2 z (1 + scale), 0.5^2).
  guided = Generator(every, variables, mesh=sharding.make_mesh(), chunk_size=MANY)
  far = guided.decode(latents, key=jax.random.key(4))
  check_moments(far[0], [0.9, -3.0], 0.5)
  np.testing.assert_array_equal(far[1], x[1])
  np.testing.assert_allclose(x[1], 2 * latents, rtol=1e-6)
  again = made.decode(latents[:3], key=jax.random.key(4))
  np.testing.assert_allclose(again[0], x[0][:3], rtol=1e-4, atol=1e-5)
  assert (made.decode(latents[:3], key=jax.random.key(5))[0] != again[0]).all()


def test_the_mixture_is_fitted():
  rng = np.random.default_rng(0)
  which = rng.random(6_000) < 0.3
  z = np.where(which[:, None], [4.0, 0.0], [-4.0, 2.0])
  z = z + rng.normal(size=z.shape) * [1.0, 0.5]
  fitted = fit_gaussian_mixture(z, 2, seed=0)
  order = fitted['mean'][:, 0].argsort()[::-1]
  np.testing.assert_allclose(
    np.exp(fitted['log_weights'])[order], [0.3, 0.7], atol=0.03
  )
  np.testing.assert_allclose(fitted['mean'][order], [[4, 0], [-4, 2]], atol=0.1)
  cov = fitted['scale'] @ fitted['scale'].swapaxes(1, 2)
  expected = np.tile(np.diag([1.0, 0.25]), (2, 1, 1))
  np.testing.assert_allclose(cov, expected, atol=0.08)
