"""Masks."""

import colorsys
import dataclasses
import os
from typing import Any

import numpy as np

from mmsbm.infra.errors import UserError
from mmsbm.modalities import cells, tiles
from mmsbm.modalities.binary import Binary

_GOLDEN_RATIO = (5**0.5 - 1) / 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mask(Binary):
  """0/1 pixels [B, H, W] or [B, H, W, parts]; 0 and 255 mean the same."""

  def __post_init__(self):
    super().__post_init__()
    if len(self.shape) not in (2, 3):
      raise UserError(
        f'a mask has shape (height, width) or (height, width, parts), not '
        f"{self.shape}; use kind='attributes' for 0/1 entries that are no picture."
      )

  def _read(self, cell: Any, root: str | os.PathLike) -> np.ndarray:
    path = cells.locate(cell, root)
    if path.suffix.lower() == '.npy':
      return self._from_values(cells.read_array(path), str(path))
    if self.shape[2:] not in ((), (1,)):
      raise UserError(
        f'{path} is one picture, but the mask has {self.shape[2]} parts; save them as '
        f'a .npy file of shape {self.shape}.'
      )
    picture = cells.read_picture(path, *self.shape[:2])
    if picture.has_transparency_data:
      picture = picture.convert('RGBA')
      if picture.getchannel('A').getextrema()[0] < 255:
        raise UserError(f'the mask {path} has transparent pixels; save it in grey.')
    pixels = np.asarray(picture.convert('L'))
    return self._from_values(pixels.reshape(self.shape), f'the mask {path}')

  def show(self, example: np.ndarray) -> str:
    """The mask, white on black; several parts have a colour each."""
    share = (np.asarray(example) > 0).mean()
    return tiles.picture(self.picture(example), f'mask, {share:.0%} set')

  def picture(self, example: np.ndarray) -> np.ndarray:
    """RGB pixels, uint8 [H, W, 3]; later parts lie over earlier ones."""
    parts = np.asarray(example).reshape(*self.shape[:2], -1) > 0
    out = np.zeros((*self.shape[:2], 3), np.uint8)
    for index in range(parts.shape[2]):
      # Neighbours in the order have unlike hues.
      levels = colorsys.hsv_to_rgb(index * _GOLDEN_RATIO % 1, 0.65, 1.0)
      colour = [round(255 * level) for level in levels]
      out[parts[..., index]] = colour if parts.shape[2] > 1 else 255
    return out
