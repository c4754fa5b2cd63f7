"""A sampler: Euler's method on the probability flow."""

import dataclasses

import numpy as np

from mmsbm.samplers.grids import check_levels, time_grid


@dataclasses.dataclass(frozen=True, kw_only=True)
class Euler:
  """First order solver in the variables of EDM.

  Attributes:
    num_steps: network evaluations.
    time_min: the last time.
  """

  num_steps: int = 4
  time_min: float = 0.2

  def __post_init__(self):
    check_levels(self.num_steps, self.time_min)

  @property
  def num_evaluations(self) -> int:
    return self.num_steps

  def evaluation_times(self, sde, resampling=None) -> np.ndarray:
    """Times at which the network is evaluated."""
    del resampling
    return time_grid(sde, 'edm', self.num_steps, self.time_min)

  def __call__(self, keys, score_fn, z, *, sde, hold, resampling=None):
    """Returns clean latents [B, D]; see mmsbm/samplers/__init__.py."""
    times = self.evaluation_times(sde)
    y = z / sde.alpha(times[0])
    for i, t in enumerate(times):
      z = hold(keys, sde.alpha(t) * y, t, 0)
      below = sde.noise_level(times[i + 1]) if i + 1 < len(times) else 0.0
      noise = -sde.sigma(t) * score_fn(z, t)
      y = z / sde.alpha(t) + (below - sde.noise_level(t)) * noise
    return y
