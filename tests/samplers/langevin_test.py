"""Annealed Langevin dynamics against the exact recursion of its moments."""

import jax
import numpy as np
import pytest

from mmsbm.diffusion.sde import SDES
from mmsbm.samplers.grids import time_grid
from mmsbm.samplers.langevin import AnnealedLangevin

MU = np.array([0.7, -1.5, 0.0])
VAR = np.array([0.1, 1.0, 3.0])


@pytest.mark.parametrize('sde_name', ['vp', 've'])
def test_matches_exact_recursion(sde_name, sample_free, assert_moments):
  """In the coordinates of z, where levels rescale z and steps are alpha^2 a."""
  sde, n = SDES[sde_name](), 8192
  sampler = AnnealedLangevin(num_levels=6, steps_per_level=4, step_size=0.4)

  def score(z, t):
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    return -(z - alpha * MU) / (alpha**2 * VAR + sigma**2)

  z = sde.prior_std * jax.random.normal(jax.random.key(1), (n, 3))
  out = sample_free(sampler, score, z, sde=sde)

  t = time_grid(sde, sampler.grid, 6, sampler.time_min)
  alphas, sigmas = (np.asarray(f(t), np.float64) for f in (sde.alpha, sde.sigma))
  mean, var, previous = np.zeros(3), np.full(3, float(sde.prior_std) ** 2), alphas[0]
  for alpha, sigma in zip(alphas, sigmas, strict=True):
    mean, var = alpha / previous * mean, (alpha / previous) ** 2 * var
    previous, step = alpha, 0.4 * sigma**2  # alpha^2 times 0.4 (sigma / alpha)^2
    for _ in range(4):
      shrink = 1 - 0.5 * step / (alpha**2 * VAR + sigma**2)
      mean = alpha * MU + shrink * (mean - alpha * MU)
      var = shrink**2 * var + step
  gain = alpha * VAR / (alpha**2 * VAR + sigma**2)
  assert_moments(out, MU + gain * (mean - alpha * MU), gain**2 * var)


def test_step_is_the_epsilon_of_the_paper():
  """step_size s_i^2 = epsilon (s_i / s_L)^2 with epsilon = step_size s_L^2."""
  sde = SDES['ve'](sigma_min=0.01, sigma_max=1.0)
  sampler = AnnealedLangevin(num_levels=3, steps_per_level=2, time_min=0.0)
  s = np.asarray(sde.noise_level(time_grid(sde, sampler.grid, 3, 0.0)))
  np.testing.assert_allclose(s, [1.0, 0.1, 0.01], rtol=1e-4)
  epsilon = AnnealedLangevin(step_size=0.2).step_size * s[-1] ** 2
  np.testing.assert_allclose(epsilon, 2e-5, rtol=1e-4)
