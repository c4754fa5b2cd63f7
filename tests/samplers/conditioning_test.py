"""How observed latents are shown, dimension by dimension."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.diffusion.sde import VP
from mmsbm.infra.rng import row_normal
from mmsbm.samplers.conditioning import CONDITIONING
from mmsbm.samplers.resampling import Resampling

SDE = VP(1.0, 5.0)
ALPHA, SIGMA = 0.829029, 0.559205  # at t = 0.25
OBSERVED = jnp.array([[True, False, True], [False, False, False]])


def _hold(name, keys, z, t, z_observed, observed=OBSERVED, visit=0):
  return CONDITIONING[name]().hold(
    keys, z, t, visit, sde=SDE, z_observed=z_observed, observed_dims=observed
  )


@pytest.mark.parametrize(
  'name,factor',
  [('clean', 1.0), ('time_zero', 1.0), ('paper', ALPHA + SIGMA)],
)
def test_deterministic_rules(name, factor):
  """Also as published: (alpha + sigma) z, the latent in place of the noise."""
  z, z_observed = jnp.ones((2, 3)), jnp.array([[2.0, jnp.nan, -3.0]] * 2)
  keys = jax.random.split(jax.random.key(0), 2)
  held = _hold(name, keys, z, jnp.float32(0.25), z_observed)
  expected = [[2 * factor, 1, -3 * factor], [1, 1, 1]]
  np.testing.assert_allclose(held, expected, rtol=1e-5)


def test_noised_rule():
  """Draws from the kernel: fixed at one time, else unrelated to any other draws."""
  keys, n = jax.random.split(jax.random.key(0), 2), 4000
  every, shown = jnp.ones((2, n), bool), jnp.full((2, n), 2.0)

  @jax.jit
  def noise(t):
    held = _hold('noised', keys, jnp.zeros((2, n)), t, shown, every)
    return (held - 2 * SDE.alpha(t)) / SDE.sigma(t)

  draw = jax.jit(lambda step: row_normal(keys, step, (n,)))
  first, second = noise(jnp.float32(0.25)), noise(jnp.float32(0.2500001))
  np.testing.assert_array_equal(first, noise(jnp.float32(0.25)))
  np.testing.assert_allclose(first, noise(jnp.full((2, 1), 0.25)), atol=1e-5)
  # The noise of the sampler's own steps must be apart from it, too.
  draws = np.concatenate([first, second, draw(0), draw(1)])
  assert np.abs(draws.mean(1)).max() < 4 / np.sqrt(n)
  assert np.abs(draws.var(1) - 1).max() < 4 * np.sqrt(2 / n)
  assert np.abs(np.corrcoef(draws) - np.eye(8)).max() < 4.5 / np.sqrt(n)


def test_repaint_draws_anew_at_each_visit():
  """As noised, but of the visit and not of the time."""
  keys, n = jax.random.split(jax.random.key(0), 2), 4000
  every, shown, t = jnp.ones((2, n), bool), jnp.full((2, n), 2.0), jnp.float32(0.25)

  def noise(t, visit):
    held = _hold('repaint', keys, jnp.zeros((2, n)), t, shown, every, visit)
    return (held - 2 * SDE.alpha(t)) / SDE.sigma(t)

  first, second = noise(t, 3), noise(t, 4)
  np.testing.assert_allclose(first, noise(jnp.float32(0.5), 3), atol=1e-5)
  draws = np.concatenate([first, second, row_normal(keys, 3, (n,))])
  assert np.abs(draws.mean(1)).max() < 4 / np.sqrt(n)
  assert np.abs(draws.var(1) - 1).max() < 4 * np.sqrt(2 / n)
  assert np.abs(np.corrcoef(draws) - np.eye(6)).max() < 4.5 / np.sqrt(n)


def test_only_repaint_resamples():
  for name, rule in CONDITIONING.items():
    expected = Resampling(10, 10) if name == 'repaint' else None
    assert rule().resampling == expected


def test_noised_rule_leaves_the_others():
  keys, z = jax.random.split(jax.random.key(0), 2), jnp.ones((2, 3))
  held = _hold('noised', keys, z, jnp.float32(0.25), jnp.full((2, 3), jnp.nan))
  np.testing.assert_array_equal(np.isnan(held), OBSERVED)
  np.testing.assert_array_equal(held[~OBSERVED], 1)


def test_network_times():
  observed = jnp.array([[True, False], [False, False]])
  for name in CONDITIONING:
    for t in (jnp.float32(0.3), jnp.full((2, 1), 0.3)):
      times = CONDITIONING[name]().times(t, observed)
      shown = 0.0 if name == 'time_zero' else 0.3
      np.testing.assert_allclose(times, [[shown, 0.3], [0.3, 0.3]])
