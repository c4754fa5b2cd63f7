"""Terms of guidance, against correlated Gaussians and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.diffusion.sde import SDES, VE
from mmsbm.guidance import (
  ClassifierFree,
  Energy,
  GuidanceInputs,
  guided_score,
  num_evaluations,
  random_half,
)
from mmsbm.infra.errors import UserError
from mmsbm.samplers.grids import time_grid
from mmsbm.samplers.langevin import AnnealedLangevin

RHO, OBSERVED, SCALE = 0.6, 1.3, 1.5
TIMES = (0.05, 0.4, 0.9)


def dropped(sde):
  """Score of the first of two latents alone, z ~ N(0, 1)."""

  def score(z, t, missing):
    return -z / (sde.alpha(t) ** 2 + sde.sigma(t) ** 2) * jnp.array([1.0, 0.0])

  return score


def conditional(sde):
  """Score of the first latent given o = OBSERVED, z ~ N(RHO o, 1 - RHO^2)."""

  def score(z, t):
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    variance = alpha**2 * (1 - RHO**2) + sigma**2
    return (alpha * RHO * OBSERVED - z) / variance * jnp.array([1.0, 0.0])

  return score


def make_draw(observed, dropped_score, pair_energy):
  """Modalities of one dimension each."""
  keys = jax.random.split(jax.random.key(5), len(observed))
  return GuidanceInputs(
    observed, observed, keys, lambda x: x, dropped_score, pair_energy
  )


def draw_of(rows, sde, observed=(False, True), pair_energy=None):
  shown = jnp.broadcast_to(jnp.array(observed), (rows, 2))
  return make_draw(shown, dropped(sde), pair_energy)


def log_tilted(z, t, sde, scale):
  """log p_t(z) p(o | z_t)^(1 + scale), from two joint Gaussians."""
  alpha, sigma = sde.alpha(t), sde.sigma(t)
  variance = alpha**2 + sigma**2
  gain = alpha * RHO / variance
  log_o = -0.5 * (OBSERVED - gain * z) ** 2 / (1 - alpha * RHO * gain)
  return -0.5 * z**2 / variance + (1 + scale) * log_o


@pytest.mark.parametrize('sde', SDES)
@pytest.mark.parametrize('t', TIMES)
def test_classifier_free_is_the_score_of_the_tilted_density(sde, t):
  sde = SDES[sde]()
  z = jnp.linspace(-3, 3, 7)
  guided = guided_score(
    (ClassifierFree(scale=SCALE),), conditional(sde), draw_of(7, sde), sde
  )
  got = guided(jnp.stack([z, jnp.full(7, OBSERVED)], 1), jnp.float32(t))
  exact = jax.vmap(jax.grad(log_tilted), (0, None, None, None))(z, t, sde, SCALE)
  np.testing.assert_allclose(got[:, 0], exact, rtol=1e-4, atol=1e-5)
  assert not got[:, 1].any()


def test_classifier_free_samples_of_langevin_dynamics_are_the_tilted_gaussian():
  """At one level, with the error of its steps and the last denoising in the numbers."""
  sde = VE(sigma_min=0.5, sigma_max=0.5001)
  n, t = 4000, 0.0
  sampler = AnnealedLangevin(
    num_levels=2, steps_per_level=40, step_size=0.5, time_min=0.0
  )
  guided = guided_score(
    (ClassifierFree(scale=SCALE),), conditional(sde), draw_of(n, sde), sde
  )
  keys = jax.random.split(jax.random.key(0), n)

  @jax.jit
  def run(z):
    hold = lambda keys, z, t, visit: z  # noqa: E731
    return sampler(keys, guided, z, sde=sde, hold=hold)

  z = np.asarray(run(jnp.zeros((n, 2))))[:, 0]
  slope = jax.grad(jax.grad(log_tilted))(0.0, t, sde, SCALE)
  variance = -1 / slope
  mean = variance * jax.grad(log_tilted)(0.0, t, sde, SCALE)
  noise = sde.sigma(t) ** 2
  step = 0.5 * noise
  # Steps of length a leave V / (1 - a / 4V); denoising shrinks towards the mean.
  expected = variance / (1 - step / (4 * variance)) * (1 - noise / variance) ** 2
  assert abs(z.mean() - mean) < 4 * np.sqrt(expected / n)
  assert abs(z.var() / expected - 1) < 4 * np.sqrt(2 / n)


def test_what_has_nothing_observed_is_left_alone():
  """Even by a score that is not quite that of the free latents."""
  sde = VE()
  off = make_draw(
    jnp.array([[False, False], [False, True]]),
    lambda z, t, missing: dropped(sde)(z, t, missing) + 1e-3,
    lambda z, t: z[:, :1, None] * z[:, None, 1:] * jnp.ones((1, 2, 2)),
  )
  z = jnp.array([[0.3, -0.2], [0.3, -0.2]])
  plain = dropped(sde)(z, 0.5, None)
  score_fn = lambda z, t: dropped(sde)(z, t, None)  # noqa: E731
  for guidance in (ClassifierFree(scale=2.0), Energy(scale=2.0, pairs='observed')):
    got = guided_score((guidance,), score_fn, off, sde)(z, jnp.float32(0.5))
    np.testing.assert_array_equal(got[0], plain[0])
    assert got[1, 0] != plain[1, 0]


def test_per_observed_counts_an_average_condition():
  """The scale over 2, 1, and, with nothing observed, the joint scale as it is."""
  observed = jnp.array([[False, True, True], [False, False, True], [False] * 3])
  draw = make_draw(observed, lambda z, t, missing: 0.2 * z, None)
  z = jnp.arange(1.0, 10.0).reshape(3, 3)
  guidance = ClassifierFree(scale=3.0, joint_scale=5.0, per_observed=True)
  got = np.asarray(guidance.term(draw, 0.9 * z, z, jnp.float32(0.5)))
  np.testing.assert_allclose(got[0], [1.5 * 0.7 * 1, 0, 0], rtol=1e-5)
  np.testing.assert_allclose(got[1], [3.0 * 0.7 * 4, 3.0 * 0.7 * 5, 0], rtol=1e-5)
  share = got[2] / (0.7 * np.asarray(z[2]))
  assert sorted(np.round(share, 4)) == [0, 5, 5]


@pytest.mark.parametrize('sde', SDES)
def test_joint_scale_tilts_by_what_the_halves_tell_of_each_other(sde):
  """log p_t(z) + w log p_t(z) / (p_t(z_0) p_t(z_1)), for one half at a time."""
  sde, t, n = SDES[sde](), jnp.float32(0.4), 50
  alpha, sigma = sde.alpha(t), sde.sigma(t)
  variance, shared = alpha**2 + sigma**2, alpha**2 * RHO

  def log_joint(z):
    quadratic = variance * (z**2).sum() - 2 * shared * z.prod()
    return -0.5 * quadratic / (variance**2 - shared**2)

  def log_alone(z):
    return -0.5 * (z**2).sum() / variance

  score_fn = lambda z, t: jax.vmap(jax.grad(log_joint))(z)  # noqa: E731
  alone = lambda z, t, missing: jax.vmap(jax.grad(log_alone))(z)  # noqa: E731
  z = jax.random.normal(jax.random.key(0), (n, 2))
  draw = make_draw(jnp.zeros((n, 2), bool), alone, None)
  guidance = ClassifierFree(scale=7.0, joint_scale=SCALE)
  got = np.asarray(guided_score((guidance,), score_fn, draw, sde)(z, t))
  tilted = jax.vmap(
    jax.grad(lambda z: (1 + SCALE) * log_joint(z) - SCALE * log_alone(z))
  )(z)
  plain = np.asarray(score_fn(z, t))
  moved = got != plain
  np.testing.assert_array_equal(moved.sum(1), 1)
  assert 0.2 < moved[:, 0].mean() < 0.8
  np.testing.assert_allclose(got[moved], np.asarray(tilted)[moved], rtol=2e-5)


def test_halves_are_drawn_anew_for_every_row_and_level():
  keys, like = jax.random.split(jax.random.key(0), 3000), jnp.zeros((3000, 5))
  one, two = (np.asarray(random_half(keys, t, like)) for t in (0.5, 0.25))
  assert (one.sum(1) == 2).all()
  np.testing.assert_allclose(one.mean(0), 0.4, atol=0.04)
  # Of ten pairs of five, one in ten is drawn twice running.
  assert abs((one == two).all(1).mean() - 0.1) < 0.03
  assert abs((one[1:] == one[:-1]).all(1).mean() - 0.1) < 0.03
  np.testing.assert_array_equal(random_half(keys[:7], 0.5, like[:7]), one[:7])


# --- energies -----------------------------------------------------------------


@pytest.mark.parametrize('t', TIMES)
def test_optimal_energy_of_scale_one_adds_the_likelihood_once_more(t):
  """The term of scale w is w d/dz log p(o | z): the same as classifier-free's."""
  sde = VE(sigma_min=0.02, sigma_max=5.0)
  t = jnp.float32(t)

  def pair_energy(z, t):
    gap = log_tilted(z[:, 0], t, sde, -1.0) - log_tilted(z[:, 0], t, sde, 0.0)
    return gap[:, None, None] * (1 - jnp.eye(2))

  draw = draw_of(7, sde, pair_energy=pair_energy)
  z = jnp.stack([jnp.linspace(-3, 3, 7), jnp.full(7, OBSERVED)], 1)
  energy = guided_score((Energy(scale=SCALE),), conditional(sde), draw, sde)(z, t)
  free = guided_score((ClassifierFree(scale=SCALE),), conditional(sde), draw, sde)(z, t)
  np.testing.assert_allclose(energy, free, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('pairs', ['all', 'observed'])
def test_energy_term_is_the_gradient_of_the_mean_over_partners(pairs):
  """Modality by modality, written out: E_ij = (i + j + 1) z_i^2 z_j^2."""
  patterns = np.array([[i >> m & 1 for m in range(4)] for i in range(16)], bool)
  z = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
  number = np.arange(4)
  factor = number[:, None] + number + 1.0

  def pair_energy(z, t):
    return t * factor * z[:, :, None] ** 2 * z[:, None, :] ** 2

  draw = make_draw(jnp.asarray(patterns), None, pair_energy)
  got = np.asarray(Energy(scale=3.0, pairs=pairs).term(draw, None, jnp.asarray(z), 0.5))
  for row, observed in enumerate(patterns):
    for i in range(4):
      partners = [j for j in range(4) if j != i and (pairs == 'all' or observed[j])]
      slopes = [factor[i, j] * z[row, i] * z[row, j] ** 2 for j in partners]
      expected = 0.0 if observed[i] or not partners else -3.0 * np.mean(slopes)
      np.testing.assert_allclose(got[row, i], expected, rtol=1e-4, atol=1e-6)


# --- intervals ----------------------------------------------------------------


@pytest.mark.parametrize('sde', SDES)
@pytest.mark.parametrize(
  'limits,count', [((), 20), ((0.5,), None), ((0.5, 2.0), None), ((1e6, 1e7), 0)]
)
def test_only_the_interval_is_paid_for(sde, limits, count):
  """Calls while the program runs are those that are counted before it does."""
  sde = SDES[sde]()
  names = ('noise_min', 'noise_max')[: len(limits)]
  guidance = ClassifierFree(scale=1.0, **dict(zip(names, limits, strict=True)))
  times = time_grid(sde, 'edm', 20, 1e-3)
  calls = []

  def counted(z, t, missing):
    jax.debug.callback(lambda t: calls.append(float(t)), t)
    return jnp.zeros_like(z)

  draw = make_draw(jnp.array([[False, True]]), counted, None)
  guided = guided_score((guidance,), lambda z, t: z, draw, sde)

  @jax.jit
  def run(z):
    return jax.lax.scan(lambda z, t: (guided(z, t), None), z, times)[0]

  run(jnp.ones((1, 2))).block_until_ready()
  jax.effects_barrier()
  low, high = guidance.noise_min, guidance.noise_max
  levels = np.asarray(sde.noise_level(times))
  expected = times[(levels >= low) & (levels <= high)]
  np.testing.assert_allclose(calls, expected)
  assert num_evaluations((guidance,), sde, times) == 20 + len(calls)
  assert count in (None, len(calls))


def test_mistakes_are_explained():
  for arguments in ({'noise_min': -1.0}, {'noise_min': 2.0, 'noise_max': 1.0}):
    with pytest.raises(UserError, match='must be at least 0 and below noise_max'):
      ClassifierFree(scale=1.0, **arguments)
  with pytest.raises(UserError, match="joint_scale='high' is not a number"):
    ClassifierFree(scale=1, joint_scale='high')
  with pytest.raises(UserError, match="pairs='some' is not 'all' or 'observed'"):
    Energy(scale=1.0, pairs='some')
