"""Where a sampler evaluates the network: decreasing times from 1 to time_min."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.diffusion.sde import SDE
from mmsbm.infra.errors import UserError
from mmsbm.samplers.resampling import visited_levels

_RHO = 7.0  # arXiv 2206.00364, eq. (5)

GRIDS = ('time', 'log_snr', 'edm')


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
  """Raises a UserError unless the value is one of the choices."""
  if value not in choices:
    raise UserError(f'Unknown {option} {value!r}; choose from {list(choices)}.')


def check_levels(num_levels: int, time_min: float) -> None:
  """Raises a UserError unless a grid can have so many levels down to this time."""
  if not isinstance(num_levels, int) or num_levels < 1:
    raise UserError(f'a sampler needs at least 1 step, not {num_levels!r}.')
  if not 0 <= time_min < 1:
    raise UserError(f'time_min of a sampler is {time_min!r}; it lies in [0, 1).')


def time_grid(sde: SDE, grid: str, num_levels: int, time_min: float) -> np.ndarray:
  """Decreasing times [num_levels], the first 1 and the last time_min.

  They are numbers on the host, also where it is called while JAX traces a program.

  Args:
    sde: the process, which relates t to the noise level s = sigma / alpha.
    grid: 'time' is uniform in t, 'log_snr' in log s, 'edm' in s^(1/7).
    num_levels: number of times.
    time_min: last time, where samples count as clean but for a denoising step.
  """
  check_choice('grid', grid, GRIDS)
  with jax.ensure_compile_time_eval():
    return np.asarray(_time_grid(sde, grid, num_levels, time_min))


def _time_grid(sde, grid, num_levels, time_min):
  u = jnp.linspace(0.0, 1.0, num_levels)
  if grid == 'time':
    return 1 + u * (time_min - 1)
  s_max, s_min = sde.noise_level(1.0), sde.noise_level(time_min)
  if grid == 'log_snr':
    s = jnp.exp(jnp.log(s_max) + u * jnp.log(s_min / s_max))
  else:
    first, last = s_max ** (1 / _RHO), s_min ** (1 / _RHO)
    s = (first + u * (last - first)) ** _RHO
  return jnp.clip(sde.time_of_noise_level(s), time_min, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridSampler:
  """What the samplers that go once down a grid of noise levels have in common.

  Attributes:
    num_steps: noise levels visited; the step from the last one is to noise 0.
    grid: spacing of the levels, see above.
    time_min: time of the last level.
  """

  num_steps: int = 20
  grid: str = 'log_snr'
  time_min: float = 1e-3

  def __post_init__(self):
    check_levels(self.num_steps, self.time_min)
    check_choice('grid', self.grid, GRIDS)

  @property
  def num_evaluations(self) -> int:
    return self.num_steps

  def times(self, sde: SDE) -> np.ndarray:
    """Times [num_steps] of the levels."""
    return time_grid(sde, self.grid, self.num_steps, self.time_min)

  def evaluation_times(self, sde: SDE, resampling=None) -> np.ndarray:
    """Times [NFE] of the network's calls; see samplers/__init__.py."""
    return self.times(sde)[visited_levels(self.num_steps, resampling)]
