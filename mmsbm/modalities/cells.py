"""Reading one example from a cell of a table: a path, a number or a text."""

import math
import os
import pathlib
import re
from typing import Any

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps

from mmsbm.infra.errors import UserError
from mmsbm.infra.files import local_path

# By name: a file decides which decoder of Pillow it is given to.
_FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'PPM', 'TIFF', 'WEBP')


def is_missing(cell: Any) -> bool:
  """Whether a cell is empty: None, NaN or blank."""
  if isinstance(cell, str):
    return not cell.strip()
  return cell is None or (isinstance(cell, float | np.floating) and math.isnan(cell))


def locate(cell: Any, root: str | os.PathLike) -> pathlib.Path:
  """The existing file that a cell names, relative to the folder `root`."""
  if not isinstance(cell, str | os.PathLike):
    raise UserError(f'{cell!r} is not the path of a file.')
  path = pathlib.Path(root, local_path(os.fspath(cell).strip()))
  if not os.path.isfile(path):
    raise UserError(f'the file {path} does not exist.')
  return path


def read_picture(path: pathlib.Path, height: int, width: int) -> PIL.Image.Image:
  """A picture of this size and 8 bits per channel, turned as its camera was held."""
  try:
    with PIL.Image.open(path, formats=_FORMATS) as picture:
      # Values from 5 on say that height and width are exchanged.
      is_turned = picture.getexif().get(PIL.ExifTags.Base.Orientation, 1) >= 5
      found = picture.size[::-1] if is_turned else picture.size
      if found != (width, height):
        raise UserError(
          f'the picture {path} has height {found[1]} and width {found[0]}, the config '
          f'says height {height} and width {width}; resize the file or change the '
          'config.'
        )
      if picture.mode[0] in 'IF':
        raise UserError(
          f'the picture {path} has more than 8 bits per channel; save it with 8 bits.'
        )
      return PIL.ImageOps.exif_transpose(picture)
  except UserError:
    raise
  except Exception as error:  # Pillow raises anything, by what the file holds.
    reason = str(error).partition('\n')[0]
    raise UserError(f'the picture {path} cannot be read: {reason}') from error


def over_white(picture: PIL.Image.Image) -> PIL.Image.Image:
  """Puts a picture on a white ground where it is transparent; the result is RGB."""
  ground = PIL.Image.new('RGBA', picture.size, 'white')
  return PIL.Image.alpha_composite(ground, picture.convert('RGBA')).convert('RGB')


def read_array(path: pathlib.Path) -> np.ndarray:
  """Reads a .npy file of numbers."""
  try:
    with open(path, 'rb') as f:
      array = np.lib.format.read_array(f, allow_pickle=False)
  except (OSError, ValueError, EOFError) as error:
    raise UserError(f'{path} cannot be read: it is not a whole .npy file.') from error
  if array.dtype.kind not in 'biuf':
    raise UserError(f'{path} holds {array.dtype}, not numbers.')
  return array


def read_numbers(cell: Any, root: str | os.PathLike) -> tuple[np.ndarray, str]:
  """Numbers of a cell, and what to call the cell in a message.

  A cell is one or several numbers; a text of numbers with spaces, commas or semicolons
  between them, in brackets or not; or the path of a .npy file below `root`. The array
  of a file comes as it is; else float64 [n], or a 0-d array for one number.
  """
  if isinstance(cell, str | os.PathLike):
    text = os.fspath(cell).strip()
    if text.lower().endswith('.npy'):
      path = locate(text, root)
      return read_array(path), str(path)
    cell = [word for word in re.split(r'[\s,;]+', text.strip('[]()')) if word]
  else:
    text = str(cell)
  where = f'the cell {text[:60]!r}'
  try:
    return np.asarray(cell, np.float64), where
  except (TypeError, ValueError) as error:
    raise UserError(
      f'{where} does not hold numbers: write them with spaces between, or the path of '
      'a .npy file.'
    ) from error


def read_example(
  cell: Any, root: str | os.PathLike, shape: tuple[int, ...]
) -> tuple[np.ndarray, str]:
  """`read_numbers` of [*shape]; numbers in one row take any shape of as many."""
  values, where = read_numbers(cell, root)
  if values.ndim < 2 and values.size == math.prod(shape):
    values = values.reshape(shape)
  if values.shape != shape:
    raise UserError(
      f'{where} holds numbers of shape {values.shape}; the config says {shape}.'
    )
  return values, where
