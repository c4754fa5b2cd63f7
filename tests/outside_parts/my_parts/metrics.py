"""A metric: the difference of angles."""

import dataclasses
from typing import ClassVar

import numpy as np

from mmsbm.metrics.base import Target


@dataclasses.dataclass(frozen=True, kw_only=True)
class AngularError:
  """Degrees between generated and true angles.

  Attributes:
    largest: larger errors count as this one.
  """

  largest: float = 180.0

  name: ClassVar[str] = 'angular_error'
  better: ClassVar[str] = 'low'
  about: ClassVar[str] = 'Degrees between the generated and the true direction.'

  def __call__(self, target: Target) -> np.ndarray | None:
    """Returns errors [N]; None for modalities that are no angles."""
    if not target.measured_by(self.name):
      return None
    difference = np.asarray(target.generated, float) - target.real
    wrapped = (difference + 180) % 360 - 180
    return np.minimum(np.abs(wrapped), self.largest)
