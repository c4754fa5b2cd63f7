"""Predictor-corrector sampling (Song et al., 2021, arXiv 2011.13456, Appendix G)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.samplers import noise as noise_lib
from mmsbm.samplers.grids import GRIDS, check_choice, time_grid

# The sampler of the published SBM code, whose every choice is kept as an option.
PAPER = {
  'order': 'predictor_corrector',
  'batch_norms': True,
  'reimpose': False,
  'grid': 'time',
  'dt': 'uniform',
  'final': 'mean_of_last_operation',
  'snr': 0.16,
  'time_min': 1e-3,
}

_PREDICT, _CORRECT, _DENOISE = range(3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictorCorrector:
  """Euler-Maruyama on the reverse SDE, each step with Langevin steps at its time.

  Attributes:
    num_steps: steps N; each is one predictor and `corrector_steps` corrections.
    snr: signal to noise ratio r of the Langevin steps (Algorithm 5).
    corrector_steps: Langevin steps a step; 0 leaves the predictor alone.
    order: 'corrector_predictor' or 'predictor_corrector'.
    grid: spacing of the times, see grids.py.
    dt: 'grid' steps by the true spacing of N + 1 times, and a corrector that
      follows a predictor works at the time reached. 'uniform' is published: N
      times, steps of 1 / N, both operations at the time the step begins with.
    final: 'denoise' ends with the posterior mean at the last time, one more
      evaluation. 'mean_of_last_operation' is published: the last update without
      the noise it draws; earlier noise stays in.
    reimpose: False is published: observed latents are held at the start of a
      step only, and the second operation sees what the first has made of them.
    batch_norms: True is published: Langevin steps of size 2 (snr q)^2, where q is
      the norm of the noise over that of the score, over all dimensions, each
      averaged over the batch. Samples then depend on each other. False puts
      q = sigma(t), which it is for data of few intrinsic dimensions, and which
      is stable for any. Norms of each row are no way out: steps that react to
      their own score leave the distribution, by as much as 1.6 times the standard
      deviation in one dimension.
    time_min: last time.
  """

  num_steps: int = 100
  snr: float = 0.16
  corrector_steps: int = 1
  order: str = 'corrector_predictor'
  grid: str = 'time'
  dt: str = 'grid'
  final: str = 'denoise'
  reimpose: bool = True
  batch_norms: bool = False
  time_min: float = 1e-3

  def __post_init__(self):
    orders = ('corrector_predictor', 'predictor_corrector')
    check_choice('order', self.order, orders)
    check_choice('final', self.final, ('denoise', 'mean_of_last_operation'))
    check_choice('dt', self.dt, ('grid', 'uniform'))
    # Steps of 1 / N make sense only for times that are about 1 / N apart.
    check_choice('grid', self.grid, GRIDS if self.dt == 'grid' else ('time',))

  @property
  def num_evaluations(self) -> int:
    return self.num_steps * (1 + self.corrector_steps) + (self.final == 'denoise')

  def predict(self, z, score, noise, t, dt, sde):
    """One Euler-Maruyama step from t to t - dt.

    Returns:
      The next z and its mean before the noise was added, both [B, D].
    """
    g = sde.diffusion(t)
    mean = z - dt * (sde.drift_rate(t) * z - jnp.square(g) * score)
    return mean + g * jnp.sqrt(dt) * noise, mean

  def correct(self, z, score, noise, t, sde):
    """One Langevin step at time t (Algorithms 4 and 5); returns as `predict`."""
    if self.batch_norms:
      noise_norm = jnp.linalg.norm(noise, axis=-1).mean()
      ratio = noise_norm / jnp.linalg.norm(score, axis=-1).mean()
    else:
      ratio = sde.sigma(t)
    # The published step size is 2 root^2. No square root is taken of what may be
    # 0 and depends on the score, since its gradient would be infinite.
    root = jnp.sqrt(sde.langevin_scale(t, self.num_steps)) * self.snr * ratio
    mean = z + 2 * jnp.square(root) * score
    return mean + 2 * root * noise, mean

  def _schedule(self, sde):
    """The evaluations in order: operation, time, dt, and whether to hold first."""
    n, repeats = self.num_steps, 1 + self.corrector_steps
    if self.dt == 'grid':
      times = time_grid(sde, self.grid, n + 1, self.time_min)
      start, reached, dt = times[:-1], times[1:], times[:-1] - times[1:]
    else:
      times = time_grid(sde, self.grid, n, self.time_min)
      start, reached, dt = times, times, jnp.full(n, 1 / n)
    operation = np.full((n, repeats), _CORRECT)
    t = jnp.repeat(start, repeats).reshape(n, repeats)
    if self.order == 'predictor_corrector':
      operation[:, 0] = _PREDICT
      t = t.at[:, 1:].set(reached[:, None])
    else:
      operation[:, -1] = _PREDICT
    first = np.full((n, repeats), self.reimpose)
    first[:, 0] = True
    end = (_DENOISE, times[-1], 0.0, True)
    steps = (operation, t, jnp.repeat(dt, repeats), first)
    count = self.num_evaluations
    return tuple(jnp.append(x, e)[:count] for x, e in zip(steps, end, strict=True))

  def __call__(self, keys, score_fn, z, *, sde, hold, free):
    """Returns clean latents [B, D]; arguments in samplers/__init__.py."""
    del free

    def evaluate(carry, xs):
      z, _ = carry
      i, operation, t, dt, is_held = xs
      z = jnp.where(is_held, hold(keys, z, t), z)
      score = score_fn(z, t)
      noise = noise_lib.row_normal(keys, i, z.shape[1:])
      branches = (
        lambda: self.predict(z, score, noise, t, dt, sde),
        lambda: self.correct(z, score, noise, t, sde),
        lambda: (z, sde.denoise(z, score, t)),
      )
      return jax.lax.switch(operation, branches), None

    xs = (jnp.arange(self.num_evaluations), *self._schedule(sde))
    (_, mean), _ = jax.lax.scan(evaluate, (z, z), xs)
    return mean
