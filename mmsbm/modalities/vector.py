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
from mmsbm.modalities.summary import Summary

# A tile's size, the most points of a line, bars and numbers, and how many scales it is
# from the middle to the edge.
_WIDTH, _HEIGHT = 96, 64
_MOST_POINTS, _MOST_BARS, _MOST_NUMBERS, _REACH = 256, 32, 8, 3.0


# Measured on the training split, in place of a number.
FIT = 'fit'
# Up to so many entries are fitted one by one, more of them together.
_MOST_FITTED = 4096

Numbers = float | str | tuple


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vector(Shaped):
  """float32 numbers [B, *shape]; the networks see (x - offset) / scale.

  Attributes:
    offset, scale: a number for all entries, or one for each [*shape]; 'fit': mean and
      standard deviation of each entry over the training split, of all entries together
      where there are more than 4096.
  """

  offset: Numbers = FIT
  scale: Numbers = FIT
  dtype: ClassVar[np.dtype] = np.dtype(np.float32)
  bounds: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
  metrics: ClassVar[tuple[str, ...]] = ('r2', 'mse')

  def __post_init__(self):
    super().__post_init__()
    for name in ('offset', 'scale'):
      value = getattr(self, name)
      if not (isinstance(value, str) and value == FIT):
        object.__setattr__(self, name, self._numbers(name, value))

  def _numbers(self, name: str, value: Any) -> float | tuple:
    """A number, or nested tuples [*shape], that float32 can hold."""
    try:
      numbers = np.asarray(value)
    except ValueError:  # ragged
      numbers = np.asarray(None)
    if numbers.dtype.kind not in 'iuf' or not _is_finite(numbers):
      raise UserError(
        f'{name} of a vector is {value!r}; it must be {FIT!r} or finite numbers.'
      )
    if numbers.shape not in ((), self.shape):
      raise UserError(
        f'{name} of a vector has shape {numbers.shape}; it must be one number, or '
        f'numbers of shape {self.shape}.'
      )
    if name == 'scale' and not (numbers.astype(np.float32) > 0).all():
      raise UserError(f'scale of a vector is {value}; it must be positive.')
    return _tuples(numbers.astype(np.float64).tolist())

  @property
  def unfitted(self) -> tuple[str, ...]:
    """See `Kind.unfitted`."""
    return tuple(n for n in ('offset', 'scale') if getattr(self, n) == FIT)

  def fit(self, summary: Summary) -> dict[str, Any]:
    """See `Kind.fit`; rounded, so that another machine finds the same numbers."""
    mean, std = summary.mean, summary.std
    if mean.size > _MOST_FITTED:
      # The spread of all entries is that within them and that of their means.
      mean, std = mean.mean(), np.sqrt(np.mean(std**2) + mean.var())
    # What is constant but for rounding stays near 0.
    std = np.where(std > 1e-6 * abs(mean), std, 1.0)
    digits = 3 - np.floor(np.log10(std)).astype(int)
    rounded = {
      'offset': np.vectorize(_round, otypes=[float])(mean, digits),
      'scale': np.vectorize(_round, otypes=[float])(std, digits),
    }
    return {name: _tuples(rounded[name].tolist()) for name in self.unfitted}

  def _levels(self) -> tuple[np.ndarray, np.ndarray]:
    """Offset and scale, float32 () or [*shape]."""
    if self.unfitted:
      raise UserError(
        f'{" and ".join(self.unfitted)} of a vector must be fitted to data first.'
      )
    return np.asarray(self.offset, np.float32), np.asarray(self.scale, np.float32)

  def to_model(self, raw: jax.Array) -> jax.Array:
    offset, scale = self._levels()
    return (raw.astype(jnp.float32) - offset) / scale

  def to_data(self, x: jax.Array) -> jax.Array:
    offset, scale = self._levels()
    return x * scale + offset

  def _read(self, cell: Any, root: str | os.PathLike) -> np.ndarray:
    values, where = cells.read_example(cell, root, self.shape)
    return check_array(self, values[None], where)[0]

  def show(self, example: np.ndarray) -> str:
    """Bars of few numbers, a line of many; three scales from the offset to the edge."""
    values = np.asarray(example, np.float64)
    offset, scale = self._levels()
    levels = np.nan_to_num((values - offset) / scale).reshape(-1)
    values = values.reshape(-1)
    if values.size <= _MOST_NUMBERS:
      text = ', '.join(f'{value:.4g}' for value in values)
    else:
      text = f'{values.size} numbers from {values.min():.4g} to {values.max():.4g}'
    draw = _bars if values.size <= _MOST_BARS else _line
    axis = tiles.boxes([(0, _HEIGHT / 2 - 0.5, _WIDTH, 1)], 'axis', tiles.RULE)
    shapes = [axis, *draw(np.clip(levels / _REACH, -1, 1))]
    return tiles.drawing(_WIDTH, _HEIGHT, shapes, text)


def _is_finite(numbers: np.ndarray) -> bool:
  with np.errstate(over='ignore'):
    return bool(np.isfinite(numbers.astype(np.float32)).all())


def _round(value: float, digits: int) -> float:
  return round(float(value), int(digits))


def _tuples(value: Any) -> Any:
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


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
