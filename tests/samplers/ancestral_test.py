"""Ancestral sampling against the exact recursion of its moments."""

import jax
import numpy as np
import pytest

from mmsbm.diffusion.sde import SDES, SubVP
from mmsbm.samplers.ancestral import Ancestral
from mmsbm.samplers.grids import time_grid

MU = np.array([0.7, -1.5, 0.0])
VAR = np.array([0.1, 1.0, 3.0])


def _score(z, t, sde):
  alpha, sigma = sde.alpha(t), sde.sigma(t)
  return -(z - alpha * MU) / (alpha**2 * VAR + sigma**2)


def _levels(sde, sampler):
  t = time_grid(sde, sampler.grid, sampler.num_steps, sampler.time_min)
  alpha = np.append(np.asarray(sde.alpha(t), np.float64), 1.0)
  sigma = np.append(np.asarray(sde.sigma(t), np.float64), 0.0)
  return zip(alpha, alpha[1:], sigma, sigma[1:], strict=False)


def _posterior(a, a_next, s, s_next, eta):
  """Coefficients of z and z_0, and the variance, of one step.

  eta = 1: the posterior q(z_r | z_t, z_0) as in arXiv 2107.00630, eq. (25); it is
  written with the transition kernel from r to t, unlike the sampler.
  """
  ratio = a / a_next
  transition = s**2 - ratio**2 * s_next**2
  if eta == 1:
    return (
      ratio * s_next**2 / s**2,
      a_next * transition / s**2,
      transition * s_next**2 / s**2,
    )
  var = eta**2 * transition * s_next**2 / s**2
  on_z = np.sqrt(s_next**2 - var) / s
  return on_z, a_next - on_z * a, var


@pytest.mark.parametrize('eta,sde_name', [(1.0, 'vp'), (0.5, 've')])
def test_matches_exact_recursion(eta, sde_name, sample_free, assert_moments):
  sde, n = SDES[sde_name](), 8192
  sampler = Ancestral(num_steps=8, eta=eta)
  z = sde.prior_std * jax.random.normal(jax.random.key(1), (n, 3))
  out = sample_free(sampler, lambda z, t: _score(z, t, sde), z, sde=sde)

  mean, var = np.zeros(3), np.full(3, float(sde.prior_std) ** 2)
  for a, a_next, s, s_next in _levels(sde, sampler):
    gain = a * VAR / (a**2 * VAR + s**2)  # of z_0 on z_t
    on_z, on_z0, noise = _posterior(a, a_next, s, s_next, eta)
    mean = on_z * mean + on_z0 * (MU + gain * (mean - a * MU))
    var = (on_z + on_z0 * gain) ** 2 * var + noise
  assert_moments(out, mean, var)


def test_ddim_matches_its_formula(affine_map):
  """eta = 0: z_r = alpha_r x0 + sigma_r eps, per dimension and exactly."""
  sde, sampler = SubVP(), Ancestral(num_steps=8, eta=0.0)
  offset, matrix = affine_map(sampler, lambda z, t: _score(z, t, sde), 3, sde=sde)
  scale, shift = np.ones(3), np.zeros(3)
  for a, a_next, s, s_next in _levels(sde, sampler):
    gain = a * VAR / (a**2 * VAR + s**2)
    factor = a_next * gain + s_next / s * (1 - a * gain)
    constant = (a_next - s_next / s * a) * (1 - a * gain) * MU
    scale, shift = factor * scale, factor * shift + constant
  np.testing.assert_allclose(matrix, np.diag(scale), rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(offset, shift, rtol=1e-3, atol=1e-3)
