"""A reader: the quadrant of an angle, without a network."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from mmsbm.metrics.base import Reading


@dataclasses.dataclass(frozen=True)
class Quadrant:
  """Reads the class 'quadrant' off angles.

  Attributes:
    name: its key in config.readers, given by the program.
    modalities: names of the angles.
  """

  name: str
  modalities: tuple[str, ...]

  annotation = 'class'
  compiled = True
  # It is not trained in the run, and has no variables.
  learner = None

  def load(self) -> Any:
    """Returns its variables: none."""
    return {}

  def __call__(self, variables: Any, modality: str, x: Any) -> Reading:
    """Reads angles [N]."""
    del variables, modality
    radians = jnp.deg2rad(x)
    prediction = jnp.clip(jnp.floor(x / 90) + 2, 0, 3).astype(int)
    features = jnp.stack([jnp.cos(radians), jnp.sin(radians)], axis=-1)
    return Reading(prediction, features, self.annotation)
