"""Energies of pairs, against densities of Gaussians and of tables."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmsbm.diffusion.losses import TIME_SAMPLING
from mmsbm.diffusion.sde import SDES, VE
from mmsbm.infra.errors import UserError
from mmsbm.latents import LatentLayout
from mmsbm.learners.base import STREAMS, Training, init_state, train_step
from mmsbm.learners.energy import LatentEnergy, contrastive_loss
from mmsbm.nn.energy_nets import Tower

LAYOUT = LatentLayout((1, 2, 1))
COV = np.array(
  [
    [1.0, 0.6, -0.3, -0.7],
    [0.6, 1.0, 0.2, -0.4],
    [-0.3, 0.2, 1.0, 0.1],
    [-0.7, -0.4, 0.1, 1.0],
  ]
)
KEYS = dict(
  zip(STREAMS, jax.random.split(jax.random.key(5), len(STREAMS)), strict=True)
)


def log_density(z, cov):
  return -0.5 * (
    np.einsum('bi,ij,bj->b', z, np.linalg.inv(cov), z) + np.linalg.slogdet(cov)[1]
  )


def negative_log_ratio(z, t, i, j, sde):
  """-log p(z_i, z_j) / p(z_i) p(z_j) [B] of Gaussians at the times t [M], 0 clean."""
  t = np.asarray(t, np.float32)[LAYOUT.modality_of_dim]
  alpha = np.where(t > 0, sde.alpha(t), 1.0)
  sigma = np.where(t > 0, sde.sigma(t), 0.0)
  cov = COV * np.outer(alpha, alpha) + np.diag(sigma**2)
  dims = [np.flatnonzero(LAYOUT.modality_of_dim == m) for m in (i, j)]
  parts = [*dims, np.concatenate(dims)]
  each = [log_density(z[:, d], cov[np.ix_(d, d)]) for d in parts]
  return each[0] + each[1] - each[2]


def noised(z, t, sde, seed=0):
  t = np.asarray(t, np.float32)[LAYOUT.modality_of_dim]
  noise = np.random.default_rng(seed).normal(size=z.shape)
  return np.where(t > 0, sde.perturb(z, noise, t), z).astype(np.float32)


def make(**options):
  sde = options.pop('sde', VE(sigma_min=0.02, sigma_max=40.0))
  network = options.pop('network', None) or Tower(LAYOUT.dims, width=64, features=32)
  times = TIME_SAMPLING['lognormal'](mean=0.0, std=1.2)
  return LatentEnergy(network=network, layout=LAYOUT, sde=sde, times=times, **options)


@pytest.fixture(scope='module')
def trained():
  """A learner and its variables after some seconds of training on Gaussians."""
  steps, batch = 1500, 256
  learner = make()
  training = Training(
    learner=learner,
    optimizer=optax.adam(optax.cosine_decay_schedule(3e-3, steps)),
    ema_decay=0.99,
    num_steps=steps,
    batch_size=batch,
    key=jax.random.key(0),
  )
  root = jnp.asarray(np.linalg.cholesky(COV), jnp.float32)

  def examples(key):
    z = jax.random.normal(key, (batch, LAYOUT.total)) @ root.T
    return {'z': z, 'present': jnp.ones((batch, 3), bool)}

  # Long enough that a quick program is worth its compilation.
  optimised = {
    'xla_backend_optimization_level': 3,
    'xla_llvm_disable_expensive_passes': False,
  }

  @functools.partial(jax.jit, compiler_options=optimised)
  def run(state):
    def step(state, key):
      return train_step(training, state, None, examples(key))

    return jax.lax.scan(step, state, jax.random.split(jax.random.key(1), steps))

  state, logs = run(init_state(training, examples(jax.random.key(2))))
  assert logs['loss'][-100:].mean() < 2 * np.log(2) - 0.02
  return learner, {'params': state.ema_params}


@pytest.mark.parametrize('level', [0.2, 1.0])
@pytest.mark.parametrize('pair', [(0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize('clean', [False, True], ids=['both_noised', 'one_clean'])
def test_trained_energies_are_the_log_ratio(trained, level, pair, clean):
  """Not only correlated with it: of its size, so that a scale has a meaning."""
  learner, variables = trained
  t = np.full(3, float(learner.sde.time_of_noise_level(level)), np.float32)
  t[pair[0]] *= not clean
  z = np.random.default_rng(0).multivariate_normal(np.zeros(4), COV, 4000)
  z = noised(z, t, learner.sde)
  pair_energy = jax.jit(learner.pair_energy)
  energy = np.asarray(pair_energy(variables, z, jnp.broadcast_to(t, (len(z), 3))))
  np.testing.assert_allclose(energy, energy.swapaxes(1, 2), atol=1e-5)
  energy = energy[:, pair[0], pair[1]]
  exact = negative_log_ratio(z, t, *pair, learner.sde)
  slope = np.polyfit(exact, energy, 1)[0]
  assert abs(energy.mean() - exact.mean()) < 0.1
  if exact.std() > 0.15:
    assert np.corrcoef(energy, exact)[0, 1] > 0.95
    assert 0.8 < slope < 1.2


def test_energies_vanish_where_noise_hides_the_latents(trained):
  learner, variables = trained
  z = 40 * np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
  pair_energy = jax.jit(learner.pair_energy)
  energy = np.asarray(pair_energy(variables, z, jnp.ones((100, 3))))
  assert np.abs(energy[:, *np.triu_indices(3, 1)]).max() < 0.02


def test_gradients_of_the_energies_are_those_of_the_log_ratio(trained):
  """What guidance uses, for a free modality beside one observed clean."""
  learner, variables = trained
  t = np.array([float(learner.sde.time_of_noise_level(0.7)), 0.3, 0.0], np.float32)
  z = np.random.default_rng(0).multivariate_normal(np.zeros(4), COV, 1000)
  z = noised(z, t, learner.sde)

  def total(z):
    times = jnp.broadcast_to(t, (len(z), 3))
    return learner.pair_energy(variables, z, times)[:, 0, 2].sum()

  got = np.asarray(jax.jit(jax.grad(total))(jnp.asarray(z)))[:, 0]
  step = np.zeros(4)
  step[0] = 1e-3
  exact = [negative_log_ratio(z + d, t, 0, 2, learner.sde) for d in (step, -step)]
  exact = (exact[0] - exact[1]) / 2e-3
  # Rougher than the energies themselves.
  assert np.corrcoef(got, exact)[0, 1] > 0.9
  assert 0.8 < np.polyfit(exact, got, 1)[0] < 1.2


# --- the loss -----------------------------------------------------------------


@pytest.mark.parametrize('rate', [0.0, 0.1])
def test_the_smallest_loss_is_at_the_log_ratio(rate):
  """Expectations over a table of 12 pairs: the gradient is 0 there, and only there."""
  joint = np.random.default_rng(0).dirichlet(np.full(12, 3.0)).reshape(3, 4)
  product = np.outer(joint.sum(1), joint.sum(0))
  other = (product - rate * joint) / (1 - rate)
  assert other.min() > 0

  def loss(energy):
    return contrastive_loss(energy, energy, jnp.asarray(joint), product, rate)

  exact = -np.log(joint / other)
  gradient = jax.jit(jax.grad(loss))(jnp.asarray(exact, jnp.float32))
  np.testing.assert_allclose(gradient, 0, atol=1e-6)
  assert loss(exact) < min(loss(exact + 0.2), loss(exact - 0.2), loss(-exact))
  np.testing.assert_allclose(loss(np.zeros((3, 4))), 2 * np.log(2), rtol=1e-6)


def recorder(rows, seen):
  """A network with one parameter for each of the energies of `rows` rows.

  Row a has the feature e_a, so that parameter [a, i, b] is in the energies of
  modality i of row a with the others of row b. Its inputs go to the dict `seen`.
  """

  class Recorder(nn.Module):
    @nn.compact
    def __call__(self, z, t, train):
      seen.update(z=z, t=t)
      shape = (rows, 3, rows)
      table = self.param('table', nn.initializers.zeros, shape)
      return jnp.broadcast_to(jnp.eye(rows)[:, None], shape), table

  return Recorder()


def gradients(present, paired=None):
  """Gradient of the loss for the table of `recorder`, for one group of eight rows."""
  rows = 8
  learner = make(network=recorder(rows, {}), group_size=rows, clean_probability=0.0)
  batch = {'z': jnp.ones((rows, 4)), 'present': jnp.asarray(present)}
  if paired is not None:
    batch['paired'] = jnp.asarray(paired)

  def loss(table):
    return learner.loss({'params': {'table': table}}, None, batch, KEYS, train=True)[0]

  return np.asarray(jax.jit(jax.grad(loss))(jnp.zeros((rows, 3, rows))))


def test_a_row_is_never_its_own_negative():
  """Positives are pushed down, pairs of two rows up, all of them with equal force."""
  pushed = gradients(np.ones((8, 3), bool)).swapaxes(0, 1)
  same = np.broadcast_to(np.eye(8, dtype=bool), pushed.shape)
  # E falls with the product of features, so a positive gradient pushes energies up.
  assert (pushed[same] < 0).all() and (pushed[~same] > 0).all()
  assert np.ptp(pushed[same]) < 1e-6 and np.ptp(pushed[~same]) < 1e-6
  np.testing.assert_allclose(-pushed[same].sum(), pushed[~same].sum(), rtol=1e-5)
  # The slope of softplus at 0 is 1/2. A row among its own negatives would take away an
  # eighth of it and leave all ratios as they are.
  learner = make()
  t, _ = learner.times(KEYS['time'], (1, 1), learner.sde)
  c_squared = 1 / (1 + learner.sde.noise_level(t[0, 0]) ** 2)
  slope = 2 * 0.5 * c_squared / (2 * np.sqrt(8))
  np.testing.assert_allclose(-pushed[same].sum(), slope, rtol=1e-4)


def test_absent_modalities_and_unpaired_rows():
  present = np.ones((8, 3), bool)
  present[2, 1] = False
  paired = np.arange(8) != 5
  pushed = gradients(present, paired)
  assert not pushed[2, 1].any() and pushed[2, 0].any()
  # The row whose pairing is unknown has negatives, and no positive.
  assert (np.delete(pushed[5], 5, axis=1) > 0).all() and not pushed[5, :, 5].any()
  assert (pushed[4, :, 4] < 0).all()
  assert not gradients(present, np.zeros(8, bool)).any()


def test_rows_of_a_group_share_their_times():
  """Else the times would tell positives from negatives."""
  num = 512
  seen = {}
  learner = make(network=recorder(num, seen), clean_probability=0.4)
  z = jax.random.normal(jax.random.key(0), (num, 4))
  batch = {'z': z, 'present': jnp.ones((num, 3), bool)}
  variables = {'params': {'table': jnp.zeros((num, 3, num))}}
  learner.loss(variables, None, batch, KEYS, train=True)
  t = np.asarray(seen['t']).reshape(-1, 8, 3)
  assert (t == t[:, :1]).all()
  t = t[:, 0]
  assert abs((t == 0).mean() - 0.4) < 0.15
  assert len(np.unique(t[t > 0])) > 40
  for row in t:
    assert len(set(row[row > 0])) <= 1
  shown = np.asarray(LAYOUT.expand(np.repeat(t, 8, 0) == 0))
  np.testing.assert_array_equal(np.asarray(seen['z'])[shown], np.asarray(z)[shown])


@pytest.mark.parametrize('sde', SDES)
def test_gradients_are_finite(sde):
  learner = make(sde=SDES[sde](), false_negative_rate=0.1)
  num = 64
  z = jax.random.normal(jax.random.key(0), (num, 4))
  present = jax.random.bernoulli(jax.random.key(1), 0.7, (num, 3))
  batch = {
    'z': jnp.where(LAYOUT.expand(present), z, jnp.nan),
    'present': present,
    'paired': jnp.arange(num) % 2 == 0,
  }
  variables = jax.jit(learner.init)(jax.random.key(2), batch)
  value, grads = jax.jit(
    jax.value_and_grad(lambda v: learner.loss(v, None, batch, KEYS, train=True)[0])
  )(variables)
  np.testing.assert_allclose(value, 2 * np.log(2), rtol=1e-5)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
  assert any(np.asarray(g).any() for g in jax.tree.leaves(grads))


def test_mistakes_are_explained():
  with pytest.raises(
    UserError, match='batch_size=8 must be a multiple of group_size=3'
  ):
    learner = make(group_size=3)
    batch = {'z': jnp.ones((8, 4)), 'present': jnp.ones((8, 3), bool)}
    learner.loss(learner.init(KEYS['noise'], batch), None, batch, KEYS, train=True)
  for options, message in (
    ({'clean_probability': 1.0}, 'clean_probability=1.0 must be in'),
    ({'false_negative_rate': 1.0}, 'false_negative_rate=1.0 must be in'),
    ({'group_size': 1}, 'group_size=1 must be at least 2'),
  ):
    with pytest.raises(UserError, match=message):
      make(**options)
