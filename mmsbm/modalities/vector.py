"""Vectors: real numbers of any shape."""

import dataclasses
import math
import os
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.infra.errors import UserError
from mmsbm.modalities import cells, tiles
from mmsbm.modalities.base import as_shape, check_array

_WIDTH, _HEIGHT = 96, 64
# A line has at most so many points; vectors of few entries are drawn as bars.
_MOST_POINTS, _MOST_BARS = 256, 32
# The description lists so many numbers; longer vectors are described by their range.
_MOST_NUMBERS = 8
# Number of scales from the middle of a drawing to its edge.
_REACH = 3.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vector:
  """float32 numbers [B, *shape]; the networks see (x - offset) / scale.

  Attributes:
    shape: shape of one example, () for one number.
    offset: about the mean of the data.
    scale: about their standard deviation.
  """

  shape: tuple[int, ...]
  offset: float = 0.0
  scale: float = 1.0
  dtype: ClassVar[np.dtype] = np.dtype(np.float32)
  bounds: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
  metrics: ClassVar[tuple[str, ...]] = ('r2', 'mse')

  def __post_init__(self):
    object.__setattr__(self, 'shape', as_shape(self, self.shape))
    for name, value in (('offset', self.offset), ('scale', self.scale)):
      if not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f'{name} of a vector is {value!r}; it must be a finite number.')
    if self.scale <= 0:
      raise UserError(f'scale of a vector is {self.scale}; it must be positive.')

  @property
  def model_shape(self) -> tuple[int, ...]:
    """The shape of the vectors themselves."""
    return self.shape

  def check(self, raw: Any, name: str) -> np.ndarray:
    """Finite numbers [N, *shape] as float32."""
    return check_array(self, raw, f'modality {name!r}')

  def to_model(self, raw: jax.Array) -> jax.Array:
    """To about zero mean and unit variance."""
    return (raw.astype(jnp.float32) - self.offset) / self.scale

  def to_data(self, x: jax.Array) -> jax.Array:
    """Back to the user's units."""
    return x * self.scale + self.offset

  def read(self, cell: Any, root: str | os.PathLike) -> np.ndarray | None:
    """A vector from numbers, a text such as '0.5 1 -2' or a .npy file."""
    if cells.is_missing(cell):
      return None
    values, where = cells.read_example(cell, root, self.shape)
    return check_array(self, values[None], where)[0]

  def show(self, example: np.ndarray) -> str:
    """Bars of few numbers, a line of many; three scales from the offset to the edge."""
    values = np.asarray(example, np.float64).reshape(-1)
    levels = np.nan_to_num((values - self.offset) / self.scale)
    draw = _bars if values.size <= _MOST_BARS else _line
    axis = tiles.boxes([(0, _HEIGHT / 2 - 0.5, _WIDTH, 1)], 'axis', tiles.RULE)
    shapes = [axis, *draw(np.clip(levels / _REACH, -1, 1))]
    return tiles.drawing(_WIDTH, _HEIGHT, shapes, _describe(values))

  def picture(self, example: np.ndarray) -> None:
    """None: a vector is no picture."""


def _describe(values: np.ndarray) -> str:
  if values.size <= _MOST_NUMBERS:
    return ', '.join(f'{value:.4g}' for value in values)
  return f'{values.size} numbers from {values.min():.4g} to {values.max():.4g}'


def _bars(levels: np.ndarray) -> list[str]:
  """Bars up and down from the middle line, for levels [n] in [-1, 1]."""
  middle, pitch = _HEIGHT / 2, _WIDTH / levels.size
  gap = min(1.0, pitch / 8)

  def corners(is_shown):
    for i in np.flatnonzero(is_shown):
      reach = abs(levels[i]) * (middle - 1)
      top = middle - reach if levels[i] > 0 else middle
      yield i * pitch + gap, top, pitch - 2 * gap, reach

  return [
    tiles.boxes(corners(levels > 0), 'positive', tiles.INK),
    tiles.boxes(corners(levels < 0), 'negative', tiles.WARM),
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
