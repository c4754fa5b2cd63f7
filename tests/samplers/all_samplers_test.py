"""What every sampler must do: targets, conditioning, independence of rows."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.diffusion.sde import SDES, VP, SubVP
from mmsbm.samplers import CONDITIONING, SAMPLERS
from mmsbm.samplers.ancestral import Ancestral
from mmsbm.samplers.predictor_corrector import PAPER
from mmsbm.samplers.resampling import Resampling

SMALL = {
  'ancestral': {'num_steps': 5, 'eta': 0.7},
  'annealed_langevin': {'num_levels': 3, 'steps_per_level': 2},
  'dpm_solver': {'num_steps': 5},
  'heun': {'num_steps': 4},
  'predictor_corrector': {'num_steps': 4, 'corrector_steps': 2},
}


def _recorded(sampler, sde, resampling=None):
  """Times of the score's calls and (time, visit) of what is held, in order."""
  times, held = [], []

  def score_fn(z, t):
    jax.debug.callback(lambda t: times.append(float(t)), t, ordered=True)
    return -z

  def hold(keys, z, t, visit):
    record = lambda t, v: held.append((float(t), int(v)))  # noqa: E731
    jax.debug.callback(record, t, visit, ordered=True)
    return z

  @jax.jit
  def run(keys, z):
    return sampler(keys, score_fn, z, sde=sde, hold=hold, resampling=resampling)

  run(jax.random.split(jax.random.key(0), 2), jnp.ones((2, 3)))
  jax.effects_barrier()
  return np.array(times), held


@pytest.mark.parametrize(
  'name,options,expected',
  [
    ('ancestral', {'num_steps': 4}, 4),
    ('annealed_langevin', {'num_levels': 3, 'steps_per_level': 2}, 7),
    ('dpm_solver', {'num_steps': 4, 'stochastic': True}, 4),
    ('heun', {'num_steps': 3}, 5),
    ('heun', {'num_steps': 1}, 1),
    ('predictor_corrector', {'num_steps': 2, 'corrector_steps': 2}, 7),
    ('predictor_corrector', {**PAPER, 'num_steps': 3}, 6),
  ],
)
def test_number_and_times_of_evaluations_are_exact(name, options, expected):
  """Recorded by callbacks; each is at decreasing times and after a hold."""
  sampler = SAMPLERS[name](**options)
  times, held = _recorded(sampler, VP())
  assert len(times) == sampler.num_evaluations == expected
  said = sampler.evaluation_times(VP())
  assert isinstance(said, np.ndarray)
  np.testing.assert_array_equal(times, said)
  assert list(times) == [t for t, _ in held]
  np.testing.assert_array_equal(times, sorted(times, reverse=True))
  assert times[0] == 1
  if expected > 1:
    np.testing.assert_allclose(times[-1], 1e-3, rtol=1e-4)


@pytest.mark.parametrize(
  'name,options,expected,visits',
  [
    # Levels 0 1 | 0 1 | 2 | 2 | 3, with a jump at every bar but the last two.
    ('ancestral', {'num_steps': 4}, [0, 1, 0, 1, 2, 2, 3], [0, 1, 3, 4, 5, 7, 8]),
    ('dpm_solver', {'num_steps': 4}, [0, 1, 0, 1, 2, 2, 3], [0, 1, 3, 4, 5, 7, 8]),
    (
      'heun',
      {'num_steps': 4},
      [0, 1, 1, 2, 0, 1, 1, 2, 2, 3, 2, 3, 3],
      [0, 1, 1, 2, 3, 4, 4, 5, 5, 6, 7, 8, 8],
    ),
    (
      'predictor_corrector',
      {'num_steps': 3},
      [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 2, 2, 3],
      [0, 0, 1, 1, 3, 3, 4, 4, 5, 5, 7, 7, 8],
    ),
    (
      'predictor_corrector',
      {'num_steps': 3, 'order': 'predictor_corrector'},
      [0, 1, 1, 2, 0, 1, 1, 2, 2, 3, 2, 3, 3],
      [0, 1, 1, 2, 3, 4, 4, 5, 5, 6, 7, 8, 8],
    ),
    (
      'predictor_corrector',
      {**PAPER, 'num_steps': 4, 'corrector_steps': 0},
      [0, 1, 0, 1, 2, 3, 2, 3],
      [0, 1, 3, 4, 5, 6, 8, 9],
    ),
  ],
)
def test_resampled_evaluations_are_where_they_are_said_to_be(
  name, options, expected, visits
):
  """Times and visits, with stretches of two levels gone down twice."""
  sampler, resampling = SAMPLERS[name](**{'grid': 'time', **options}), Resampling(2, 2)
  times, held = _recorded(sampler, VP(), resampling)
  np.testing.assert_array_equal(times, sampler.evaluation_times(VP(), resampling))
  levels = np.linspace(1, 1e-3, 4)
  np.testing.assert_allclose(times, levels[expected], rtol=1e-3)
  assert [v for _, v in held] == visits


@pytest.mark.parametrize(
  'name,options,tolerance',
  [
    # Errors of the discretisation and, 0.03, of 4096 samples. Those of the others
    # follow from the exact tests of all subsets, none included, below.
    ('ancestral', {'num_steps': 200}, 0.1),
    ('predictor_corrector', {}, 0.06),
  ],
)
def test_unconditional_samples_have_the_moments_of_the_data(
  name, options, tolerance, gaussian, sample_free
):
  """Correlated latents; errors are relative to the largest variance."""
  sde, n = VP(), 4096
  values, vectors = np.linalg.eigh(gaussian.cov)

  def score(z, t):
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    along = (z - alpha * gaussian.mean) @ vectors
    return -(along / (alpha**2 * values + sigma**2)) @ vectors.T

  z = jax.random.normal(jax.random.key(1), (n, 4))
  out = np.asarray(sample_free(SAMPLERS[name](**options), score, z, sde=sde))
  np.testing.assert_allclose(out.mean(0), gaussian.mean, atol=0.07)
  error = np.cov(out.T) - gaussian.cov
  assert np.abs(error).max() < tolerance * gaussian.cov.max(), error


def _all_subsets(gaussian, subsets, copies):
  """Rows of every observed subset, `copies` of each; the same latents observed."""
  observed = jnp.repeat(jnp.asarray(subsets), copies, axis=0)
  z_observed = jnp.broadcast_to(jnp.array([1.5, 0.2, -0.9, 0.1]), (len(observed), 4))
  return observed, z_observed


@pytest.mark.parametrize('name,sde_name', [('dpm_solver', 've'), ('heun', 'sub_vp')])
def test_conditional_moments_are_exact_for_every_subset(
  name, sde_name, gaussian, subsets
):
  """The map from start to sample is affine: 5 starts give its exact moments.

  One batch holds all 8 observed subsets, including none and all.
  """
  sde, sampler = SDES[sde_name](), SAMPLERS[name](num_steps=60)
  observed, z_observed = _all_subsets(gaussian, subsets, 5)
  start = jnp.tile(jnp.concatenate([jnp.zeros((1, 4)), jnp.eye(4)]), (8, 1))
  keys = jax.random.split(jax.random.key(0), 40)
  options = {'sde': sde, 'conditioning': 'time_zero'}
  out = jax.jit(
    lambda z: gaussian.sample(
      sampler, keys, z, z_observed=z_observed, observed=observed, **options
    )
  )(start)
  out = np.asarray(out, np.float64).reshape(8, 5, 4)
  for subset, rows in zip(subsets, out, strict=True):
    shown = gaussian.layout.expand(subset)
    np.testing.assert_array_equal(rows[:, shown], np.float32(z_observed[:5, shown]))
    # VE counts the clean latents it is shown as noised by sigma_min.
    mean, cov = gaussian.conditional(shown, np.asarray(z_observed[0], np.float64))
    matrix = (rows[1:] - rows[0]).T[~shown]
    result = float(sde.prior_std) ** 2 * matrix @ matrix.T
    np.testing.assert_allclose(rows[0, ~shown], mean, atol=0.03)
    np.testing.assert_allclose(result, cov, atol=0.04)


@pytest.mark.parametrize(
  'name,conditioning,tolerance,cov_tolerance',
  [
    ('predictor_corrector', 'time_zero', 0.12, 0.25),
    # Replacement is exact only as far as Langevin steps let the generated latents
    # forget the earlier levels, where the observed ones were lost in noise.
    # (Without such steps, 'ancestral', the means are off by up to 0.6.)
    ('annealed_langevin', 'noised', 0.3, 0.4),
  ],
)
def test_conditional_samples_for_every_subset(
  name, conditioning, tolerance, cov_tolerance, gaussian, subsets
):
  """One batch of all subsets; the distances between the means are up to 1.5."""
  options = {'annealed_langevin': {'num_levels': 40}}.get(name, {'num_steps': 80})
  sampler, sde, copies = SAMPLERS[name](**options), VP(), 400
  observed, z_observed = _all_subsets(gaussian, subsets, copies)
  n = len(observed)

  @jax.jit
  def run(keys, z):
    return gaussian.sample(
      sampler,
      keys,
      z,
      sde=sde,
      conditioning=conditioning,
      z_observed=z_observed,
      observed=observed,
    )

  z = jax.random.normal(jax.random.key(1), (n, 4))
  out = np.asarray(run(jax.random.split(jax.random.key(0), n), z), np.float64)
  for subset, rows in zip(subsets, out.reshape(8, copies, 4), strict=True):
    shown = gaussian.layout.expand(subset)
    np.testing.assert_array_equal(rows[:, shown], z_observed[:copies, shown])
    mean, cov = gaussian.conditional(shown, np.asarray(z_observed[0], np.float64))
    if (~shown).any():
      rows = rows[:, ~shown]
      np.testing.assert_allclose(rows.mean(0), mean, atol=tolerance)
      result = np.cov(rows.T).reshape(cov.shape)
      np.testing.assert_allclose(result, cov, atol=cov_tolerance)


def _conditional_errors(
  pair, exact_moments, name, conditioning, options=types.MappingProxyType({}), **rule
):
  """Distances of mean and covariance of samples from those of the conditional.

  The first modality of `pair` is observed; distances are Euclidean norms.
  """
  sampler, sde = SAMPLERS[name](**options), VP()
  given = np.array([1.2, -1.0, 0.0, 0.0, 0.0])
  observed = np.array([True, False])

  def run(keys, z):
    return pair.sample(
      sampler,
      keys,
      z,
      sde=sde,
      conditioning=conditioning,
      z_observed=jnp.asarray(given[None], jnp.float32),
      observed=jnp.asarray(observed[None]),
      **rule,
    )

  mean, cov = exact_moments(run, 5, 1.0)
  np.testing.assert_allclose(mean[:2], given[:2], rtol=1e-6)
  exact_mean, exact_cov = pair.conditional(pair.layout.expand(observed), given)
  return (
    np.linalg.norm(mean[2:] - exact_mean),
    np.linalg.norm(cov[2:, 2:] - exact_cov),
  )


@pytest.mark.parametrize(
  'name,options,tolerance,cov_tolerance',
  [
    # The observation moves the mean by 0.83 and the covariance, of norm 0.51, by 1.5.
    ('ancestral', {'num_steps': 191}, 0.005, 0.03),
    ('dpm_solver', {'num_steps': 60}, 0.005, 0.003),
    ('dpm_solver', {'num_steps': 60, 'stochastic': True}, 0.005, 0.005),
    ('heun', {'num_steps': 60}, 0.005, 0.005),
    # As multi-modal latent diffusion samples: 250 steps of Euler-Maruyama.
    ('predictor_corrector', {'num_steps': 250, 'corrector_steps': 0}, 0.003, 0.005),
  ],
)
def test_exact_conditional_score_gives_the_conditional(
  name, options, tolerance, cov_tolerance, pair, exact_moments
):
  mean, cov = _conditional_errors(pair, exact_moments, name, 'time_zero', options)
  assert mean < tolerance and cov < cov_tolerance


def test_repaint_is_closer_to_the_conditional_than_one_way_down(pair, exact_moments):
  """Both have the exact joint score and 191 evaluations of it."""
  once, again = {'num_steps': 191}, {'num_steps': 39}
  rule = {'jump_length': 5, 'num_resamples': 5}
  assert len(Ancestral(**again).evaluation_times(VP(), Resampling(5, 5))) == 191
  mean, cov = _conditional_errors(pair, exact_moments, 'ancestral', 'noised', once)
  assert 0.25 < mean < 0.35 and 0.25 < cov < 0.4
  repaint_mean, repaint_cov = _conditional_errors(
    pair, exact_moments, 'ancestral', 'repaint', again, **rule
  )
  assert repaint_mean < 0.5 * mean and repaint_cov < 0.2 * cov


def _mixed_batch(name, options, rows, conditioning='noised'):
  """Samples of the given rows of a fixed problem, each with its own observed set."""
  sampler = SAMPLERS[name](**options)
  arguments = {'repaint': {'jump_length': 2, 'num_resamples': 2}}
  sde, rule = VP(), CONDITIONING[conditioning](**arguments.get(conditioning, {}))
  keys = jax.random.split(jax.random.key(3), 8)
  z, z_observed, weights = (
    jax.random.normal(key, shape)
    for key, shape in zip(
      jax.random.split(jax.random.key(4), 3), [(8, 6), (8, 6), (6, 6)], strict=True
    )
  )
  observed = jax.random.bernoulli(jax.random.key(5), 0.4, (8, 6))
  keys, z, z_observed, observed = (x[rows] for x in (keys, z, z_observed, observed))

  def hold(keys, z, t, visit):
    return rule.hold(
      keys, z, t, visit, sde=sde, z_observed=z_observed, observed_dims=observed
    )

  def score_fn(z, t):
    return jnp.tanh(z @ weights) * (1 + t) - z

  run = jax.jit(
    lambda keys, z: sampler(
      keys, score_fn, z, sde=sde, hold=hold, resampling=rule.resampling
    )
  )
  return np.asarray(run(keys, z))


RESAMPLING = [name for name in SAMPLERS if name != 'annealed_langevin']


@pytest.mark.parametrize(
  'name,conditioning',
  [(name, 'noised') for name in SAMPLERS] + [(name, 'repaint') for name in RESAMPLING],
)
def test_rows_are_independent(name, conditioning):
  """Order, company and number of the rows change nothing."""
  options = SMALL[name]
  every = _mixed_batch(name, options, np.arange(8), conditioning)
  assert np.all(np.isfinite(every)) and np.abs(np.diff(every, axis=0)).min() > 0
  rows = np.array([5, 0, 7])
  some = _mixed_batch(name, options, rows, conditioning)
  np.testing.assert_allclose(some, every[rows], rtol=1e-5, atol=1e-5)


def test_every_sampler_goes_with_every_conditioning():
  """Finite samples, and other ones with each rule."""
  for name in RESAMPLING:
    samples = [
      _mixed_batch(name, SMALL[name], np.arange(3), conditioning)
      for conditioning in CONDITIONING
    ]
    assert np.isfinite(samples).all()
    # This score knows one time for all, so that time_zero and clean are one rule.
    assert len(np.unique(np.round(samples, 4), axis=0)) == len(CONDITIONING) - 1, name


def test_rows_depend_on_each_other_with_published_norms():
  options = {**PAPER, 'num_steps': 4}
  every = _mixed_batch('predictor_corrector', options, np.arange(8))
  part = _mixed_batch('predictor_corrector', options, np.array([5, 0, 7]))
  assert np.abs(part - every[[5, 0, 7]]).max() > 1e-3


@pytest.mark.parametrize('name', SAMPLERS)
def test_gradients_are_finite(name):
  """Through the whole trajectory, for sub-VP, and for a row with nothing free."""
  sampler = SAMPLERS[name](**SMALL[name], time_min=1e-5)
  sde, keys = SubVP(), jax.random.split(jax.random.key(0), 2)
  free = jnp.array([[True, True, True], [False, False, False]])

  def loss(scale):
    def score_fn(z, t):
      return -scale * z / (jnp.square(sde.alpha(t)) + jnp.square(sde.sigma(t)))

    def hold(keys, z, t, visit):
      return jnp.where(free, z, 0.3)

    return jnp.where(
      free, sampler(keys, score_fn, jnp.ones((2, 3)), sde=sde, hold=hold), 0
    ).sum()

  value, gradient = jax.jit(jax.value_and_grad(loss))(1.1)
  assert jnp.isfinite(value) and jnp.isfinite(gradient) and gradient != 0
