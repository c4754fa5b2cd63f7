"""Samplers of latents given a score, and rules for showing observed latents.

Every sampler is a frozen dataclass of numbers, called as

  z0 = sampler(keys, score_fn, z, sde=sde, hold=hold, resampling=None)

  keys      typed keys [B], one per example. Noise is drawn and step sizes are
            chosen row by row: a sample depends on nothing but its own row.
  score_fn  maps z [B, D] and a scalar time to scores [B, D].
  z         start [B, D], drawn from N(0, sde.prior_std^2).
  hold      maps (keys, z, t, visit) to z with the observed latents as they are
            shown at time t (see conditioning.py); called before each evaluation.
  resampling  None, or how to jump back to more noise (see resampling.py).
  z0        [B, D] clean latents; the caller writes the observed ones back.

and has `evaluation_times(sde, resampling=None)`, the times [NFE] at which it calls
score_fn, in order and on the host, and `num_evaluations`, their number without
resampling. The trajectory is one `lax.scan` whose body evaluates the network once, so
the network is compiled once.

All of them end with the posterior mean of the clean latents at the last level: no
sample has the noise of that level in it. Only 'predictor_corrector' can do otherwise,
because the published one does.
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
