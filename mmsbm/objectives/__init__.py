"""Objectives of joint VAEs: from the posteriors of single modalities to a loss.

Each is a frozen dataclass of numbers, see `base.Objective`. All take a row of its own
for what is present, and one call, compiled once, serves every pattern.
"""

from mmsbm.objectives.base import Experts, Objective
from mmsbm.objectives.mixtures import MMJSD, MMVAE, Hoelder, MMVAEPlus, MoPoE
from mmsbm.objectives.products import MVAE, MVTCAE

OBJECTIVES = {
  'hoelder': Hoelder,
  'mmjsd': MMJSD,
  'mmvae': MMVAE,
  'mmvaeplus': MMVAEPlus,
  'mopoe': MoPoE,
  'mvae': MVAE,
  'mvtcae': MVTCAE,
}

__all__ = ['OBJECTIVES', 'Experts', 'Objective']
