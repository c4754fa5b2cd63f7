"""Attributes: properties that an example has or lacks."""

import dataclasses
import math
import os
from typing import Any

import numpy as np

from mmsbm.modalities import cells, tiles
from mmsbm.modalities.binary import Binary

_SIDE = 64
# A tile has no room for more boxes, nor a sentence for more numbers.
_MOST_BOXES, _MOST_NUMBERS = 256, 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attributes(Binary):
  """0/1 entries of any shape, most often [B, A].

  Attributes:
    shape: shape of one example, most often (A,).
  """

  def read(self, cell: Any, root: str | os.PathLike) -> np.ndarray | None:
    """Attributes from numbers, a text such as '0 1 1' or a .npy file."""
    if cells.is_missing(cell):
      return None
    values, where = cells.read_example(cell, root, self.shape)
    return self._from_values(values, where)

  def show(self, example: np.ndarray) -> str:
    """A box for each attribute, filled where it is set."""
    is_set = np.asarray(example).reshape(-1) > 0
    chosen = np.flatnonzero(is_set)
    text = f'{len(chosen)} of {is_set.size} attributes set'
    if is_set.size > _MOST_BOXES:
      return tiles.words(text)
    if 0 < len(chosen) <= _MOST_NUMBERS:
      text += ': ' + ', '.join(str(i) for i in chosen)
    columns = math.ceil(math.sqrt(is_set.size))
    pitch = _SIDE / columns
    height = math.ceil(-(-is_set.size // columns) * pitch)
    gap = min(2.0, pitch / 6)

    def corners(indices):
      for i in indices:
        top, left = divmod(int(i), columns)
        side = pitch - 2 * gap
        yield left * pitch + gap, top * pitch + gap, side, side

    return tiles.drawing(
      _SIDE,
      height,
      [
        tiles.boxes(corners(np.flatnonzero(~is_set)), 'axis', tiles.RULE),
        tiles.boxes(corners(chosen), 'positive', tiles.INK),
      ],
      text,
    )

  def picture(self, example: np.ndarray) -> None:
    """None: attributes are no picture."""
