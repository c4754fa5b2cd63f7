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

from mmsbm.diffusion.decoder import DiffusionDecoder
from mmsbm.diffusion.guided_levels import DecoderGuidance
from mmsbm.diffusion.parametrization import EDM
from mmsbm.diffusion.process import Diffusion
from mmsbm.diffusion.sde import VE
from mmsbm.distributions import Normal
from mmsbm.inference import Inference
from mmsbm.infra import sharding
from mmsbm.infra.errors import UserError
from mmsbm.infra.rng import row_keys
from mmsbm.latents import LatentLayout
from mmsbm.learners.codec import Codec
from mmsbm.learners.joint_vae import JointVAE
from mmsbm.learners.latent_score import LatentScore
from mmsbm.modalities import Modality, Vector
from mmsbm.models.gaussian_mixture import fit_gaussian_mixture
from mmsbm.models.joint_vae import JointModel
from mmsbm.models.priors import Mixture, ScorePrior, Standard
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
  kind = Vector(shape=(DIM + private,), offset=0.0, scale=1.0)
  codecs = tuple(
    Codec(
      modality=Modality(name=f'm{i}', kind_name='vector', kind=kind),
      latent_dim=DIM + private,
      encoder=Encode(shift, log_var),
      decoder=Decode(),
      likelihood=Normal(),
    )
    for i, (shift, log_var) in enumerate([(0.0, 0.0), (1.0, -1.0), (-2.0, 0.5)])
  )
  score = LatentScore(
    network=GaussianNet(),
    layout=LatentLayout((DIM,)),
    diffusion=edm(sigma_min=0.01, sigma_max=40.0),
    condition_probability=0.0,
  )
  sampler = DPMSolver(stochastic=True, num_steps=60, grid='edm')
  samplings = {
    'default': Standard(),
    'mixture': Mixture(num_components=2),
    'score': ScorePrior(sampler=sampler, score=score),
  }
  model = JointModel(JointVAE(codecs, objective, family, private), samplings)
  example = {'x': {c.name: np.zeros((1, *kind.shape), np.float32) for c in codecs}}
  init = model.learner.init if private else lambda key, batch: {'params': {}}
  variables = {
    'joint': init(jax.random.key(0), example),
    'score': {},
    'latents': {'mean': jnp.array([3.0, -1.0]), 'std': jnp.array([0.5, 2.0])},
    'mixtures': {
      '2': {
        'log_weights': jnp.log(jnp.array([0.25, 0.75])),
        'mean': jnp.array([[5.0, 0.0], [-5.0, 1.0]]),
        'scale': jnp.array([[[1.0, 0.0], [0.8, 0.6]], [[0.5, 0.0], [0.0, 2.0]]]),
      }
    },
  }  # fmt: skip
  return inference(model, variables)


def inference(model, variables):
  return Inference(model, variables, mesh=sharding.make_mesh(), chunk_size=MANY)


def edm(**levels):
  return Diffusion(sde=VE(**levels), parametrization=EDM(), times=None, weighting='edm')


@pytest.fixture(scope='module')
def product():
  return make(MVTCAE())


X = tuple(np.array([[0.5 * i, 1.0 - i]], np.float32) for i in range(3))


def encode(made, num, private=0):
  x = tuple(np.pad(np.tile(a, (num, 1)), ((0, 0), (0, private))) for a in X)
  return made.encode(x)


def sample_latents(made, encoded, observed, *, seed=0, sampling='default', rows=None):
  """Flat latents [B, d + M p], as they are before the decoders."""
  rows = np.arange(len(observed)) if rows is None else rows

  def run(encoded, observed):
    keys = row_keys(jax.random.key(seed), rows)
    return made.model.sample_latents(made.variables, keys, encoded, observed, sampling)

  return np.asarray(jax.jit(run)(encoded, observed))


def draw(made, observed, sampling='default'):
  shown = np.broadcast_to(np.array(observed, bool), (MANY, 3))
  return sample_latents(made, encode(made, MANY), shown, sampling=sampling)


def check_moments(z, mean, std):
  np.testing.assert_allclose(z.mean(0), mean, atol=4 * np.max(std) / MANY**0.5)
  np.testing.assert_allclose(z.std(0), std, rtol=0.06)


def test_given_some_it_draws_from_their_product(product):
  for observed in ([1, 0, 0], [0, 1, 1], [1, 1, 1]):
    used = np.array(observed, bool)
    precision = np.exp(-np.array([0.0, -1.0, 0.5]))[used]
    means = np.stack([X[0], X[1] + 1, X[2] - 2])[used, 0]
    mean = (precision[:, None] * means).sum(0) / precision.sum()
    for sampling in product.model.samplings:
      check_moments(draw(product, observed, sampling), mean, precision.sum() ** -0.5)


def test_given_nothing_it_draws_from_its_prior(product):
  check_moments(draw(product, [0, 0, 0]), 0.0, 1.0)
  check_moments(draw(product, [0, 0, 0], 'score'), [3.0, -1.0], [0.5, 2.0])
  z = draw(product, [0, 0, 0], 'mixture')
  first = z[:, 0] > 0
  assert abs(first.mean() - 0.25) < 4 * (0.25 * 0.75 / MANY) ** 0.5
  check_moments(z[~first], [-5.0, 1.0], [0.5, 2.0])
  np.testing.assert_allclose(np.cov(z[first].T), [[1.0, 0.8], [0.8, 1.0]], atol=0.15)


def test_a_row_depends_on_itself_only(product):
  patterns = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 0], [1, 1, 0]], bool)
  encoded = encode(product, 4)
  for sampling in product.model.samplings:
    args = dict(seed=3, sampling=sampling)
    whole = sample_latents(product, encoded, patterns, **args)
    for rows in ([2], [1, 3]):
      part = jax.tree.map(lambda a, rows=rows: a[rows], encoded)
      part = sample_latents(product, part, patterns[rows], rows=np.array(rows), **args)
      np.testing.assert_allclose(part, whole[rows], rtol=1e-5, atol=1e-6)
    # What is not observed is of no influence.
    junk = jax.tree.map(
      lambda a: np.where(patterns[..., None], a, 100.0).astype(np.float32), encoded
    )
    np.testing.assert_array_equal(
      sample_latents(product, junk, patterns, **args), whole
    )


def test_cost_is_that_of_the_score_model_where_nothing_is_given(product):
  counts = {
    (sampling, given): product.model.num_evaluations(sampling, given)
    for sampling in product.model.samplings
    for given in (0, 2)
  }
  assert counts.pop(('score', 0)) == 60
  assert set(counts.values()) == {0}


def test_reconstructions_are_of_each_modality_alone(product):
  x = product.reconstruct(encode(product, 5), key=jax.random.key(0))
  for shift, given, out in zip([0.0, 1.0, -2.0], X, x, strict=True):
    np.testing.assert_allclose(out, np.tile(2 * (given + shift), (5, 1)), rtol=1e-6)
  z = product.latents(
    encode(product, 2), np.array([[0, 1, 0], [0, 0, 0]], bool), key=jax.random.key(0)
  )
  assert set(z) == {'shared'}
  np.testing.assert_allclose(z['shared'], [X[1][0] + 1, [0, 0]], rtol=1e-6)


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
  made = make(OBJECTIVES[name](), private)
  observed = np.repeat(PATTERNS, num, axis=0)
  encoded = encode(made, len(observed), private)
  z = sample_latents(made, encoded, observed, seed=2)
  assert np.isfinite(z).all() and z.shape[1] == DIM + 3 * private
  other = jax.tree.map(lambda a: a + 1, encoded)
  moved = sample_latents(made, other, observed, seed=2)
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
  encoded = {'mean': mean.astype(np.float32), 'log_var': log_var.astype(np.float32)}
  variables = {'joint': {'params': {'auxiliary_log_var': jnp.zeros((3, 1))}}}
  keys = jax.random.split(jax.random.key(0), len(mean))
  latents, ratio = jax.jit(model.draw)(variables, keys, encoded, observed)
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
  made = make(MMVAEPlus(), private=1)
  num = 2_000
  encoded = encode(made, num, private=1)
  observed = np.tile([[True, False, True]], (num, 1))
  z = sample_latents(made, encoded, observed)
  dims = {'shared': DIM, 'm0': 1, 'm1': 1, 'm2': 1}
  assert z.shape == (num, DIM + 3) and made.model.latent_dims == dims
  # Of observed ones from the posterior N(shift, e^log_var), otherwise N(0, 1).
  np.testing.assert_allclose(z[:, DIM:].mean(0), [0.0, 0.0, -2.0], atol=0.15)
  np.testing.assert_allclose(z[:, DIM:].std(0), [1.0, 1.0, np.exp(0.25)], rtol=0.08)
  parts = np.split(z, np.cumsum(list(dims.values()))[:-1], axis=1)
  parts = dict(zip(dims, parts, strict=True))
  x = made.decode(parts, key=jax.random.key(0))
  np.testing.assert_allclose(x[1], 2 * z[:, [0, 1, 3]], rtol=1e-5)
  # The same latents without noise.
  mean = made.latents(encoded, observed, key=jax.random.key(0))
  assert {name: a.shape[1] for name, a in mean.items()} == dims
  np.testing.assert_allclose(
    [mean[name][0, 0] for name in ('m0', 'm1', 'm2')], [0.0, 0.0, -2.0], atol=1e-6
  )
  # Of 8-bit pictures one would not see that they were not finite.
  parts['m1'] = np.where(np.arange(num)[:, None] == 7, np.inf, parts['m1'])
  with pytest.raises(UserError, match=r"\['m1'\] gave values that are not finite"):
    made.decode(parts, key=jax.random.key(0))


def test_diffusion_decoders_draw():
  """N(2 z, 0.5^2) as a diffusion, beside a decoder that gives 2 z."""
  plain = make(MVTCAE()).model
  learner = plain.learner
  first = dataclasses.replace(
    learner.codecs[0],
    diffusion=DiffusionDecoder(
      network=GaussianDenoiser(),
      shape=(DIM,),
      diffusion=edm(sigma_min=0.002, sigma_max=60.0),
      offset=0.0,
      scale=1.0,
    ),
    decoder=GaussianDenoiser(),
  )
  learner = dataclasses.replace(learner, codecs=(first, *learner.codecs[1:]))
  model = dataclasses.replace(
    plain, learner=learner, decoder_sampler=DPMSolver(num_steps=40)
  )
  assert model.num_evaluations('score', 0) == 100
  assert model.num_evaluations('score', 1) == 40
  guided = dataclasses.replace(model, decoder_guidance=DecoderGuidance(scale=0.5))
  assert guided.num_evaluations('score', 1) == 80
  variables = {'joint': {'params': {'decoders_0': {}}}}
  made = inference(model, variables)
  latents = {'shared': np.tile(np.array([[0.3, -1.0]], np.float32), (MANY, 1))}
  x = made.decode(latents, key=jax.random.key(4))
  check_moments(x[0], [0.6, -2.0], 0.5)
  # Away from the latent 0: N(2 z (1 + scale), 0.5^2).
  far = inference(guided, variables).decode(latents, key=jax.random.key(4))
  check_moments(far[0], [0.9, -3.0], 0.5)
  np.testing.assert_array_equal(far[1], x[1])
  np.testing.assert_allclose(x[1], 2 * latents['shared'], rtol=1e-6)
  few = {'shared': latents['shared'][:3]}
  again = made.decode(few, key=jax.random.key(4))
  np.testing.assert_allclose(again[0], x[0][:3], rtol=1e-4, atol=1e-5)
  assert (made.decode(few, key=jax.random.key(5))[0] != again[0]).all()


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
