"""What masks and attributes share."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.infra.errors import UserError
from mmsbm.modalities.base import Shaped, check_array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Binary(Shaped):
  """0/1 entries; any positive number is 1: masks are often stored as 0 and 255."""

  dtype: ClassVar[np.dtype] = np.dtype(np.uint8)
  bounds: ClassVar[tuple[int, int]] = (0, 255)
  metrics: ClassVar[tuple[str, ...]] = ('f1',)

  def to_model(self, raw: jax.Array) -> jax.Array:
    return (raw > 0).astype(jnp.float32)

  def to_data(self, x: jax.Array) -> jax.Array:
    return (x > 0.5).astype(jnp.uint8)

  def _from_values(self, values: np.ndarray, where: str) -> np.ndarray:
    """One example from numbers of a file; a third value is of another sort of file."""
    if not (np.isin(values, (0, 1)).all() or np.isin(values, (0, 255)).all()):
      raise UserError(
        f'{where} holds values from {values.min():g} to {values.max():g}; it must hold '
        'two values only, 0 and 1 or 0 and 255.'
      )
    return check_array(self, (values > 0)[None], where)[0]
