"""A kind of modality: angles."""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.infra.errors import UserError
from mmsbm.modalities import Kind, tiles


@dataclasses.dataclass(frozen=True, kw_only=True)
class Angle(Kind):
  """Directions in degrees, float32 [N]; networks see cosine and sine.

  Attributes:
    radius: length of the vectors that networks see.
  """

  radius: float = 1.0
  shape: ClassVar[tuple[int, ...]] = ()
  model_shape: ClassVar[tuple[int, ...]] = (2,)
  dtype: ClassVar[np.dtype] = np.dtype(np.float32)
  bounds: ClassVar[tuple[float, float]] = (-180.0, 180.0)
  # Names of metrics against the true example, the best known first.
  metrics: ClassVar[tuple[str, ...]] = ('angular_error',)

  def __post_init__(self):
    if not self.radius > 0:
      raise UserError(f'radius of an angle is {self.radius}; it must be positive.')

  def to_model(self, raw: jax.Array) -> jax.Array:
    """Angles [B] to vectors [B, 2]."""
    radians = jnp.deg2rad(raw)
    return self.radius * jnp.stack([jnp.cos(radians), jnp.sin(radians)], axis=-1)

  def to_data(self, x: jax.Array) -> jax.Array:
    """Vectors [B, 2] to angles [B]."""
    return jnp.rad2deg(jnp.arctan2(x[..., 1], x[..., 0]))

  def _read(self, cell: Any, root: Any) -> np.ndarray:
    """An angle from a cell of a table."""
    del root
    return self.check([float(cell)], 'a cell')[0]

  def show(self, example: np.ndarray) -> str:
    """The hand of a clock."""
    radians = math.radians(float(example))
    x, y = 32 + 28 * math.cos(radians), 32 - 28 * math.sin(radians)
    shapes = [
      f'<circle cx="32" cy="32" r="30" fill="none" stroke="{tiles.RULE}"/>',
      f'<line x1="32" y1="32" x2="{x:.1f}" y2="{y:.1f}" stroke="{tiles.INK}"/>',
    ]
    return tiles.drawing(64, 64, shapes, f'{float(example):.0f} degrees')
