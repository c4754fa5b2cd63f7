"""Attributes."""

import dataclasses
import math
import os
from typing import Any

import numpy as np

from mmsbm.modalities import cells, tiles
from mmsbm.modalities.binary import Binary

# A tile's side, and the most boxes and numbers that it has room for.
_SIDE, _MOST_BOXES, _MOST_CHOSEN = 64, 256, 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attributes(Binary):
  """0/1 entries of any shape, most often [B, A]: properties that an example has."""

  def _read(self, cell: Any, root: str | os.PathLike) -> np.ndarray:
    return self._from_values(*cells.read_example(cell, root, self.shape))

  def show(self, example: np.ndarray) -> str:
    """A box for each attribute, filled where it is set."""
    is_set = np.asarray(example).reshape(-1) > 0
    chosen = np.flatnonzero(is_set)
    text = f'{len(chosen)} of {is_set.size} attributes set'
    if is_set.size > _MOST_BOXES:
      return tiles.words(text)
    if 0 < len(chosen) <= _MOST_CHOSEN:
      text += ': ' + ', '.join(str(i) for i in chosen)
    columns = math.ceil(math.sqrt(is_set.size))
    pitch = _SIDE / columns
    height = math.ceil(math.ceil(is_set.size / columns) * pitch)
    gap = min(2.0, pitch / 6)
    row, column = np.divmod(np.arange(is_set.size), columns)
    side = np.full(is_set.size, pitch - 2 * gap)
    corners = np.stack([column * pitch + gap, row * pitch + gap, side, side], 1)
    shapes = [
      tiles.boxes(corners[~is_set], 'axis', tiles.RULE),
      tiles.boxes(corners[is_set], 'positive', tiles.INK),
    ]
    return tiles.drawing(_SIDE, height, shapes, text)
