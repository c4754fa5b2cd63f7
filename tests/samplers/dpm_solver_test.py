"""DPM-Solver++(2M): its map on Gaussian latents, and its order."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.diffusion.sde import SDES
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
