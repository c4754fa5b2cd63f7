"""Real numbers."""

import dataclasses
import math
import os
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.infra.errors import UserError
from mmsbm.modalities import cells, tiles
from mmsbm.modalities.base import Shaped, check_array

# A tile's size, the most points of a line, bars and numbers, and how many scales it is
# from the middle to the edge.
_WIDTH, _HEIGHT = 96, 64
_MOST_POINTS, _MOST_BARS, _MOST_NUMBERS, _REACH = 256, 32, 8, 3.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vector(Shaped):
  """float32 numbers [B, *shape]; the networks see (x - offset) / scale.

  Offset and scale are about the mean and the standard deviation of the data.
  """

  offset: float = 0.0
  scale: float = 1.0
  dtype: ClassVar[np.dtype] = np.dtype(np.float32)
  bounds: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
  metrics: ClassVar[tuple[str, ...]] = ('r2', 'mse')

  def __post_init__(self):
    super().__post_init__()
    for name, value in (('offset', self.offset), ('scale', self.scale)):
      if not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f'{name} of a vector is {value!r}; it must be a finite number.')
    if self.scale <= 0:
      raise UserError(f'scale of a vector is {self.scale}; it must be positive.')

  def to_model(self, raw: jax.Array) -> jax.Array:
    return (raw.astype(jnp.float32) - self.offset) / self.scale

  def to_data(self, x: jax.Array) -> jax.Array:
    return x * self.scale + self.offset

  def _read(self, cell: Any, root: str | os.PathLike) -> np.ndarray:
    values, where = cells.read_example(cell, root, self.shape)
    return check_array(self, values[None], where)[0]

  def show(self, example: np.ndarray) -> str:
    """Bars of few numbers, a line of many; three scales from the offset to the edge."""
    values = np.asarray(example, np.float64).reshape(-1)
    if values.size <= _MOST_NUMBERS:
      text = ', '.join(f'{value:.4g}' for value in values)
    else:
      text = f'{values.size} numbers from {values.min():.4g} to {values.max():.4g}'
    levels = np.nan_to_num((values - self.offset) / self.scale)
    draw = _bars if values.size <= _MOST_BARS else _line
    axis = tiles.boxes([(0, _HEIGHT / 2 - 0.5, _WIDTH, 1)], 'axis', tiles.RULE)
    shapes = [axis, *draw(np.clip(levels / _REACH, -1, 1))]
    return tiles.drawing(_WIDTH, _HEIGHT, shapes, text)


def _bars(levels: np.ndarray) -> list[str]:
  """Bars up and down from the middle line, for levels [n] in [-1, 1]."""
  middle, pitch = _HEIGHT / 2, _WIDTH / levels.size
  gap = min(1.0, pitch / 8)
  left, reach = np.arange(levels.size) * pitch + gap, abs(levels) * (middle - 1)
  top = middle - reach * (levels > 0)
  corners = np.stack([left, top, np.full(levels.size, pitch - 2 * gap), reach], 1)
  return [
    tiles.boxes(corners[levels > 0], 'positive', tiles.INK),
    tiles.boxes(corners[levels < 0], 'negative', tiles.WARM),
  ]


def _line(levels: np.ndarray) -> list[str]:
  """A line through levels [n] in [-1, 1]; of many, lowest and highest by stretch."""
  if levels.size > _MOST_POINTS:
    stretches = np.array_split(levels, _MOST_POINTS // 2)
    levels = np.array([end for part in stretches for end in (part.min(), part.max())])
  x = np.linspace(0, _WIDTH, levels.size)
  y = _HEIGHT / 2 - levels * (_HEIGHT / 2 - 1)
  points = ' '.join(f'{a:.4g},{b:.4g}' for a, b in zip(x, y, strict=True))
  return [
    f'<polyline class="positive" fill="none" stroke="{tiles.INK}" points="{points}"/>'
  ]
