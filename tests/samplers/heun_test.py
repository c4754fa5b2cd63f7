"""Heun: its map on Gaussian latents, and its order."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.diffusion.sde import SDES
from mmsbm.samplers.grids import time_grid
from mmsbm.samplers.heun import Heun

MU = np.array([0.7, -1.5, 0.0])
VAR = np.array([0.1, 1.0, 3.0])


def _score(z, t, sde):
  alpha, sigma = sde.alpha(t), sde.sigma(t)
  return -(z - alpha * MU) / (alpha**2 * VAR + sigma**2)


def _reference(z, sde, sampler):
  """Algorithm 1 of arXiv 2206.00364 in its own notation: x = z / alpha, sigma = s."""
  t = time_grid(sde, sampler.grid, sampler.num_steps, sampler.time_min)
  levels = np.append(np.asarray(sde.noise_level(t), np.float64), 0.0)

  def slope(x, sigma):
    denoised = MU + VAR / (VAR + sigma**2) * (x - MU)
    return (x - denoised) / sigma

  x = z / float(sde.alpha(t[0]))
  for sigma, following in zip(levels, levels[1:], strict=False):
    d = slope(x, sigma)
    trial = x + (following - sigma) * d
    if following > 0:
      trial = x + (following - sigma) * (d + slope(trial, following)) / 2
    x = trial
  return x


@pytest.mark.parametrize(
  'sde_name,grid', [('vp', 'time'), ('sub_vp', 'edm'), ('ve', 'log_snr')]
)
def test_matches_the_algorithm_of_the_paper(sde_name, grid, affine_map):
  sde, sampler = SDES[sde_name](), Heun(num_steps=9, grid=grid)
  offset, matrix = affine_map(sampler, lambda z, t: _score(z, t, sde), 3, sde=sde)
  expected = _reference(np.zeros(3), sde, sampler)
  np.testing.assert_allclose(offset, expected, rtol=1e-3, atol=1e-3)
  expected = np.diag(_reference(np.ones(3), sde, sampler) - expected)
  np.testing.assert_allclose(matrix, expected, rtol=1e-3, atol=1e-5)


def test_is_of_second_order(affine_map):
  """The error of the map of the probability flow falls 4 times."""
  sde, errors = SDES['ve'](), []
  for n in (41, 81):
    sampler = Heun(num_steps=n)
    _, matrix = affine_map(sampler, lambda z, t: _score(z, t, sde), 3, sde=sde)
    # In y = z / alpha the flow is (y - mu) proportional to sqrt(v + s^2).
    s = sde.noise_level(jnp.array([1.0, sampler.time_min]))
    exact = VAR / (VAR + s[1] ** 2) * np.sqrt((VAR + s[1] ** 2) / (VAR + s[0] ** 2))
    errors.append(np.diag(matrix) * float(sde.alpha(1.0)) / exact - 1)
  assert np.all(np.abs(errors[1]) < 2e-2)
  ratio = errors[0] / errors[1]
  assert np.all((ratio > 3.2) & (ratio < 5)), (errors, ratio)
