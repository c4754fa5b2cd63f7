"""Labels: one of several classes."""

import dataclasses
import operator
import os
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.infra.errors import UserError
from mmsbm.modalities import cells, tiles
from mmsbm.modalities.base import check_array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Label:
  """Integers [B] in [0, num_classes); the networks see one-hot rows.

  Attributes:
    num_classes: number of classes.
  """

  num_classes: int
  dtype: ClassVar[np.dtype] = np.dtype(np.int32)
  shape: ClassVar[tuple[int, ...]] = ()
  metrics: ClassVar[tuple[str, ...]] = ('accuracy',)

  def __post_init__(self):
    try:
      is_count = operator.index(self.num_classes) >= 1
    except TypeError:
      is_count = False
    if not is_count:
      raise UserError(
        f'num_classes of a label is {self.num_classes!r}; it must be a positive whole '
        'number.'
      )

  @property
  def bounds(self) -> tuple[int, int]:
    """The first and the last class."""
    return 0, self.num_classes - 1

  @property
  def model_shape(self) -> tuple[int, ...]:
    """A number for each class."""
    return (self.num_classes,)

  def check(self, raw: Any, name: str) -> np.ndarray:
    """Classes [N] as int32."""
    return check_array(self, raw, f'modality {name!r}')

  def to_model(self, raw: jax.Array) -> jax.Array:
    """One-hot rows."""
    return jax.nn.one_hot(raw, self.num_classes)

  def to_data(self, x: jax.Array) -> jax.Array:
    """The most probable class."""
    return x.argmax(-1).astype(jnp.int32)

  def read(self, cell: Any, root: str | os.PathLike) -> np.ndarray | None:
    """A class from a whole number or its text; None for an empty cell."""
    if cells.is_missing(cell):
      return None
    values, where = cells.read_numbers(cell, root)
    number = float(values.item()) if values.size == 1 else -1.0
    if not number.is_integer() or not 0 <= number < self.num_classes:
      raise UserError(
        f'{where} is no class; the config says a whole number from 0 to '
        f'{self.num_classes - 1}.'
      )
    return np.array(number, self.dtype)

  def show(self, example: np.ndarray) -> str:
    """The number of the class."""
    return tiles.words(str(int(example)))

  def picture(self, example: np.ndarray) -> None:
    """None: a label is no picture."""
