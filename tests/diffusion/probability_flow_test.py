"""The density of the probability flow, on Gaussians, whose flow is known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.diffusion.probability_flow import ProbabilityFlow
from mmsbm.diffusion.sde import SDES, VE, VP, SubVP
from mmsbm.infra.errors import UserError

MEAN = np.array([0.5, -1.0, 0.3, 0.8])
COV = np.array(
  [
    [1.0, 0.6, -0.3, 0.5],
    [0.6, 1.5, 0.2, 0.4],
    [-0.3, 0.2, 0.7, 0.1],
    [0.5, 0.4, 0.1, 0.8],
  ]
)
# So much noise at t = 1, and so little at the end, that the flow is the data.
WIDE = {
  've': VE(sigma_min=1e-3, sigma_max=1e4),
  'vp': VP(beta_max=40.0),
  'sub_vp': SubVP(beta_max=40.0),
}


def log_normal(z, mean, cov):
  """log N(z [B, D]; mean, cov), [B]."""
  centered = np.asarray(z, np.float64) - mean
  square = (centered * np.linalg.solve(cov, centered.T).T).sum(-1)
  return -0.5 * (square + np.linalg.slogdet(2 * np.pi * cov)[1])


def exact_flow(z, mean, cov, s_min, s_max):
  """log density of the flow that starts from N(0, 1 + s_max^2), in y = z / alpha."""
  eye = np.eye(len(mean))
  values, vectors = np.linalg.eigh(cov)
  growth = np.sqrt((values + s_max**2) / (values + s_min**2))
  end = mean + ((z - mean) @ vectors * growth) @ vectors.T
  return (
    log_normal(z, mean, cov + s_min**2 * eye)
    - log_normal(end, mean, cov + s_max**2 * eye)
    + log_normal(end, np.zeros_like(mean), (1 + s_max**2) * eye)
  )


def score_of(mean, cov, sde, observed=None):
  """Score at z [B, D] of dimensions that all have time t, observed ones time 0."""

  def score_fn(z, t):
    t = jnp.broadcast_to(t, z.shape)
    if observed is not None:
      t = jnp.where(observed, 0.0, t)
    # Dimensions at time 0 have no noise, whatever the SDE.
    sigma = jnp.where(t > 0, sde.sigma(t), 0.0)
    alpha = sde.alpha(t)
    total = alpha[:, :, None] * jnp.asarray(cov, z.dtype) * alpha[:, None, :]
    total += jnp.square(sigma)[:, :, None] * jnp.eye(z.shape[1])
    return -jnp.linalg.solve(
      total, (z - alpha * jnp.asarray(mean, z.dtype))[..., None]
    )[..., 0]

  return score_fn


def draws(num, seed=0):
  rng = np.random.default_rng(seed)
  return rng.multivariate_normal(MEAN, COV, num).astype(np.float32)


def density(flow, sde, z, observed=None, score_fn=None):
  """log density [B] and standard error [B], jitted."""
  keys = jax.random.split(jax.random.key(7), len(z))
  free = np.ones(z.shape, bool) if observed is None else ~observed
  score_fn = score_fn or score_of(MEAN, COV, sde, observed)
  run = jax.jit(lambda z: flow(keys, score_fn, z, sde=sde, free=free))
  out = jax.tree.map(np.asarray, run(z))
  assert out[0].dtype == z.dtype and np.isfinite(out[0]).all()
  return out


@pytest.mark.parametrize('name', SDES)
def test_it_is_the_density_of_the_data(name):
  """To 1e-3 nats, where start and end of the process hide nothing."""
  z, sde = draws(20), WIDE[name]
  got, stderr = density(ProbabilityFlow(num_steps=100), sde, z)
  np.testing.assert_allclose(got, log_normal(z, MEAN, COV), atol=1e-3)
  assert not stderr.any()


@pytest.mark.parametrize('name', SDES)
def test_it_is_the_density_of_the_flow(name):
  """From N(0, alpha^2 + sigma^2) to the noise of the last level."""
  sde = VE(sigma_min=0.3, sigma_max=5.0) if name == 've' else SDES[name](beta_max=5.0)
  flow, z = ProbabilityFlow(num_steps=100, time_min=0.05), draws(20)
  s_min, s_max = (float(sde.noise_level(t)) for t in (flow.time_min, 1.0))
  expected = exact_flow(z, MEAN, COV, s_min, s_max)
  got, _ = density(flow, sde, z)
  np.testing.assert_allclose(got, expected, atol=2e-4)
  # Start and end do show here: the test tells them from the data.
  assert np.abs(expected - log_normal(z, MEAN, COV)).max() > 0.05


def test_standard_normal_data_are_exact_in_one_step():
  """Only with the variance of the data in the start of the flow."""
  sde, z = VE(sigma_min=0.3, sigma_max=3.0), draws(9)
  score_fn = score_of(np.zeros(4), np.eye(4), sde)
  flow = ProbabilityFlow(num_steps=1)
  s_min = float(sde.noise_level(flow.time_min))
  expected = log_normal(z, np.zeros(4), (1 + s_min**2) * np.eye(4))
  got, _ = density(flow, sde, z, score_fn=score_fn)
  np.testing.assert_allclose(got, expected, atol=2e-5)


@pytest.mark.parametrize('name', SDES)
def test_the_rest_may_be_given(name):
  """Rows with observed sets of their own, none and all included."""
  z, sde = draws(16), WIDE[name]
  sets = np.array([[1, 0, 0, 0], [0, 1, 1, 0], [0] * 4, [1] * 4], bool)
  observed = np.tile(sets, (4, 1))
  got, _ = density(ProbabilityFlow(num_steps=100), sde, z, observed)
  expected = np.zeros(len(z))
  for i, o in enumerate(observed):
    expected[i] = log_normal(z[i : i + 1], MEAN, COV)[0]
    if o.any():
      expected[i] -= log_normal(z[i : i + 1, o], MEAN[o], COV[np.ix_(o, o)])[0]
  np.testing.assert_allclose(got, expected, atol=1e-3)
  np.testing.assert_array_equal(got[3::4], 0.0)


def test_the_score_of_what_is_given_does_not_matter():
  """It may be infinite or undefined at time 0."""
  z, sde = draws(8), WIDE['vp']
  observed = np.tile([True, False, False, True], (8, 1))
  score_fn = score_of(MEAN, COV, sde, observed)

  def broken(z, t):
    return jnp.where(observed, jnp.log(-jnp.ones_like(z)) + z / 0.0, score_fn(z, t))

  flow = ProbabilityFlow(num_steps=10)
  np.testing.assert_array_equal(
    density(flow, sde, z, observed, broken)[0], density(flow, sde, z, observed)[0]
  )


def test_it_is_of_fourth_order():
  """The error falls 16 times when the steps are halved; below what float32 shows."""
  sde, errors = VE(sigma_min=0.02, sigma_max=40.0), []
  with jax.enable_x64(True):
    z = draws(10).astype(np.float64)
    for num_steps in (16, 32, 64):
      flow = ProbabilityFlow(num_steps=num_steps)
      s_min = float(sde.noise_level(flow.time_min))
      got, _ = density(flow, sde, z)
      errors.append(np.abs(got - exact_flow(z, MEAN, COV, s_min, 40.0)).max())
  assert errors[0] < 1e-3
  ratios = np.array(errors[:-1]) / errors[1:]
  assert np.all((ratios > 12) & (ratios < 22)), (errors, ratios)


def test_random_directions_are_right_on_average():
  sde, z = WIDE['ve'], np.tile(draws(1), (400, 1))
  exact, _ = density(ProbabilityFlow(num_steps=20), sde, z[:1])
  got, stderr = density(ProbabilityFlow(num_steps=20, num_probes=4), sde, z)
  # The same z in every row: what differs is the directions alone.
  spread = got.std(ddof=1)
  assert spread > 0.1
  assert abs(got.mean() - exact[0]) < 4 * spread / 20
  np.testing.assert_allclose(np.sqrt(np.square(stderr).mean()), spread, rtol=0.15)


def test_random_directions_of_given_dimensions_do_not_count():
  """With one free dimension every direction gives the exact divergence."""
  sde, z = WIDE['ve'], draws(8)
  observed = np.tile([True, True, False, True], (8, 1))
  exact, _ = density(ProbabilityFlow(num_steps=20), sde, z, observed)
  flow = ProbabilityFlow(num_steps=20, num_probes=2)
  got, stderr = density(flow, sde, z, observed)
  np.testing.assert_allclose(got, exact, atol=1e-5)
  np.testing.assert_allclose(stderr, 0.0, atol=1e-5)


@pytest.mark.parametrize('num_probes', [0, 3])
def test_a_row_depends_on_itself_only(num_probes):
  sde, z = WIDE['ve'], draws(6)
  flow = ProbabilityFlow(num_steps=5, num_probes=num_probes)
  keys = jax.random.split(jax.random.key(0), 6)
  score_fn = score_of(MEAN, COV, sde)
  free = np.ones((6, 4), bool)
  whole, _ = flow(keys, score_fn, z, sde=sde, free=free)
  for rows in ([4], [5, 1]):
    rows = np.array(rows)
    part, _ = flow(keys[rows], score_fn, z[rows], sde=sde, free=free[rows])
    np.testing.assert_allclose(part, whole[rows], atol=1e-5)


def test_more_dimensions_than_directions_at_a_time():
  """21 directions, in unequal parts."""
  dim, sde = 21, WIDE['ve']
  z = np.random.default_rng(0).normal(size=(3, dim)).astype(np.float32)
  var = np.linspace(0.5, 1.5, dim)
  score_fn = score_of(np.zeros(dim), np.diag(var), sde)
  got, _ = density(ProbabilityFlow(num_steps=60), sde, z, score_fn=score_fn)
  np.testing.assert_allclose(got, log_normal(z, np.zeros(dim), np.diag(var)), atol=2e-3)


@pytest.mark.parametrize(
  'options', [dict(num_steps=0), dict(num_probes=1), dict(num_probes=-2)]
)
def test_wrong_options_are_refused(options):
  with pytest.raises(UserError, match=next(iter(options))):
    ProbabilityFlow(**options)


@pytest.mark.parametrize('time_min', [0.0, 1.0])
def test_a_flow_ends_where_there_is_noise(time_min):
  with pytest.raises(UserError, match='time_min'):
    ProbabilityFlow(time_min=time_min)
