"""Diffusion processes on flat latents, what networks predict, and their losses."""

from mmsbm.diffusion.losses import TIME_SAMPLING, WEIGHTINGS, denoising_loss
from mmsbm.diffusion.parametrization import PARAMETRIZATIONS
from mmsbm.diffusion.sde import SDE, SDES

__all__ = [
  'PARAMETRIZATIONS',
  'SDE',
  'SDES',
  'TIME_SAMPLING',
  'WEIGHTINGS',
  'denoising_loss',
]
