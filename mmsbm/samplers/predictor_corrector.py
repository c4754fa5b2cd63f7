"""Predictor-corrector sampling (Song et al., 2021, arXiv 2011.13456, Appendix G)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.infra import rng
from mmsbm.samplers.grids import GRIDS, check_choice, check_levels, time_grid
from mmsbm.samplers.resampling import jump, jump_times, visited_levels, visits

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

  Without Langevin steps, corrector_steps=0, it is plain Euler-Maruyama, as multi-modal
  latent diffusion samples with num_steps=250 (arXiv 2306.04445).

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
    check_levels(self.num_steps, self.time_min)
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

  def _times(self, sde):
    """Times of the N + 1 levels, and the lengths of the N steps between them."""
    n = self.num_steps
    if self.dt == 'grid':
      times = time_grid(sde, self.grid, n + 1, self.time_min)
      return times, times[:-1] - times[1:]
    times = time_grid(sde, self.grid, n, self.time_min)
    return np.append(times, times[-1:]), np.full(n, 1 / n, np.float32)

  def _schedule(self, sde, resampling):
    """The evaluations in order, a dict of arrays [NFE].

    Returns:
      operation, t, dt; held, whether to hold first, and by which visit; reached and
      begins, the times of a jump after the operation.
    """
    times, dt = self._times(sde)
    levels = visited_levels(self.num_steps + 1, resampling)
    # What remains at the last level is to denoise.
    reached, begins = (x[:-1, None] for x in jump_times(times, levels))
    visit, levels = visits(levels)[:-1, None], levels[:-1]
    shape = (len(levels), 1 + self.corrector_steps)
    position = np.broadcast_to(np.arange(shape[1]), shape)
    corrects_reached = np.zeros(shape, bool)
    if self.order == 'predictor_corrector':
      operation = np.where(position == 0, _PREDICT, _CORRECT)
      corrects_reached = (position > 0) & (self.dt == 'grid')
    else:
      operation = np.where(position == shape[1] - 1, _PREDICT, _CORRECT)
    steps = {
      'operation': (operation, _DENOISE),
      't': (np.where(corrects_reached, reached, times[levels, None]), times[-1]),
      'dt': (dt[levels, None], 0.0),
      'held': (self.reimpose | (position == 0), True),
      'visit': (visit + corrects_reached, visit.max(initial=-1) + 1),
      'reached': (reached, times[-1]),
      'begins': (np.where(position == shape[1] - 1, begins, reached), times[-1]),
    }
    count = operation.size + (self.final == 'denoise')
    return {
      name: np.append(np.broadcast_to(x, shape), np.asarray(end, x.dtype))[:count]
      for name, (x, end) in steps.items()
    }

  def evaluation_times(self, sde, resampling=None) -> np.ndarray:
    """Times [NFE] of the network's calls; see samplers/__init__.py."""
    return self._schedule(sde, resampling)['t']

  def __call__(self, keys, score_fn, z, *, sde, hold, resampling=None):
    """Returns clean latents [B, D]; arguments in samplers/__init__.py."""
    schedule = self._schedule(sde, resampling)

    def evaluate(carry, xs):
      z, _ = carry
      i, x = xs
      t = x['t']
      z = jnp.where(x['held'], hold(keys, z, t, x['visit']), z)
      score = score_fn(z, t)
      noise = rng.row_normal(keys, i, z.shape[1:])
      branches = (
        lambda: self.predict(z, score, noise, t, x['dt'], sde),
        lambda: self.correct(z, score, noise, t, sde),
        lambda: (z, sde.denoise(z, score, t)),
      )
      z, mean = jax.lax.switch(x['operation'], branches)
      if resampling is not None:
        z = jump(keys, i, z, x['reached'], x['begins'], sde)
      return (z, mean), None

    xs = (np.arange(len(schedule['t'])), schedule)
    (_, mean), _ = jax.lax.scan(evaluate, (z, z), xs)
    return mean
