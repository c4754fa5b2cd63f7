"""The score model: which modalities are shown, and the loss in closed form."""

import collections

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.diffusion.losses import TIME_SAMPLING
from mmsbm.diffusion.parametrization import PARAMETRIZATIONS
from mmsbm.diffusion.process import Diffusion
from mmsbm.diffusion.sde import SDES
from mmsbm.latents import MISSING, NOISY, OBSERVED, LatentLayout
from mmsbm.learners.base import STREAMS
from mmsbm.learners.latent_score import LatentScore, draw_observed, draw_one
from mmsbm.nn.score_nets import MLPScoreNet

LAYOUT = LatentLayout((1, 3, 2))
KEYS = dict(
  zip(STREAMS, jax.random.split(jax.random.key(5), len(STREAMS)), strict=True)
)


# --- which modalities are shown -----------------------------------------------


@pytest.mark.parametrize(
  ('present', 'expected'),
  [
    # Sizes 1 and 2 with probability 1/2 each, then any subset of that size.
    ('111', dict.fromkeys(['100', '010', '001', '110', '101', '011'], 1 / 6)),
    ('101', {'100': 1 / 2, '001': 1 / 2}),
    ('010', {'000': 1.0}),
    ('000', {'000': 1.0}),
  ],
)
@pytest.mark.parametrize('probability', [0.0, 0.3, 1.0])
def test_frequencies_of_the_shown_subsets(present, expected, probability):
  num = 20_000
  rows = jnp.broadcast_to(jnp.array([c == '1' for c in present]), (num, 3))
  shown = np.asarray(draw_observed(jax.random.key(0), rows, probability))
  counts = collections.Counter(''.join(str(int(v)) for v in row) for row in shown)
  expected = {k: probability * p for k, p in expected.items()}
  expected['000'] = 1 - sum(p for k, p in expected.items() if k != '000')
  assert set(counts) <= {k for k, p in expected.items() if p > 0}
  for subset, p in expected.items():
    assert abs(counts[subset] / num - p) <= 4 * np.sqrt(p * (1 - p) / num), subset


def test_an_absent_modality_is_never_shown_and_something_is_always_hidden():
  present = jax.random.bernoulli(jax.random.key(1), 0.6, (5000, 5))
  shown = np.asarray(draw_observed(jax.random.key(2), present, 0.9))
  present = np.asarray(present)
  assert not (shown & ~present).any()
  some = present.any(1)
  assert (shown.sum(1) < present.sum(1))[some].all()


# --- the loss -----------------------------------------------------------------


class PerModality(nn.Module):
  """Score c_m z of a Gaussian of variance -1 / c_m."""

  slopes: tuple[float, ...]

  def __call__(self, z, t, role, train):
    return jnp.asarray(self.slopes)[LAYOUT.modality_of_dim] * z


class Free(nn.Module):
  """Any output: one parameter for each entry of the batch."""

  @nn.compact
  def __call__(self, z, t, role, train):
    return self.param('out', nn.initializers.zeros, z.shape)


def make(network, *, sde='vp', parametrization='score', probability=0.0, times=None,
         weighting='uniform', drop=0.0, loss_scaling=True):  # fmt: skip
  return LatentScore(
    network=network,
    layout=LAYOUT,
    diffusion=Diffusion(
      sde=SDES[sde](),
      parametrization=PARAMETRIZATIONS[parametrization](),
      times=TIME_SAMPLING[times or 'uniform'](),
      weighting=weighting,
    ),
    condition_probability=probability,
    drop_probability=drop,
    loss_scaling=loss_scaling,
  )


@pytest.mark.parametrize('sde', SDES)
@pytest.mark.parametrize('present', ['111', '011'])
def test_the_loss_of_a_linear_score_is_its_closed_form(sde, present):
  """E (s c (a z + s eps) + eps)^2 = (c s a z)^2 + (c s^2 + 1)^2, a and s of the SDE.

  The mean over the dimensions that are there: modalities have 1, 3 and 2.
  """
  slopes = (-0.9, -0.2, -0.5)
  learner = make(PerModality(slopes), sde=sde)
  z = np.array([[0.7, -1.1, 0.4, 2.0, -0.3, 0.9]], np.float32)
  mask = np.array([c == '1' for c in present])
  batch = {'z': jnp.asarray(z), 'present': jnp.asarray(mask[None])}

  def loss(key):
    time, noise = jax.random.split(key)
    return learner.loss(
      {}, None, batch, KEYS | {'time': time, 'noise': noise}, train=True
    )[0]

  values = jax.jit(jax.vmap(loss))(jax.random.split(jax.random.key(0), 40_000))
  t = ((np.arange(20_000) + 0.5) / 20_000)[:, None]
  alpha, sigma = learner.sde.alpha(t), learner.sde.sigma(t)
  c = np.array(slopes)[LAYOUT.modality_of_dim]
  per_dim = (c * sigma * alpha * z) ** 2 + (c * sigma**2 + 1) ** 2
  expected = np.asarray(per_dim)[:, mask[LAYOUT.modality_of_dim]].mean()
  assert abs(values.mean() - expected) < 4 * values.std() / 200


def test_shown_and_absent_dimensions_have_no_gradient():
  num = 64
  learner = make(Free(), probability=0.7)
  z = jax.random.normal(jax.random.key(0), (num, LAYOUT.total))
  present = jax.random.bernoulli(jax.random.key(1), 0.7, (num, 3))
  # An absent latent holds anything, even what is no number.
  dims = LAYOUT.expand(present)
  batch = {'z': jnp.where(dims, z, jnp.nan), 'present': present}
  variables = {'params': {'out': jnp.zeros(z.shape)}}

  def loss(variables):
    return learner.loss(variables, None, batch, KEYS, train=True)[0]

  value, grad = jax.jit(jax.value_and_grad(loss))(variables)
  key = jax.random.split(KEYS['condition'], 3)[0]
  observed = draw_observed(key, present, 0.7)
  free = LAYOUT.expand(present & ~observed)
  assert observed.any() and np.isfinite(value)
  np.testing.assert_array_equal(np.asarray(grad['params']['out']) != 0, free)


@pytest.mark.parametrize('parametrization', PARAMETRIZATIONS)
@pytest.mark.parametrize('sde', SDES)
@pytest.mark.parametrize(
  'times,weighting', [('uniform', 'likelihood'), ('lognormal', 'edm')]
)
def test_gradients_are_finite_for_every_pattern_of_presence(
  sde, parametrization, times, weighting
):
  learner = make(
    Free(), sde=sde, parametrization=parametrization, probability=0.8, times=times,
    weighting=weighting,
  )  # fmt: skip
  patterns = np.array([[i >> m & 1 for m in range(3)] for i in range(8)] * 4, bool)
  z = jax.random.normal(jax.random.key(0), (len(patterns), LAYOUT.total))
  batch = {'z': z, 'present': jnp.asarray(patterns)}
  variables = {'params': {'out': jnp.ones(z.shape)}}
  value, grad = jax.jit(
    jax.value_and_grad(lambda v: learner.loss(v, None, batch, KEYS, train=True)[0])
  )(variables)
  assert np.isfinite(value) and np.isfinite(grad['params']['out']).all()
  empty = ~patterns.any(1)
  assert not np.asarray(grad['params']['out'])[empty].any()


def shown_to_the_network(batch, **options):
  """What a loss calls its network with, by name, and the loss."""
  seen = {}

  class Recorder(nn.Module):
    def __call__(self, z, t, role, train):
      seen.update(z=z, t=t, role=role)
      return jnp.zeros_like(z)

  loss = make(Recorder(), **options).loss({}, None, batch, KEYS, train=True)[0]
  return {k: np.asarray(v) for k, v in seen.items()}, loss


def test_what_the_network_is_shown():
  """Observed modalities clean at time 0, missing ones empty, the rest at one time."""
  num = 200
  z = jax.random.normal(jax.random.key(0), (num, LAYOUT.total))
  present = np.asarray(jax.random.bernoulli(jax.random.key(1), 0.7, (num, 3)))
  seen, _ = shown_to_the_network({'z': z, 'present': present}, probability=0.5)
  role, t = seen['role'], seen['t']
  np.testing.assert_array_equal(role == MISSING, ~present)
  assert (role == OBSERVED).any() and (t[role == OBSERVED] == 0).all()
  noisy = role == NOISY
  assert (t[noisy] > 0).all() and len(np.unique(t[noisy])) > 50
  for row, n in zip(t, noisy, strict=True):
    assert len(set(row[n])) <= 1
  shown = np.asarray(LAYOUT.expand(role == OBSERVED))
  np.testing.assert_array_equal(seen['z'][shown], np.asarray(z)[shown])
  assert not seen['z'][np.asarray(LAYOUT.expand(~present))].any()
  assert seen['z'][np.asarray(LAYOUT.expand(noisy))].all()


def test_dropped_rows_miss_what_others_show():
  num = 4000
  batch = {'z': jnp.ones((num, LAYOUT.total)), 'present': jnp.ones((num, 3), bool)}
  role = shown_to_the_network(batch, probability=0.5, drop=0.3)[0]['role']
  assert not ((role == OBSERVED).any(1) & (role == MISSING).any(1)).any()
  # 0.5 of the rows hide something; 0.3 of those by leaving it out.
  assert abs((role == OBSERVED).any(1).mean() - 0.35) < 0.03
  assert abs((role == MISSING).any(1).mean() - 0.15) < 0.03
  assert (role == NOISY).any(1).all()


def test_an_unpaired_row_shows_one_of_its_modalities():
  num = 3000
  rng = np.random.default_rng(0)
  present = rng.random((num, 3)) < 0.8
  paired = rng.random(num) < 0.5
  batch = {'z': jnp.ones((num, LAYOUT.total)), 'present': present, 'paired': paired}
  role = shown_to_the_network(batch, probability=0.5)[0]['role']
  alone = role[~paired] != MISSING
  np.testing.assert_array_equal(alone.sum(1), present[~paired].any(1))
  assert (alone <= present[~paired]).all()
  assert not (role[~paired] == OBSERVED).any()
  full = present[~paired].all(1)
  np.testing.assert_allclose(alone[full].mean(0), 1 / 3, atol=0.05)
  np.testing.assert_array_equal(role[paired] != MISSING, present[paired])
  with_pairing = dict(batch, paired=np.ones(num, bool))
  known = {k: v for k, v in batch.items() if k != 'paired'}
  np.testing.assert_array_equal(
    shown_to_the_network(with_pairing, probability=0.5)[0]['role'],
    shown_to_the_network(known, probability=0.5)[0]['role'],
  )


def test_draw_one_of_nothing_is_nothing():
  present = jnp.array([[False] * 3, [False, True, False]])
  np.testing.assert_array_equal(draw_one(jax.random.key(0), present), present)


def test_loss_scaling_is_the_share_of_free_dimensions():
  """Each row's loss times (D - D_S) / D turns the mean over the free into sum / D."""
  present = jnp.array([[False, True, True]])
  batch = {'z': jnp.ones((1, LAYOUT.total)), 'present': present}
  scaled = shown_to_the_network(batch)[1]
  plain = shown_to_the_network(batch, loss_scaling=False)[1]
  np.testing.assert_allclose(plain, scaled * 5 / 6, rtol=1e-6)


@pytest.mark.parametrize('family', ['normal', 'laplace'])
def test_latents_with_a_spread_are_drawn_anew(family):
  layout, size = LatentLayout((2,)), 40_000
  seen = []

  class Record(nn.Module):
    def __call__(self, z, t, role, train):
      seen.append(z)
      return jnp.zeros_like(z)

  learner = LatentScore(
    network=Record(),
    layout=layout,
    diffusion=Diffusion(
      # Next to no noise: what the network sees is the latent.
      sde=SDES['ve'](sigma_min=1e-4, sigma_max=2e-4),
      parametrization=PARAMETRIZATIONS['score'](),
      times=TIME_SAMPLING['uniform'](),
      weighting='uniform',
    ),
    condition_probability=0.0,
    family=family,
  )
  batch = {
    'z': jnp.tile(jnp.array([[1.0, -2.0]]), (size, 1)),
    'spread': jnp.tile(jnp.array([[0.5, 0.0]]), (size, 1)),
    'present': jnp.ones((size, 1), bool),
  }
  learner.loss({'params': {}}, None, batch, KEYS, train=True)
  z = np.asarray(seen[-1])
  np.testing.assert_allclose(z[:, 1], -2.0, atol=1e-2)
  np.testing.assert_allclose(z[:, 0].mean(), 1.0, atol=0.01)
  np.testing.assert_allclose(z[:, 0].std(), 0.5, rtol=0.03)
  kurtosis = ((z[:, 0] - 1.0) ** 4).mean() / 0.5**4
  np.testing.assert_allclose(kurtosis, {'normal': 3, 'laplace': 6}[family], rtol=0.1)


def test_gaussian_preconditioning_is_the_conditional_mean_of_gaussian_latents():
  """Without a network the denoised latent is that of linear regression."""
  rng = np.random.default_rng(0)
  root = rng.normal(size=(4, 4))
  covariance = root @ root.T / 4
  layout = LatentLayout((1, 2, 1))
  sde = SDES['vp']()
  learner = LatentScore(
    network=MLPScoreNet(dims=layout.dims, width=4, num_blocks=1),
    layout=layout,
    diffusion=Diffusion(
      sde=sde,
      parametrization=PARAMETRIZATIONS['edm'](),
      times=TIME_SAMPLING['uniform'](),
      weighting='edm',
    ),
    condition_probability=0.5,
    gaussian=True,
  )
  z = jnp.asarray(rng.normal(size=(1, 4)), jnp.float32)
  variables = dict(learner.init(jax.random.key(0), {'z': z}))
  assert set(variables) == {'params', 'gaussian'}
  variables['gaussian'] = {'covariance': jnp.asarray(covariance, jnp.float32)}
  # The first is observed, the second noisy, the third missing.
  role = jnp.array([[OBSERVED, NOISY, MISSING]])
  t = jnp.array([[0.0, 0.4, 0.4]])
  score = jax.jit(learner.score)(variables, z, layout.expand(t), t, role)
  alpha, sigma = float(sde.alpha(0.4)), float(sde.sigma(0.4))
  denoised = (np.asarray(z + sigma**2 * score) / alpha)[0]
  known = [0, 1, 2]
  noise = np.diag([1e-4, *2 * [(sigma / alpha) ** 2]])
  y = np.asarray(z)[0, known] / [1.0, alpha, alpha]
  matrix = covariance[np.ix_(known, known)] + noise
  expected = covariance[:, known] @ np.linalg.solve(matrix, y)
  np.testing.assert_allclose(denoised[1:3], expected[1:3], rtol=1e-3, atol=1e-4)
  batch = {'z': jnp.tile(z, (8, 1)), 'present': jnp.ones((8, 3), bool)}
  loss = jax.jit(lambda v, c, b: learner.loss(v, c, b, KEYS, train=True))
  _, terms, mutables = loss(variables, 2 * covariance, batch)
  np.testing.assert_allclose(mutables['gaussian']['covariance'], 2 * covariance, 1e-6)
  assert set(terms) == {'noise_below_0.5', 'noise_0.5_to_2', 'noise_above_2'}
