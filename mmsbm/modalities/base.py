"""What a kind of modality offers, and the record that gives one a name.

Raw data are what files hold and users see: uint8 pictures, 0/1 attributes, integer
labels, float vectors. The networks see floats. A kind holds the two maps between them
and all else that depends on the sort of data, but no network and no likelihood.
"""

import dataclasses
import math
import os
import re
from collections.abc import Iterable
from typing import Any, Protocol

import jax
import numpy as np

from mmsbm.infra.errors import UserError
from mmsbm.modalities import cells
from mmsbm.modalities.summary import Summary

# Words that stand beside the names of modalities in files and results.
RESERVED = ('shared', 'present', 'labels', 'mean', 'incremental', 'all')
# Names become parts of file names, of flags such as --config.modalities.NAME.kind and
# of members of archives.
_NAME = re.compile(r'[A-Za-z0-9_][A-Za-z0-9_-]{0,63}')


class Kind(Protocol):
  """A frozen dataclass; its fields are what a config says of the modality."""

  dtype: np.dtype  # of raw examples
  shape: tuple[int, ...]  # of one raw example
  bounds: tuple[float, float]  # smallest and largest raw value
  metrics: tuple[str, ...]  # against the true example, best known first

  @property
  def model_shape(self) -> tuple[int, ...]:
    """Shape of one example as the networks see it."""
    return self.shape

  def check(self, raw: Any, name: str) -> np.ndarray:
    """Raw examples [N, *shape] of modality `name` as an array of `dtype`.

    UserError: wrong type, shape or range.
    """
    return check_array(self, raw, f'modality {name!r}')

  @property
  def unfitted(self) -> tuple[str, ...]:
    """Names of fields that are to be measured on the training split."""
    return ()

  def fit(self, summary: Summary) -> dict[str, Any]:
    """Values of the fields `unfitted`, plain as JSON, of a summary of that split."""
    return {}

  def to_model(self, raw: jax.Array) -> jax.Array:
    """Raw examples [B, *shape] to what the networks see, [B, *model_shape]."""

  def to_data(self, x: jax.Array) -> jax.Array:
    """What the networks make, [B, *model_shape], to raw examples [B, *shape]."""

  def read(self, cell: Any, root: str | os.PathLike) -> np.ndarray | None:
    """One raw example [*shape] from a cell of a table, None where it is empty.

    A cell is a path below `root`, a number or a text; empty are None, NaN and blanks.
    UserError: it or its file holds no example of this kind.
    """
    return None if cells.is_missing(cell) else self._read(cell, root)

  def _read(self, cell: Any, root: str | os.PathLike) -> np.ndarray:
    """`read` of a cell that is not empty."""

  def show(self, example: np.ndarray) -> str:
    """HTML of one raw example [*shape]; no scripts and nothing outside of it."""

  def picture(self, example: np.ndarray) -> np.ndarray | None:
    """One raw example as uint8 [h, w, 3]; None where the kind is no picture."""
    return None


# What an object must have to serve as a kind.
MEMBERS = tuple(n for n in (*Kind.__annotations__, *vars(Kind)) if n[0] != '_')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shaped(Kind):
  """A kind whose config says the shape of one example."""

  shape: tuple[int, ...]

  def __post_init__(self):
    sides = self.shape if isinstance(self.shape, list | tuple) else (0,)
    if not all(is_count(side) for side in sides):
      raise UserError(
        f'the shape of kind {type(self).__name__.lower()!r} is {self.shape!r}; it must '
        'hold positive whole numbers.'
      )
    object.__setattr__(self, 'shape', tuple(int(side) for side in sides))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Modality:
  """One modality of a data set: a kind with a name, its shapes and its check.

  `kind_name` is a key of `KINDS`, or 'package.module:Class'.
  """

  name: str
  kind_name: str
  kind: Kind

  def __post_init__(self):
    check_name('modality', self.name)

  @property
  def shape(self) -> tuple[int, ...]:
    return self.kind.shape

  @property
  def model_shape(self) -> tuple[int, ...]:
    return self.kind.model_shape

  def check(self, raw: Any) -> np.ndarray:
    return self.kind.check(raw, self.name)


def check_name(what: str, name: Any) -> None:
  """Refuses a name that cannot be part of a file name or that has a meaning."""
  if not isinstance(name, str) or not _NAME.fullmatch(name):
    raise UserError(
      f'the {what} name {name!r} is not possible: a name has 1 to 64 of the letters '
      "a-z and A-Z, digits, '_' and '-', and does not begin with '-'."
    )
  if name in RESERVED:
    raise UserError(
      f'the {what} name {name!r} is taken by the program, as are {list(RESERVED)}; '
      'choose another one.'
    )


def check_names(names: Iterable[Any]) -> None:
  """Refuses names of modalities that are impossible, alike or none at all."""
  names = tuple(names)
  if not names:
    raise UserError('there are no modalities; name at least one in config.modalities.')
  for name in names:
    check_name('modality', name)
  # Some file systems do not tell capitals from small letters.
  if len({name.lower() for name in names}) < len(names):
    raise UserError(
      f'the modality names {list(names)} are not all different; they must differ in '
      'more than capital letters.'
    )


def check_array(kind: Kind, raw: Any, where: str) -> np.ndarray:
  """Numbers [N, *kind.shape] as an array of `kind.dtype`.

  UserError: a wrong shape, type or range, or what is not finite; begins with `where`.
  """
  try:
    raw = np.asarray(raw)
  except ValueError as error:
    raise UserError(
      f'{where}: the examples are not all of shape {kind.shape}.'
    ) from error
  if not raw.ndim:
    raise UserError(f'{where}: one number, not an array with a row for each example.')
  if raw.shape[1:] != kind.shape:
    raise UserError(
      f'{where}: examples have shape {raw.shape[1:]}, the config says {kind.shape}.'
    )
  dtype, name = np.dtype(kind.dtype), type(kind).__name__.lower()
  if raw.dtype.kind not in ('biuf' if dtype.kind == 'f' else 'biu'):
    raise UserError(f'{where}: the kind {name!r} is {dtype.name}, not {raw.dtype}.')
  if raw.size and not _holds(kind.bounds, raw.dtype):
    low, high = kind.bounds
    if raw.min() < low or raw.max() > high:
      raise UserError(
        f'{where}: the kind {name!r} holds values from {low} to {high}, not '
        f'{raw.min()} to {raw.max()}.'
      )
  with np.errstate(over='ignore'):
    out = raw.astype(dtype, copy=False)
  if dtype.kind == 'f' and not np.isfinite(out).all():
    raise UserError(
      f'{where}: the examples hold NaN, infinity or numbers beyond {dtype.name}.'
    )
  return out


def is_count(value: Any) -> bool:
  """Whether a value is a positive whole number."""
  return isinstance(value, int | np.integer) and value >= 1


def _holds(bounds: tuple[float, float], dtype: np.dtype) -> bool:
  """Whether no number of the type lies out of bounds, so that none needs a look."""
  if dtype.kind in 'iu':
    lowest, highest = np.iinfo(dtype).min, np.iinfo(dtype).max
  else:
    lowest, highest = (0, 1) if dtype.kind == 'b' else (-math.inf, math.inf)
  return bounds[0] <= lowest and highest <= bounds[1]
