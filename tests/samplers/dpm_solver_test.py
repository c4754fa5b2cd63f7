"""DPM-Solver++(2M): its map on Gaussian latents, and its order."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.diffusion.sde import SDES
from mmsbm.samplers.ancestral import Ancestral
from mmsbm.samplers.dpm_solver import DPMSolver
from mmsbm.samplers.grids import time_grid

MU = np.array([0.7, -1.5, 0.0])
VAR = np.array([0.1, 1.0, 3.0])


def _score(z, t, sde):
  alpha, sigma = sde.alpha(t), sde.sigma(t)
  return -(z - alpha * MU) / (alpha**2 * VAR + sigma**2)


def _reference(z, sde, sampler):
  """Algorithm 2 of arXiv 2211.01095 in its own notation, then x0 at the end."""
  t = time_grid(sde, sampler.grid, sampler.num_steps, sampler.time_min)
  alpha = np.asarray(sde.alpha(t), np.float64)
  sigma = np.asarray(sde.sigma(t), np.float64)
  lam = np.log(alpha / sigma)

  def x_theta(x, i):
    return MU + alpha[i] * VAR * (x - alpha[i] * MU) / (
      alpha[i] ** 2 * VAR + sigma[i] ** 2
    )

  h = [None] + [lam[i] - lam[i - 1] for i in range(1, len(lam))]
  outputs = [x_theta(z, 0)]
  for i in range(1, len(lam)):
    d = outputs[i - 1]
    if i > 1:
      r = h[i - 1] / h[i]
      d = (1 + 1 / (2 * r)) * outputs[i - 1] - 1 / (2 * r) * outputs[i - 2]
    z = sigma[i] / sigma[i - 1] * z - alpha[i] * np.expm1(-h[i]) * d
    outputs.append(x_theta(z, i))
  return outputs[-1]


@pytest.mark.parametrize(
  'sde_name,grid', [('vp', 'time'), ('sub_vp', 'edm'), ('ve', 'log_snr')]
)
def test_matches_the_algorithm_of_the_paper(sde_name, grid, affine_map):
  sde, sampler = SDES[sde_name](), DPMSolver(num_steps=9, grid=grid)
  offset, matrix = affine_map(sampler, lambda z, t: _score(z, t, sde), 3, sde=sde)
  expected = _reference(np.zeros(3), sde, sampler)
  np.testing.assert_allclose(offset, expected, rtol=1e-3, atol=1e-3)
  expected = np.diag(_reference(np.ones(3), sde, sampler) - expected)
  np.testing.assert_allclose(matrix, expected, rtol=1e-3, atol=1e-5)


def test_stochastic_steps_draw_from_the_exact_solution(exact_moments):
  """The first of two steps, over which the predicted z_0 = x does not change.

  With x constant the reverse SDE is the posterior q(z_r | z_t, z_0 = x), written here
  as in arXiv 2107.00630, eq. (25), with the transition kernel from r to t.
  """
  sampler = DPMSolver(num_steps=2, stochastic=True, time_min=0.95)  # h = 0.5
  sde, x = SDES['sub_vp'](), 1.7
  t = time_grid(sde, sampler.grid, 2, sampler.time_min)
  (a, b), (s, r) = (np.asarray(f(t), np.float64) for f in (sde.alpha, sde.sigma))

  def score_fn(z, time):
    # At the last level a score of 0: what is returned is z / alpha.
    first = -(z - sde.alpha(time) * x) / jnp.square(sde.sigma(time))
    return jnp.where(time == t[0], first, 0.0)

  mean, cov = exact_moments(
    lambda keys, z: sampler(
      keys, score_fn, z, sde=sde, hold=lambda keys, z, t, visit: z
    ),
    1,
    1.0,
  )
  transition = s**2 - (a / b) ** 2 * r**2
  on_z, var = a / b * r**2 / s**2, transition * r**2 / s**2
  np.testing.assert_allclose(mean, b * transition / s**2 * x / b, rtol=1e-3)
  np.testing.assert_allclose(cov[0, 0], (on_z**2 + var) / b**2, rtol=1e-3)


@pytest.mark.parametrize('sde_name', ['vp', 've'])
def test_stochastic_variance_is_of_second_order(sde_name, exact_moments):
  """Its error falls 4 times, that of ancestral sampling, which it beats, 2 times."""
  sde, errors = SDES[sde_name](), {}
  for sampler in (DPMSolver, Ancestral):
    for n in (41, 81):
      options = {'stochastic': True} if sampler is DPMSolver else {}
      made = sampler(num_steps=n, **options)

      def run(keys, z, made=made):
        return made(
          keys,
          lambda z, t: _score(z, t, sde),
          z,
          sde=sde,
          hold=lambda keys, z, t, visit: z,
        )

      _, cov = exact_moments(run, 3, float(sde.prior_std))
      # Of the mean of z_0 given z at the last level.
      s2 = np.square(np.asarray(sde.noise_level(jnp.float32(made.time_min)), float))
      errors[sampler, n] = np.abs(np.diag(cov) * (VAR + s2) / VAR**2 - 1)
  ratio = errors[DPMSolver, 41] / errors[DPMSolver, 81]
  assert np.all((ratio > 3.5) & (ratio < 4.5)), ratio
  ratio = errors[Ancestral, 41] / errors[Ancestral, 81]
  assert np.all((ratio > 1.7) & (ratio < 2.3)), ratio
  assert np.all(errors[DPMSolver, 41] < 0.02)
  assert np.all(errors[DPMSolver, 41] < 0.12 * errors[Ancestral, 41]), errors


def test_is_of_second_order(affine_map):
  """The error of the map of the probability flow falls 4 times."""
  sde, errors = SDES['vp'](), []
  for n in (41, 81):
    sampler = DPMSolver(num_steps=n)
    _, matrix = affine_map(sampler, lambda z, t: _score(z, t, sde), 3, sde=sde)
    # In y = z / alpha the flow is (y - mu) proportional to sqrt(v + s^2).
    s = sde.noise_level(jnp.array([1.0, sampler.time_min]))
    exact = VAR / (VAR + s[1] ** 2) * np.sqrt((VAR + s[1] ** 2) / (VAR + s[0] ** 2))
    errors.append(np.diag(matrix) * float(sde.alpha(1.0)) / exact - 1)
  assert np.all(np.abs(errors[1]) < 2e-2)
  ratio = errors[0] / errors[1]
  assert np.all((ratio > 3.2) & (ratio < 5)), (errors, ratio)
