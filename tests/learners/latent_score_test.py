"""The score model: which modalities are shown, and the loss in closed form."""

import collections

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.diffusion.losses import TIME_SAMPLING
from mmsbm.diffusion.parametrization import PARAMETRIZATIONS
from mmsbm.diffusion.sde import SDES
from mmsbm.latents import LatentLayout
from mmsbm.learners.base import STREAMS
from mmsbm.learners.latent_score import LatentScore, draw_observed

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

  def __call__(self, z, t, observed, train):
    return jnp.asarray(self.slopes)[LAYOUT.modality_of_dim] * z


class Free(nn.Module):
  """Any output: one parameter for each entry of the batch."""

  @nn.compact
  def __call__(self, z, t, observed, train):
    return self.param('out', nn.initializers.zeros, z.shape)


def make(network, *, sde='vp', parametrization='score', probability=0.0, times=None,
         weighting='uniform'):  # fmt: skip
  return LatentScore(
    network=network,
    layout=LAYOUT,
    sde=SDES[sde](),
    parametrization=PARAMETRIZATIONS[parametrization](),
    times=TIME_SAMPLING[times or 'uniform'](),
    weighting=weighting,
    condition_probability=probability,
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

  values = jax.vmap(loss)(jax.random.split(jax.random.key(0), 40_000))
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

  value, grad = jax.value_and_grad(loss)(variables)
  observed = draw_observed(KEYS['condition'], present, 0.7)
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
  value, grad = jax.value_and_grad(
    lambda v: learner.loss(v, None, batch, KEYS, train=True)[0]
  )(variables)
  assert np.isfinite(value) and np.isfinite(grad['params']['out']).all()
  empty = ~patterns.any(1)
  assert not np.asarray(grad['params']['out'])[empty].any()


def test_what_the_network_is_shown():
  """Shown modalities clean at time 0, absent ones pure noise at time 1."""
  seen = {}

  class Recorder(nn.Module):
    def __call__(self, z, t, observed, train):
      seen.update(z=z, t=t, observed=observed, train=train)
      return jnp.zeros_like(z)

  num = 200
  learner = make(Recorder(), probability=0.5)
  z = jax.random.normal(jax.random.key(0), (num, LAYOUT.total))
  present = jax.random.bernoulli(jax.random.key(1), 0.7, (num, 3))
  learner.loss({}, None, {'z': z, 'present': present}, KEYS, train=True)
  observed = np.asarray(seen['observed'])
  hidden = np.asarray(present) & ~observed
  t = np.asarray(seen['t'])
  assert (t[observed] == 0).all() and (t[~np.asarray(present)] == 1).all()
  assert (t[hidden] > 0).all() and len(np.unique(t[hidden])) > 50
  for row, h in zip(t, hidden, strict=True):
    assert len(set(row[h])) <= 1
  shown = np.asarray(LAYOUT.expand(observed))
  np.testing.assert_array_equal(np.asarray(seen['z'])[shown], np.asarray(z)[shown])
  noise = np.asarray(jax.random.normal(KEYS['noise'], z.shape))
  absent = np.asarray(LAYOUT.expand(~present))
  sigma = learner.sde.sigma(1.0)
  np.testing.assert_allclose(np.asarray(seen['z'])[absent], sigma * noise[absent])
  assert seen['train']
