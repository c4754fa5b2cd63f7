"""Any modalities from any others, against conditional Gaussians."""

import dataclasses
import itertools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.diffusion.losses import UniformTimes
from mmsbm.diffusion.parametrization import PARAMETRIZATIONS
from mmsbm.diffusion.process import Diffusion
from mmsbm.diffusion.sde import VE, VP
from mmsbm.distributions import Normal
from mmsbm.guidance import ClassifierFree, Energy
from mmsbm.inference import Inference
from mmsbm.infra import sharding
from mmsbm.infra.rng import row_keys
from mmsbm.latents import MISSING, LatentLayout
from mmsbm.learners.autoencoder import VAE
from mmsbm.learners.codec import Codec
from mmsbm.learners.latent_score import LatentScore
from mmsbm.modalities import Modality, Vector
from mmsbm.models.score_based import ScoreBasedModel, ScoreSampling
from mmsbm.samplers.conditioning import CONDITIONING, Noised, TimeZero
from mmsbm.samplers.dpm_solver import DPMSolver
from mmsbm.samplers.heun import Heun
from mmsbm.samplers.predictor_corrector import PredictorCorrector

LAYOUT = LatentLayout((1, 3, 2))
D = LAYOUT.total
MEAN = np.array([5.0, -2.0, 0.0, 1.0, 10.0, -7.0], np.float32)
_FACTOR = np.random.default_rng(3).normal(size=(D, D))
COV = (_FACTOR @ _FACTOR.T / D + 0.3 * np.eye(D)) * np.outer(
  *[np.array([1.0, 4.0, 0.5, 2.0, 3.0, 0.2])] * 2
)
STD = np.sqrt(np.diag(COV)).astype(np.float32)
SUBSETS = np.array(list(itertools.product([False, True], repeat=3)))


CORRELATION = COV / np.outer(STD, STD)


def noised_cov(sde, t):
  """Covariance [B, D, D] of standardised latents at the times t [B, M]."""
  t = LAYOUT.expand(t)
  alpha, sigma = sde.alpha(t), sde.sigma(t)
  cov = alpha[:, :, None] * jnp.asarray(CORRELATION, jnp.float32) * alpha[:, None, :]
  return cov + jnp.square(sigma)[:, :, None] * jnp.eye(D)


class ExactScore(nn.Module):
  """Score of the noised standardised latents, each modality at its own time."""

  sde: VP
  count: Callable[[], None] | None = None

  def __call__(self, z, t, role, train):
    if self.count:
      jax.debug.callback(self.count)
    known = ~LAYOUT.expand(role == MISSING)
    cov = noised_cov(self.sde, t)
    # What is missing is independent of all, and anything.
    cov = jnp.where(known[:, :, None] & known[:, None], cov, jnp.eye(D))
    z = jnp.where(known, z, 0.0)
    return -jnp.linalg.solve(cov, z[..., None])[..., 0]


@dataclasses.dataclass(frozen=True)
class ExactEnergy:
  """Optimal energies of the same latents."""

  sde: VP
  count: Callable[[], None] | None = None

  def pair_energy(self, variables, z, t):
    if self.count:
      jax.debug.callback(self.count)
    cov = noised_cov(self.sde, t)

    def log_density(dims):
      part, rows = cov[:, dims[:, None], dims], z[:, dims]
      whitened = jnp.linalg.solve(part, rows[..., None])[..., 0]
      return -0.5 * ((rows * whitened).sum(-1) + jnp.linalg.slogdet(part)[1])

    dims = [np.flatnonzero(LAYOUT.modality_of_dim == m) for m in range(3)]
    energy = jnp.zeros((len(z), 3, 3))
    for i, j in itertools.combinations(range(3), 2):
      both = log_density(np.concatenate([dims[i], dims[j]]))
      ratio = both - log_density(dims[i]) - log_density(dims[j])
      energy = energy.at[:, [i, j], [j, i]].set(-ratio[:, None])
    return energy


class Scale(nn.Module):
  """x -> factor x, as encoder (with a variance) or decoder."""

  factor: float
  encoder: bool

  def __call__(self, x, train):
    out = self.factor * x
    return (out, jnp.zeros_like(out)) if self.encoder else out


def sampling(sampler, conditioning=None, guidance=()):
  return ScoreSampling(
    sampler=sampler, conditioning=conditioning or TimeZero(), guidance=guidance
  )


def make_model(sde, num_steps=40, count=None, **samplings):
  """Modality m is 2^m times its latent; samplings may be added to two plain ones."""
  names = ('a', 'b', 'c')
  autoencoders = tuple(
    VAE(
      Codec(
        modality=Modality(
          name=name,
          kind_name='vector',
          kind=Vector(shape=(dim,), offset=0.0, scale=1.0),
        ),
        latent_dim=dim,
        encoder=Scale(0.5**i, True),
        decoder=Scale(2.0**i, False),
        likelihood=Normal(),
      ),
      i,
    )
    for i, (name, dim) in enumerate(zip(names, LAYOUT.dims, strict=True))
  )
  score = LatentScore(
    network=ExactScore(sde, count),
    layout=LAYOUT,
    diffusion=Diffusion(
      sde=sde,
      parametrization=PARAMETRIZATIONS['score'](),
      times=UniformTimes(),
      weighting='uniform',
    ),
    condition_probability=0.0,
  )
  model = ScoreBasedModel(
    autoencoders=autoencoders,
    score=score,
    samplings={
      'default': sampling(DPMSolver(num_steps=num_steps)),
      'heun': sampling(Heun(num_steps=num_steps)),
    }
    | samplings,
    energy=ExactEnergy(sde, count),
  )
  variables = {
    'unimodal': {name: {} for name in names},
    'score': {},
    'energy': {},
    'latents': {'mean': jnp.asarray(MEAN), 'std': jnp.asarray(STD)},
  }
  return model, variables


def inference(model, variables, chunk_size=10_000):
  return Inference(model, variables, mesh=sharding.make_mesh(), chunk_size=chunk_size)


def sample_latents(made, z, observed, *, seed=0, rows=None, sampling='default'):
  """Standardised latents [B, D], as they are before the decoders."""
  rows = np.arange(len(observed)) if rows is None else rows

  def run(z, observed):
    keys = row_keys(jax.random.key(seed), rows)
    return made.model.sample_latents(made.variables, keys, z, observed, sampling)

  return np.asarray(jax.jit(run)(z, observed))


FACTOR = 2.0**LAYOUT.modality_of_dim


def raw(latents):
  """Examples of the three modalities from latents [N, D] that are not standardised."""
  return tuple(np.split(np.float32(latents * FACTOR), np.cumsum(LAYOUT.dims)[:-1], 1))


@pytest.mark.parametrize('sde', [VP(), VE()], ids=['vp', 've'])
@pytest.mark.parametrize('name', ['default', 'heun'])
def test_every_subset_gives_its_conditional_gaussian(sde, name):
  """All eight subsets in one batch, row after row, from raw data to raw data."""
  num = 1500
  made = inference(*make_model(sde))
  truth = np.random.default_rng(0).multivariate_normal(MEAN, COV)
  x = raw(np.broadcast_to(truth, (8 * num, D)))
  observed = np.tile(SUBSETS, (num, 1))
  z = made.encode(x)
  np.testing.assert_allclose(z[0], (truth - MEAN) / STD, rtol=1e-4, atol=1e-5)
  drawn = made.sample(z, observed, key=jax.random.key(1), sampling=name)
  for m, given in enumerate(x):
    np.testing.assert_allclose(
      drawn[m][observed[:, m]], given[observed[:, m]], rtol=1e-4
    )
  latents = np.concatenate(drawn, 1) / FACTOR
  for i, subset in enumerate(SUBSETS):
    shown = subset[LAYOUT.modality_of_dim]
    free = ~shown
    if not free.any():
      continue
    gain = COV[np.ix_(free, shown)] @ np.linalg.pinv(COV[np.ix_(shown, shown)])
    mean = MEAN[free] + gain @ (truth - MEAN)[shown]
    cov = COV[np.ix_(free, free)] - gain @ COV[np.ix_(shown, free)]
    std = np.sqrt(np.diag(cov))
    rows = (latents[i::8][:, free] - mean) / std
    # Standard errors of means, variances and correlations of `num` draws.
    np.testing.assert_allclose(rows.mean(0), 0, atol=4.5 / np.sqrt(num))
    correlation = cov / np.outer(std, std)
    np.testing.assert_allclose(
      np.cov(rows.T).reshape(correlation.shape),
      correlation,
      atol=4.5 * np.sqrt(2 / num),
    )


@pytest.fixture(scope='module')
def small():
  return make_model(VP(), num_steps=8)


def rows_of(num):
  """Latents [num, D] and which modalities [num, 3] are observed."""
  z = np.random.default_rng(7).normal(size=(num, D)).astype(np.float32)
  return z, np.random.default_rng(8).random((num, 3)) < 0.5


def draw(made, num, seed=0):
  z, observed = rows_of(num)
  return z, LAYOUT.expand(observed), sample_latents(made, z, observed, seed=seed)


def test_a_row_depends_on_itself_only(small):
  """Not on the chunk size, not on the other rows, not on where it stands."""
  made, (z, observed) = inference(*small), rows_of(23)
  key = jax.random.key(0)
  whole = made.sample(z, observed, key=key)
  for chunk_size in (1, 5, 64):
    other = inference(*small, chunk_size).sample(z, observed, key=key)
    for a, b in zip(other, whole, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
  order = np.random.default_rng(0).permutation(23)[:9]
  some = made.sample(z[order], observed[order], key=key, rows=order)
  for a, b in zip(some, whole, strict=True):
    np.testing.assert_allclose(a, b[order], rtol=1e-4, atol=1e-4)


def test_observed_latents_stay(small):
  z, shown, out = draw(inference(*small), 23)
  np.testing.assert_array_equal(out[shown], z[shown])


def test_seeds_and_rows_change_the_draw(small):
  made = inference(*small)
  _, shown, first = draw(made, 23)
  second = draw(made, 23, seed=1)[2]
  assert (first != second)[~shown].all()
  zero = np.zeros((6, D), np.float32)
  out = sample_latents(made, zero, np.zeros((6, 3), bool))
  assert len(np.unique(out.round(4), axis=0)) == 6


def test_what_is_not_observed_does_not_matter(small):
  """Latents of hidden modalities may hold anything."""
  made, (_, observed) = inference(*small), rows_of(23)
  z, shown, first = draw(made, 23)
  for junk in (1e6, np.nan):
    other = np.where(shown, z, junk).astype(np.float32)
    other = sample_latents(made, other, observed)
    np.testing.assert_array_equal(other, first)


def test_the_program_is_compiled_once_for_all_chunks(small):
  traces = []
  original = ScoreBasedModel.sample_latents

  class Counting(ScoreBasedModel):
    def sample_latents(self, *args):
      traces.append(1)
      return original(self, *args)

  model = Counting(**{f: getattr(small[0], f) for f in small[0].__dataclass_fields__})
  made, (z, observed) = inference(model, small[1], chunk_size=4), rows_of(23)
  for seed in range(3):
    made.sample(z, observed, key=jax.random.key(seed))
  assert len(traces) == 1


# --- guidance -----------------------------------------------------------------

GUIDED = {
  'classifier_free': (ClassifierFree(scale=1.0, noise_min=0.2, noise_max=3.0),),
  'energy': (Energy(scale=0.7, noise_max=2.0),),
  'both': (ClassifierFree(scale=0.5), Energy(scale=0.5, pairs='observed')),
}


@pytest.fixture(scope='module')
def guided():
  """A model with guidance in every conditioning and two samplers, and its calls."""
  calls = []
  samplings = {
    f'{kind}_{rule}': sampling(sampler, CONDITIONING[rule](), guidance)
    for kind, guidance in GUIDED.items()
    for rule, sampler in (
      ('time_zero', DPMSolver(num_steps=7)),
      ('noised', Heun(num_steps=4)),
    )
  }
  plain = {
    'plain_time_zero': sampling(DPMSolver(num_steps=7)),
    'plain_noised': sampling(Heun(num_steps=4), Noised()),
  }
  model = make_model(VE(), count=lambda: calls.append(1), **samplings, **plain)
  return inference(*model), calls


@pytest.mark.parametrize('rule', ['time_zero', 'noised'])
@pytest.mark.parametrize('kind', GUIDED)
def test_guidance_in_a_model(guided, kind, rule):
  """Evaluations are counted exactly; rows are on their own; the observed stay."""
  made, calls = guided
  z = np.random.default_rng(7).normal(size=(16, D)).astype(np.float32)
  observed = np.tile(SUBSETS, (2, 1))
  name = f'{kind}_{rule}'
  jax.effects_barrier()
  calls.clear()
  whole = sample_latents(made, z, observed, sampling=name)
  jax.effects_barrier()
  # The check of shapes in an experiment calls nothing; one chunk, one trajectory.
  assert len(calls) == made.model.num_evaluations(name, 1)
  some = np.array([9, 3, 14, 0])
  part = sample_latents(made, z[some], observed[some], rows=some, sampling=name)
  np.testing.assert_allclose(part, whole[some], rtol=1e-3, atol=1e-4)
  shown = np.asarray(LAYOUT.expand(observed))
  np.testing.assert_array_equal(whole[shown], z[shown])
  plain = sample_latents(made, z, observed, sampling=f'plain_{rule}')
  nothing = ~observed.any(1)
  changed = (np.abs(whole - plain) > 1e-3).any(1)
  guided_rows = ~observed.all(1) & (~nothing | (kind == 'energy'))
  np.testing.assert_array_equal(changed, guided_rows)
  if kind != 'energy':
    np.testing.assert_allclose(whole[nothing], plain[nothing], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('rule', ['clean', 'paper', 'noised', 'time_zero'])
def test_energies_see_observed_latents_as_in_their_training(rule):
  """Clean at time 0, whatever the score network is shown; or noised at t."""
  seen = []

  class Recording(ExactEnergy):
    def pair_energy(self, variables, z, t):
      jax.debug.callback(lambda z, t: seen.append((z, t)), z, t)
      return super().pair_energy(variables, z, t)

  way = sampling(DPMSolver(num_steps=3), CONDITIONING[rule](), (Energy(scale=1.0),))
  model, variables = make_model(VE(), way=way)
  model = dataclasses.replace(model, energy=Recording(VE()))
  z = np.random.default_rng(7).normal(size=(8, D)).astype(np.float32)
  sample_latents(inference(model, variables), z, SUBSETS, sampling='way')
  jax.effects_barrier()
  assert len(seen) == 3
  shown = np.asarray(LAYOUT.expand(SUBSETS))
  for shown_z, t in seen:
    if rule == 'noised':
      assert (t == t[0, 0]).all()
      assert (np.asarray(shown_z)[shown] != z[shown]).all()
    else:
      assert (np.asarray(t)[SUBSETS] == 0).all()
      np.testing.assert_array_equal(np.asarray(shown_z)[shown], z[shown])
    assert len(set(np.asarray(t)[~SUBSETS])) == 1


@dataclasses.dataclass(frozen=True)
class _Shift:
  """In place of a refiner: what was decoded, shifted and with noise."""

  autoencoder: VAE

  def sample(self, variables, keys, x_hat, sampler):
    assert sampler is SAMPLER_OF_REFINERS
    noise = jax.vmap(lambda key: jax.random.normal(key, x_hat.shape[1:]))(keys)
    return x_hat + variables['shift'] + noise


SAMPLER_OF_REFINERS = Heun(num_steps=3)


def test_refiners_see_what_is_decoded_and_nothing_else_changes(small):
  model, variables = small
  refined = dataclasses.replace(
    model,
    refiners=tuple(_Shift(model.autoencoders[i]) for i in (2, 1)),
    refiner_sampler=SAMPLER_OF_REFINERS,
  )
  own = {'b': {'shift': 100.0}, 'c': {'shift': -100.0}}
  z = np.random.default_rng(0).normal(size=(500, D)).astype(np.float32)
  plain, made = (
    inference(model, variables),
    inference(refined, variables | {'refiner': own}),
  )
  key = jax.random.key(5)
  parts = dict(zip('abc', np.split(z, np.cumsum(LAYOUT.dims)[:-1], 1), strict=True))
  before, after = plain.decode(parts, key=key), made.decode(parts, key=key)
  np.testing.assert_array_equal(after[0], before[0])
  noise = [after[i] - before[i] - shift for i, shift in ((1, 100.0), (2, -100.0))]
  for each in noise:
    np.testing.assert_allclose(each.mean(), 0, atol=4 / each.size**0.5)
    np.testing.assert_allclose(each.std(), 1, atol=4 / (2 * each.size) ** 0.5)
  # Modalities have noise of their own.
  correlation = np.corrcoef(noise[0][:, 0], noise[1][:, 0])[0, 1]
  assert abs(correlation) < 4 / len(z) ** 0.5
  # A reconstruction is refined as well; and each evaluation is counted.
  again = made.reconstruct(z, key=key)
  assert np.abs(again[1] - before[1]).min() > 50
  cost = refined.num_evaluations('default', 1) - model.num_evaluations('default', 1)
  assert cost == 2 * SAMPLER_OF_REFINERS.num_evaluations == 2 * 5


# --- what it says of itself ---------------------------------------------------


def test_describe_names_what_differs_from_defaults(small):
  free, energy = ClassifierFree(scale=1.5), Energy(scale=0.5, noise_max=2.0)
  ways = {
    'plain': sampling(Heun(num_steps=3), Noised()),
    'both': sampling(DPMSolver(num_steps=4, stochastic=True), guidance=(free, energy)),
  }
  model, _ = make_model(VP(), **ways)
  assert model.describe('plain') == {
    'sampler': 'heun(num_steps=3)', 'conditioning': 'noised()', 'guidance': '',
  }  # fmt: skip
  both = model.describe('both')
  assert both['guidance'] == (
    'classifier_free(scale=1.5) + energy(scale=0.5, noise_max=2.0)'
  )
  assert both['sampler'].startswith('dpm_solver(') and 'num_steps=4' in both['sampler']
  assert both['conditioning'] == 'time_zero()'


def test_uses_names_the_steps_that_a_result_depends_on():
  terms = {'guided': Energy(scale=1.0), 'free': ClassifierFree(scale=1.0)}
  ways = {k: sampling(Heun(num_steps=3), guidance=(g,)) for k, g in terms.items()}
  model, _ = make_model(VP(), **ways)
  refined = dataclasses.replace(model, refiners=(_Shift(model.autoencoders[0]),))
  encoded = {'unimodal', 'latents'}
  assert model.uses(None) == model.uses(None, decodes=False) == encoded
  assert model.uses('free') == encoded | {'score'}
  assert model.uses('guided') == encoded | {'score', 'energy'}
  assert refined.uses(None) == encoded | {'refiner'}
  assert refined.uses(None, decodes=False) == encoded
  assert refined.uses('guided') == encoded | {'score', 'energy', 'refiner'}


def test_couples_rows_where_the_sampler_does():
  coupled = PredictorCorrector(num_steps=2, batch_norms=True)
  model, _ = make_model(VP(), coupled=sampling(coupled))
  assert model.couples_rows('coupled') and not model.couples_rows('default')
