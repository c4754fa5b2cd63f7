"""The density of a score model: the change of variables along its probability flow."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from mmsbm.diffusion.sde import SDE
from mmsbm.infra.errors import UserError
from mmsbm.infra.rng import PROBES

# Stages of the classical Runge-Kutta method: how far along the last slope the next
# one is taken, and what it weighs in the step.
_REACH = (0.0, 0.5, 0.5, 1.0)
_WEIGHT = (1 / 6, 1 / 3, 1 / 3, 1 / 6)

# Directional derivatives at a time: memory grows with it, little else does.
_PROBE_CHUNK = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbabilityFlow:
  """log p(z) by the probability flow ODE (Song et al., 2021, App. D.2).

  arXiv 2011.13456. With r^2 = alpha^2 + sigma^2 and s = sigma / alpha, the ODE of every
  SDE is, in x = z / r and over log s,

    dx / d log s = f(x) = -(sigma^2 / r) (score(z) + z / r^2)              (1)
    d log p(x) / d log s = -div f(x)                                        (2)

  These are the variables in which little happens: f is 0 for standard normal data
  and s / (1 + s^2) times a function of unit size for any standardised data, at
  both ends of the levels. Both are integrated by the same Runge-Kutta steps, of
  fourth order, uniform in log s.

  What is measured is the density of the flow, which is normalised whatever the
  network has learned:

  * It starts at t = 1 from N(0, (alpha^2 + sigma^2) I), that is N(0, I) in x: the
    variance of diffused standardised latents. Samplers start from
    N(0, prior_std^2 I), which leaves the variance of the data out: for a
    variance exploding SDE with sigma = 40 it is smaller by 1 / 1600.
  * It ends at `time_min`, so it is a density of latents with noise of the level
    s(time_min), 0.02 for a VE with that sigma_min, taken at z itself.

  Attributes:
    num_steps: Runge-Kutta steps, of four evaluations each.
    num_probes: 0 for the exact divergence, by D directional derivatives; or the
      number of random directions of Hutchinson's estimate, at least 2.
    time_min: where the flow ends.
  """

  num_steps: int = 25
  num_probes: int = 0
  time_min: float = 1e-5

  def __post_init__(self):
    if self.num_steps < 1:
      raise UserError(f'likelihood: num_steps={self.num_steps} must be positive.')
    if self.num_probes < 0 or self.num_probes == 1:
      raise UserError(
        f'likelihood: num_probes={self.num_probes} is not 0 (exact) or at least 2.'
      )
    if not 0 < self.time_min < 1:
      # At t = 0 there may be no noise, and then there is no score.
      raise UserError(f'likelihood: time_min={self.time_min} is not in (0, 1).')

  def _probes(self, keys, free):
    """Directions [K, B, D], 0 where not free."""
    batch, dim = free.shape
    if not self.num_probes:
      basis = jnp.broadcast_to(jnp.eye(dim)[:, None], (dim, batch, dim))
      return jnp.where(free, basis, 0.0)
    keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, PROBES)
    shape = (self.num_probes, dim)
    signs = jax.vmap(lambda key: jax.random.rademacher(key, shape, jnp.float32))(keys)
    return jnp.where(free, signs.swapaxes(0, 1), 0.0)

  def __call__(
    self,
    keys: jax.Array,
    score_fn: Callable[[jax.Array, jax.Array], jax.Array],
    z: jax.Array,
    *,
    sde: SDE,
    free: jax.Array,
  ) -> tuple[jax.Array, jax.Array]:
    """log density of the free dimensions given the others.

    Args:
      keys: typed keys [B], one per row; unused when the divergence is exact.
      score_fn: maps z [B, D] and a scalar time to scores [B, D]. The dimensions that
        are not free are shown as they are in `z`; their scores are not used.
      z: clean latents [B, D].
      sde: the process.
      free: [B, D] bool.

    Returns:
      Nats [B], 0 for a row without free dimensions, and the standard error [B] of
      the random directions, 0 when the divergence is exact.
    """
    probes = self._probes(keys, free)
    s_min = sde.noise_level(self.time_min)
    start, stop = jnp.log(s_min), jnp.log(sde.noise_level(1.0))
    size = (stop - start) / self.num_steps

    def slope(x, level):
      t = jnp.clip(sde.time_of_noise_level(jnp.exp(level)), self.time_min, 1.0)
      square = jnp.square(sde.alpha(t)) + jnp.square(sde.sigma(t))
      r = jnp.sqrt(square)
      shown = jnp.where(free, r * x, z)
      out = -jnp.square(sde.sigma(t)) / r * (score_fn(shown, t) + shown / square)
      return jnp.where(free, out, 0.0)

    def evaluate(x, level):
      """Slope [B, D], and the derivative along and in each direction, [K, B]."""
      out, derivative = jax.linearize(lambda x: slope(x, level), x)
      along = jax.lax.map(
        lambda v: (v * derivative(v)).sum(-1), probes, batch_size=_PROBE_CHUNK
      )
      return out, along

    def step(carry, level):
      x, total = carry

      # A scan, so that the network is compiled once and not four times.
      def stage(carry, coefficients):
        last, dx, dtotal = carry
        reach, weight = coefficients
        last, along = evaluate(x + reach * size * last, level + reach * size)
        return (last, dx + weight * size * last, dtotal + weight * size * along), None

      stages = (jnp.array(_REACH), jnp.array(_WEIGHT))
      initial = (jnp.zeros_like(x), jnp.zeros_like(x), jnp.zeros_like(total))
      (_, dx, dtotal), _ = jax.lax.scan(stage, initial, stages)
      return (x + dx, total + dtotal), None

    # The flow ends at y = z / alpha, which is to be where the clean latents are.
    x = jnp.where(free, z / jnp.sqrt(1 + jnp.square(s_min)), 0.0)
    levels = start + size * jnp.arange(self.num_steps)
    total = jnp.zeros(probes.shape[:2])
    (x, total), _ = jax.lax.scan(step, (x, total), levels)
    if self.num_probes:
      divergence = total.mean(0)
      stderr = total.std(0, ddof=1) / math.sqrt(self.num_probes)
    else:
      divergence, stderr = total.sum(0), jnp.zeros(z.shape[0])
    prior = -0.5 * (jnp.square(x) + math.log(2 * math.pi))
    # From the density of x to that of y.
    scaling = -0.5 * jnp.log1p(jnp.square(s_min))
    return jnp.where(free, prior + scaling, 0.0).sum(-1) + divergence, stderr
