"""What masks and attributes have in common: entries that are 0 or 1."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.infra.errors import UserError
from mmsbm.modalities.base import as_shape, check_array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Binary:
  """0/1 entries; any positive number is 1, since masks are often stored as 0 and 255.

  Attributes:
    shape: shape of one example.
  """

  shape: tuple[int, ...]
  dtype: ClassVar[np.dtype] = np.dtype(np.uint8)
  bounds: ClassVar[tuple[int, int]] = (0, 255)
  metrics: ClassVar[tuple[str, ...]] = ('f1',)

  def __post_init__(self):
    object.__setattr__(self, 'shape', as_shape(self, self.shape))

  @property
  def model_shape(self) -> tuple[int, ...]:
    """The shape of the examples themselves."""
    return self.shape

  def check(self, raw: Any, name: str) -> np.ndarray:
    """Examples [N, *shape] of whole numbers from 0 to 255, as uint8."""
    return check_array(self, raw, f'modality {name!r}')

  def to_model(self, raw: jax.Array) -> jax.Array:
    """1.0 where the entry is set, else 0.0."""
    return (raw > 0).astype(jnp.float32)

  def to_data(self, x: jax.Array) -> jax.Array:
    """1 where the probability is above one half, else 0."""
    return (x > 0.5).astype(jnp.uint8)

  def _from_values(self, values: np.ndarray, where: str) -> np.ndarray:
    """One example from numbers of a file that are 0 and 1, or 0 and 255.

    In a file any third value means that the file is of another sort: smoothed masks,
    numbers of parts, probabilities.
    """
    if not (np.isin(values, (0, 1)).all() or np.isin(values, (0, 255)).all()):
      raise UserError(
        f'{where} holds values from {values.min():g} to {values.max():g}; it must hold '
        'two values only, 0 and 1 or 0 and 255.'
      )
    return check_array(self, (values > 0)[None], where)[0]
