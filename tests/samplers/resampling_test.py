"""Trajectories that jump back: where they go, how far, and what remains of them."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.diffusion.sde import SDES
from mmsbm.infra import rng
from mmsbm.infra.errors import UserError
from mmsbm.samplers import CONDITIONING, SAMPLERS
from mmsbm.samplers.dpm_solver import DPMSolver
from mmsbm.samplers.grids import time_grid
from mmsbm.samplers.resampling import (
  Resampling,
  begins_anew,
  jump,
  visited_levels,
  visits,
)


@pytest.mark.parametrize(
  'num_levels,resampling,expected',
  [
    (4, None, [0, 1, 2, 3]),
    (4, Resampling(2, 1), [0, 1, 2, 3]),
    (6, Resampling(2, 3), [0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3, 4, 4, 4, 5]),
    (3, Resampling(1, 2), [0, 0, 1, 1, 2]),
    (3, Resampling(10, 2), [0, 1, 0, 1, 2]),
    (1, Resampling(10, 2), [0]),
  ],
)
def test_levels_are_visited_in_the_order_of_the_paper(num_levels, resampling, expected):
  np.testing.assert_array_equal(visited_levels(num_levels, resampling), expected)


def test_visits_number_the_arrivals_at_levels():
  levels = visited_levels(4, Resampling(2, 2))
  np.testing.assert_array_equal(levels, [0, 1, 0, 1, 2, 2, 3])
  np.testing.assert_array_equal(begins_anew(levels), [1, 0, 1, 0, 0, 1, 0])
  # Down to level 2, visit 2, then back to level 0, visit 3, and so on.
  np.testing.assert_array_equal(visits(levels), [0, 1, 3, 4, 5, 7, 8])


@pytest.mark.parametrize('sde', [cls() for cls in SDES.values()], ids=str)
def test_a_jump_and_the_kernel_before_it_are_the_kernel_after_it(sde):
  """alpha and sigma^2 of z_r, given z_t = alpha_t z_0 + sigma_t eps."""
  n, t, r = 40_000, jnp.float32(0.2), jnp.float32(0.55)
  keys = jax.random.split(jax.random.key(0), 2)
  z = jnp.stack([jnp.zeros(n), jnp.full(n, 3.0)])
  out = np.asarray(jump(keys, 5, z, t, r, sde), np.float64)
  alpha, sigma = (float(f(r)) / float(f(t)) for f in (sde.alpha, sde.sigma))
  spread = float(sde.sigma(r)) ** 2 * (1 - (alpha / sigma) ** 2)
  np.testing.assert_allclose(out.var(1), spread, rtol=4 * np.sqrt(2 / n))
  error = np.abs(out.mean(1) - [0, 3 * alpha])
  assert np.all(error < 4 * np.sqrt(spread / n))
  np.testing.assert_allclose(jump(keys, 5, z, t, t, sde), z, rtol=1e-6)


def test_jumps_draw_noise_apart_from_that_of_the_steps():
  """Both are of step 5; alone the jump's noise is left when nothing is kept."""
  keys, n = jax.random.split(jax.random.key(0), 1), 4000
  sde = SDES['ve'](1e-6, 1.0)
  noise = jump(keys, 5, jnp.zeros((1, n)), jnp.float32(0), jnp.float32(1), sde)[0]
  step = jax.random.normal(jax.random.fold_in(keys[0], 5), (n,))
  np.testing.assert_allclose(np.var(noise), 1, rtol=0.1)
  assert abs(np.corrcoef(noise, step)[0, 1]) < 4 / np.sqrt(n)


MU = np.array([0.7, -1.5, 0.0])
VAR = np.array([0.1, 1.0, 3.0])


def _score(z, t, sde):
  alpha, sigma = sde.alpha(t), sde.sigma(t)
  return -(z - alpha * MU) / (alpha**2 * VAR + sigma**2)


@pytest.mark.parametrize(
  'name,options,tolerance',
  [
    # Without jumps the variance is off by as much: 0.083, 0.007, 0.018, 0.035, 0.023.
    ('ancestral', {'num_steps': 161}, 0.1),
    ('dpm_solver', {'num_steps': 61}, 0.01),
    ('dpm_solver', {'num_steps': 61, 'stochastic': True}, 0.02),
    ('heun', {'num_steps': 41}, 0.04),
    ('predictor_corrector', {'num_steps': 100, 'grid': 'log_snr'}, 0.03),
  ],
)
def test_jumps_leave_the_distribution_as_it_is(name, options, tolerance, exact_moments):
  """With nothing observed; also where solvers extrapolate from earlier steps."""
  sde, sampler = SDES['sub_vp'](), SAMPLERS[name](**options)

  def run(keys, z):
    return sampler(
      keys,
      lambda z, t: _score(z, t, sde),
      z,
      sde=sde,
      hold=lambda keys, z, t, visit: z,
      resampling=Resampling(8, 3),
    )

  mean, cov = exact_moments(run, 3, 1.0)
  np.testing.assert_allclose(mean, MU, atol=0.03)
  np.testing.assert_allclose(np.diag(cov) / VAR, 1, atol=tolerance)


@pytest.mark.parametrize('stochastic', [False, True])
def test_multistep_solver_forgets_its_past_at_a_jump(stochastic):
  """A plain loop, written out; all noise is 0, so that a jump only rescales."""
  sde, sampler = SDES['vp'](), DPMSolver(num_steps=6, stochastic=stochastic)
  t = time_grid(sde, sampler.grid, 6, sampler.time_min)
  alpha, sigma = (np.asarray(f(t), np.float64) for f in (sde.alpha, sde.sigma))
  levels, rate = [0, 1, 0, 1, 2, 3, 2, 3, 4, 4, 5], 1 + stochastic

  def x0(z, i):
    gain = alpha[i] * VAR / (alpha[i] ** 2 * VAR + sigma[i] ** 2)
    return MU + gain * (z - alpha[i] * MU)

  z, past = np.array([1.0, -2.0, 0.5]), None
  start = z
  for i, following in zip(levels, levels[1:], strict=False):
    x, h = x0(z, i), np.log(alpha[i + 1] / sigma[i + 1] * sigma[i] / alpha[i])
    d = x if past is None else x + h / past[1] / 2 * (x - past[0])
    kept = alpha[i + 1] / alpha[i] * np.exp(-rate * h)
    z, past = kept * z - alpha[i + 1] * np.expm1(-rate * h) * d, (x, h)
    if following != i + 1:
      z, past = alpha[following] / alpha[i + 1] * z, None

  with mock.patch.object(rng, 'row_normal', lambda *_: 0.0):
    out = sampler(
      jax.random.split(jax.random.key(0), 1),
      lambda z, t: _score(z, t, sde),
      jnp.asarray(start[None]),
      sde=sde,
      hold=lambda keys, z, t, visit: z,
      resampling=Resampling(2, 2),
    )
  np.testing.assert_allclose(out[0], x0(z, 5), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize('options', [{'jump_length': 0}, {'num_resamples': 0}])
def test_numbers_below_one_are_user_errors(options):
  with pytest.raises(UserError, match='at least 1'):
    CONDITIONING['repaint'](**options)


def test_annealed_langevin_names_the_samplers_that_can_jump():
  can = set()
  for name, cls in SAMPLERS.items():
    try:
      cls().evaluation_times(SDES['vp'](), Resampling(2, 2))
      can.add(name)
    except UserError as error:
      message = str(error)
  assert can == set(SAMPLERS) - {'annealed_langevin'}
  assert all(f"'{name}'" in message for name in can)
