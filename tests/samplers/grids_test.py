"""Time grids in closed form."""

import numpy as np
import pytest

from mmsbm.diffusion.sde import SDES, VE
from mmsbm.infra.errors import UserError
from mmsbm.samplers import SAMPLERS
from mmsbm.samplers.grids import GRIDS, time_grid


@pytest.mark.parametrize('grid', GRIDS)
@pytest.mark.parametrize('sde', [cls() for cls in SDES.values()], ids=str)
def test_grids_are_what_they_say(sde, grid):
  t = np.asarray(time_grid(sde, grid, 7, 1e-3), np.float64)
  np.testing.assert_allclose(t[[0, -1]], [1, 1e-3], rtol=1e-4)
  assert np.all(np.diff(t) < 0) and t.max() <= 1
  s = np.asarray(sde.noise_level(t), np.float64)
  uniform = {'time': t, 'log_snr': np.log(s), 'edm': s ** (1 / 7)}[grid]
  np.testing.assert_allclose(np.diff(uniform), np.diff(uniform).mean(), rtol=1e-3)


def test_edm_grid_is_that_of_the_paper():
  """arXiv 2206.00364, eq. (5), with sigma from 80 to 0.002."""
  i, n = np.arange(18), 18
  first, last = 80 ** (1 / 7), 0.002 ** (1 / 7)
  expected = (first + i / (n - 1) * (last - first)) ** 7
  sde = VE(0.002, 80.0)
  levels = sde.sigma(time_grid(sde, 'edm', n, 0.0))
  np.testing.assert_allclose(levels, expected, rtol=1e-4)


@pytest.mark.parametrize('name', SAMPLERS)
def test_unknown_grid_is_a_user_error(name):
  with pytest.raises(UserError, match='log_snr'):
    SAMPLERS[name](grid='linear')
