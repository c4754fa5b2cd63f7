"""Pictures."""

import dataclasses
import os
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

from mmsbm.infra.errors import UserError
from mmsbm.modalities import cells, tiles
from mmsbm.modalities.base import Shaped, check_array

# Channels -> how Pillow calls such a picture.
_MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Image(Shaped):
  """uint8 pictures [B, H, W, C], grey, RGB or RGBA; the networks see [0, 1]."""

  dtype: ClassVar[np.dtype] = np.dtype(np.uint8)
  bounds: ClassVar[tuple[int, int]] = (0, 255)
  metrics: ClassVar[tuple[str, ...]] = ('mse',)

  def __post_init__(self):
    super().__post_init__()
    if len(self.shape) != 3 or self.shape[2] not in _MODES:
      raise UserError(
        f'an image has shape (height, width, channels) with 1, 3 or 4 channels, not '
        f"{self.shape}; use kind='vector' for arrays that no picture shows."
      )

  def to_model(self, raw: jax.Array) -> jax.Array:
    return raw.astype(jnp.float32) / 255.0

  def to_data(self, x: jax.Array) -> jax.Array:
    """Clips to [0, 1] and rounds to 8 bits, as a saved picture would be."""
    return jnp.floor(jnp.clip(x, 0.0, 1.0) * 255.0 + 0.5).astype(jnp.uint8)

  def _read(self, cell: Any, root: str | os.PathLike) -> np.ndarray:
    """Colours become grey for one channel; what is transparent, white but for four."""
    path = cells.locate(cell, root)
    if path.suffix.lower() == '.npy':
      return check_array(self, cells.read_array(path)[None], str(path))[0]
    height, width, channels = self.shape
    picture = cells.read_picture(path, height, width)
    if channels < 4 and picture.has_transparency_data:
      picture = cells.over_white(picture)
    return np.array(picture.convert(_MODES[channels])).reshape(self.shape)

  def show(self, example: np.ndarray) -> str:
    text = f'image, {self.shape[1]} by {self.shape[0]} pixels'
    return tiles.picture(self.picture(example), text)

  def picture(self, example: np.ndarray) -> np.ndarray:
    """RGB pixels, uint8 [H, W, 3]; over white where there are four channels."""
    pixels = np.asarray(example, np.uint8).reshape(self.shape)
    if self.shape[2] == 4:
      return np.array(cells.over_white(PIL.Image.fromarray(pixels)))
    return np.broadcast_to(pixels, (*self.shape[:2], 3))
