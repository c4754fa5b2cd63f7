"""Samplers of latents given a score, and rules for showing observed latents.

Every sampler is a frozen dataclass of numbers, called as

  z0 = sampler(keys, score_fn, z, sde=sde, hold=hold, free=free)

  keys      typed keys [B], one per example. Noise is drawn and step sizes are
            chosen row by row: a sample depends on nothing but its own row.
  score_fn  maps z [B, D] and a scalar time to scores [B, D].
  z         start [B, D], drawn from N(0, sde.prior_std^2).
  hold      maps (keys, z, t) to z with the observed latents as they are shown at
            time t (see conditioning.py); called before each network evaluation.
  free      [B, D] bool: the dimensions that are generated.
  z0        [B, D] clean latents; the caller writes the observed ones back.

and has `num_evaluations`, the exact number of calls of the network per sample.
The trajectory is one `lax.scan` whose body evaluates the network once, so the
network is compiled once.
"""

from mmsbm.samplers.ancestral import Ancestral
from mmsbm.samplers.conditioning import CONDITIONING
from mmsbm.samplers.dpm_solver import DPMSolver
from mmsbm.samplers.heun import Heun
from mmsbm.samplers.langevin import AnnealedLangevin
from mmsbm.samplers.predictor_corrector import PredictorCorrector

SAMPLERS = {
  'ancestral': Ancestral,
  'annealed_langevin': AnnealedLangevin,
  'dpm_solver': DPMSolver,
  'heun': Heun,
  'predictor_corrector': PredictorCorrector,
}

__all__ = ['CONDITIONING', 'SAMPLERS']
