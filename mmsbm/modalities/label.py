"""Class labels."""

import dataclasses
import os
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.infra.errors import UserError
from mmsbm.modalities import cells, tiles
from mmsbm.modalities.base import Kind, is_count


@dataclasses.dataclass(frozen=True, kw_only=True)
class Label(Kind):
  """Integers [B] in [0, num_classes); the networks see one-hot rows."""

  num_classes: int
  dtype: ClassVar[np.dtype] = np.dtype(np.int32)
  shape: ClassVar[tuple[int, ...]] = ()
  metrics: ClassVar[tuple[str, ...]] = ('accuracy',)

  def __post_init__(self):
    if not is_count(self.num_classes):
      raise UserError(
        f'num_classes of a label is {self.num_classes!r}; it must be a positive whole '
        'number.'
      )

  @property
  def bounds(self) -> tuple[int, int]:
    return 0, self.num_classes - 1

  @property
  def model_shape(self) -> tuple[int, ...]:
    return (self.num_classes,)

  def to_model(self, raw: jax.Array) -> jax.Array:
    return jax.nn.one_hot(raw, self.num_classes)

  def to_data(self, x: jax.Array) -> jax.Array:
    return x.argmax(-1).astype(jnp.int32)

  def _read(self, cell: Any, root: str | os.PathLike) -> np.ndarray:
    values, where = cells.read_numbers(cell, root)
    top = self.bounds[1]
    number = float(values.item()) if values.size == 1 else -1.0
    if not number.is_integer() or not 0 <= number <= top:
      raise UserError(
        f'{where} is no class; the config says a whole number from 0 to {top}.'
      )
    return np.array(number, self.dtype)

  def show(self, example: np.ndarray) -> str:
    return tiles.words(str(int(example)))
