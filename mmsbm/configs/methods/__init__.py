"""Recipes: what a method trains and how it samples, at the sizes of a data set.

A recipe `RECIPES[name](c, sizes)` adds sections to a config with modalities. A config
file has no other line about methods.
"""

from mmsbm.configs.methods import joint_vae, score_based
from mmsbm.configs.methods.joint_vae import OBJECTIVES, PROBE_EXAMPLES
from mmsbm.configs.methods.published import PUBLISHED
from mmsbm.configs.methods.refiner import refine

# One latent for each modality, under one score model.
SCORE_METHODS = tuple(score_based.RECIPES)
# One latent for all modalities.
JOINT_METHODS = tuple(joint_vae.RECIPES)
METHODS = (*SCORE_METHODS, *JOINT_METHODS)
RECIPES = {**score_based.RECIPES, **joint_vae.RECIPES}

__all__ = (
  'JOINT_METHODS',
  'METHODS',
  'OBJECTIVES',
  'PROBE_EXAMPLES',
  'PUBLISHED',
  'RECIPES',
  'SCORE_METHODS',
  'refine',
)
