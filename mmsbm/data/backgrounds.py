"""Photographs to put digits on, without a download.

scikit-image and scikit-learn carry a few photographs inside their packages.
They are read as files: the `skimage.data` functions may download.
"""

import dataclasses
import importlib.util
import pathlib
from collections.abc import Sequence

import numpy as np
import PIL.Image

from mmsbm.data import store
from mmsbm.infra.errors import UserError
from mmsbm.infra.files import local_path

WHOLE = None
# Package, path inside it, and licence as the package states it.
_FLOWER = ('sklearn', 'datasets/images/flower.jpg', 'CC BY 2.0 vultilion')
_CHINA = ('sklearn', 'datasets/images/china.jpg', 'CC BY 2.0 danielbuechele')
# Name -> the same and a box (left, top, right, bottom) or WHOLE. Quiet ones first: the
# digit must be what most of an example's variance is. Two are parts of a photograph,
# the dark leaves beside the flower and the sky over the tower.
BUNDLED = {
  'leaves': (*_FLOWER, (450, 0, 640, 380)),
  'hubble': ('skimage', 'data/hubble_deep_field.jpg', 'public domain, NASA', WHOLE),
  'retina': ('skimage', 'data/retina.jpg', 'CC0', WHOLE),
  'sky': (*_CHINA, (340, 0, 640, 130)),
  'cell': ('skimage', 'data/cell.png', 'CC0', WHOLE),
  'flower': (*_FLOWER, WHOLE),
  'coffee': ('skimage', 'data/coffee.png', 'CC0', WHOLE),
  'camera': ('skimage', 'data/camera.png', 'CC0', WHOLE),
  'china': (*_CHINA, WHOLE),
  'astronaut': ('skimage', 'data/astronaut.png', 'public domain, NASA', WHOLE),
}


@dataclasses.dataclass(frozen=True)
class Background:
  """A photograph."""

  pixels: np.ndarray  # [H, W, 3] uint8
  fingerprint: str  # digest of its file, and the part of it that is used
  credit: str  # name and, where it is known, the licence


def load_backgrounds(
  names_or_dir: Sequence[str] | str, count: int, *, min_size: int = 28
) -> tuple[Background, ...]:
  """Reads `count` photographs, the first of those that are named.

  Args:
    names_or_dir: names from `BUNDLED`, or a folder whose jpg and png files are
      taken in the order of their names.
    count: how many are needed.
    min_size: smallest height and width that will do.
  """
  if isinstance(names_or_dir, str):
    folder = local_path(names_or_dir)
    if not folder.is_dir():
      raise UserError(f'The folder of background photographs {folder} does not exist.')
    paths = sorted(
      p for p in folder.iterdir() if p.suffix.lower() in ('.jpg', '.jpeg', '.png')
    )
    sources = [(path, path.name, WHOLE) for path in paths]
    place = f'the folder {folder} has {len(paths)} jpg and png files'
  else:
    sources = []
    for name in names_or_dir:
      path = find_bundled(name)
      *_, licence, box = BUNDLED[name]
      sources.append((path, f'{name} ({licence})', box))
    place = f'{len(names_or_dir)} names are given: {tuple(names_or_dir)}'
  if len(sources) < count:
    raise UserError(
      f'{count} modalities need {count} background photographs, but {place}.'
    )
  return tuple(_read(*source, min_size) for source in sources[:count])


def find_bundled(name: str) -> pathlib.Path:
  """Path of a photograph of `BUNDLED` inside the installed package."""
  if name not in BUNDLED:
    raise UserError(f'There is no photograph {name!r}; choose from {sorted(BUNDLED)}.')
  package, relative, *_ = BUNDLED[name]
  return find_in_package(package, relative)


def find_in_package(package: str, relative: str) -> pathlib.Path:
  """Path of a file inside an installed package, which is not imported."""
  spec = importlib.util.find_spec(package)
  path = pathlib.Path(spec.origin).parent / relative if spec else None
  if path is None or not path.is_file():
    raise UserError(
      f'The file {relative} is not in the installed package {package}; install '
      'scikit-image 0.26 and scikit-learn 1.9, or use data of your own.'
    )
  return path


def _read(
  path: pathlib.Path, credit: str, box: tuple[int, ...] | None, min_size: int
) -> Background:
  try:
    with PIL.Image.open(path) as image:
      pixels = np.asarray(image.convert('RGB').crop(box))
  except (OSError, ValueError, SyntaxError) as error:
    raise UserError(f'The photograph {path} cannot be read: {error}') from error
  if min(pixels.shape[:2]) < min_size:
    raise UserError(
      f'The photograph {path} has {pixels.shape[1]}x{pixels.shape[0]} pixels; at '
      f'least {min_size}x{min_size} are needed.'
    )
  return Background(pixels, f'{store.fingerprint(path)} {box}', credit)
