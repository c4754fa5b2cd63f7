"""Dataset 'polymnist': (Extended) PolyMNIST from MNIST, or the published images.

See `polymnist_recipe.py` for the recipe. Instances of a digit are shared out to
the splits before they are paired: 5/6 of MNIST's train file are the train split,
1/6 the validation split, MNIST's test file is the test split.
"""

import functools
import hashlib
import itertools
import os
import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np
import PIL.Image

from mmsbm.data import backgrounds, mnist, polymnist_recipe, store
from mmsbm.data.dataset import MultimodalDataset, check_count, check_counts
from mmsbm.data.polymnist_recipe import write_examples
from mmsbm.infra.errors import UserError
from mmsbm.infra.files import local_path
from mmsbm.modalities.base import Modality

_VERSION = 1

_PNG_NAME = re.compile(r'(\d+)\.(\d)\.png')


def build(
  modalities: Sequence[Modality],
  cache_dir: str,
  *,
  source: str = 'idx',
  mnist_dir: str = '',
  background_dir: str = '',
  png_dir: str = '',
  tfds_dir: str = '',
  num_train: int = 50_000,
  num_val: int = 10_000,
  num_test: int = 10_000,
  verify_checksums: bool = True,
  standin: bool = False,
  seed: int = 0,
  memory_limit_gb: float = 8.0,
) -> MultimodalDataset:
  """Builds the dataset, or opens it where it was built before.

  Args:
    modalities: modality i is drawn on photograph i. For source 'png' their names are
      those of the folders ('m0', 'm1', ...), any of them.
    cache_dir: folder of prepared datasets.
    source: 'idx' (MNIST's four files), 'tfds' (MNIST downloaded by TFDS) or 'png'
      (the published images).
    mnist_dir: for 'idx', the folder of the four files.
    background_dir: folder with at least as many jpg or png photographs as there
      are modalities; empty for the ones in scikit-image and scikit-learn.
    png_dir: for 'png', folder that holds {train,val,test}/m0/<i>.<digit>.png.
    tfds_dir: for 'tfds', its data folder; empty for the TFDS default.
    num_train: examples; more than instances repeat them on fresh crops. For
      'png', at most so many.
    num_val, num_test: the same for the other splits.
    verify_checksums: for 'idx', insist on the published files.
    standin: for 'idx' without `mnist_dir`, read the files of `write_idx_standin`:
      for trying the program where MNIST is not at hand.
    seed: of the split of the instances and of everything drawn.
    memory_limit_gb: see `store.prepare`.
  """
  names = tuple(modality.name for modality in modalities)
  counts = check_counts(num_train, num_val, num_test)
  key = {'recipe': [polymnist_recipe.VERSION, _VERSION], 'counts': counts}
  if source == 'png':
    root = local_path(png_dir)
    pngs = _list_pngs(png_dir, names, counts)
    counts = {split: len(split_pngs) for split, split_pngs in pngs.items()}
    sizes = '\n'.join(
      f'{split}/{m}/{png} {(root / split / m / png).stat().st_size}'
      for split, split_pngs in pngs.items()
      for m in names
      for png in split_pngs
    )
    key['png'] = hashlib.md5(sizes.encode()).hexdigest()

    def make_split(split: str, num: int) -> polymnist_recipe.Examples:
      files = pngs[split]
      labels = [int(_PNG_NAME.fullmatch(file)[2]) for file in files]
      images = (
        np.stack([_read_png(root / split / m / f) for f in files]) for m in names
      )
      return np.array(labels, np.int32), images

    def write(writer: store.Writer) -> str:
      origin = 'as published (MNIST: CC BY-SA 3.0)'
      return write_examples(writer, 'polymnist', names, counts, make_split, origin)

  else:
    seed = check_count('seed', seed, minimum=0)
    if source == 'idx':
      if standin and not mnist_dir:
        mnist_dir, verify_checksums = mnist.standin_dir(cache_dir), False
      key['mnist'] = mnist.find(mnist_dir, verify_checksums=verify_checksums)
      read = functools.partial(mnist.read, mnist_dir, verify_checksums=verify_checksums)
    elif source == 'tfds':
      key['mnist'] = 'tfds mnist 3.0.1'

      def read() -> mnist.Mnist:
        # TFDS is imported by those who ask for it: it is slow to load.
        from mmsbm.data import tfds_polymnist

        return tfds_polymnist.read_mnist(tfds_dir)

    else:
      raise UserError(f"data.source is {source!r}; choose 'idx', 'tfds' or 'png'.")
    photographs = backgrounds.load_backgrounds(
      background_dir or tuple(backgrounds.BUNDLED), len(names)
    )
    key |= {'photos': [p.fingerprint for p in photographs], 'seed': seed}

    def write(writer: store.Writer) -> str:
      digits = read()
      instances = mnist.split_instances(digits, seed)
      make_split = functools.partial(
        mnist.make_split, instances=instances, photographs=photographs, seed=seed
      )
      total = sum(len(labels) for _, labels in digits.values())
      origin = f'of {total:,} digits (MNIST: CC BY-SA 3.0) on '
      origin += ', '.join(photograph.credit for photograph in photographs)
      return write_examples(writer, 'polymnist', names, counts, make_split, origin)

  return store.prepare(
    'polymnist', names, cache_dir, key, write, memory_limit_gb=memory_limit_gb
  )


def _list_pngs(
  png_dir: str, modalities: Sequence[str], counts: Mapping[str, int]
) -> dict[str, list[str]]:
  """File names of each split, in numerical order; the same in every modality."""
  root = local_path(png_dir)
  if not png_dir or not root.is_dir():
    raise UserError(
      f"data.source='png' needs data.png_dir, the folder that holds train, val and "
      f'test; {png_dir!r} is not a folder.'
    )
  result = {}
  for split, num in counts.items():
    for m in modalities:
      folder = root / split / m
      if not folder.is_dir():
        raise UserError(f'The folder {folder} of modality {m!r} does not exist.')
      matches = map(_PNG_NAME.fullmatch, os.listdir(folder))
      found = sorted(
        (int(match[1]), int(match[2]), match[0]) for match in matches if match
      )
      expected = result.setdefault(split, found)
      no_file = (0, 0, 'no file')
      for a, b in itertools.zip_longest(found, expected, fillvalue=no_file):
        if a != b:
          raise UserError(
            f'{folder} has {a[2]} where {root / split / modalities[0]} has {b[2]}: '
            'index and digit must agree in all modalities.'
          )
    if not result[split]:
      raise UserError(
        f'{root / split / modalities[0]} has no files named <index>.<digit>.png.'
      )
    result[split] = [name for _, _, name in result[split][:num]]
  return result


def _read_png(path: pathlib.Path) -> np.ndarray:
  try:
    with PIL.Image.open(path) as image:
      pixels = np.asarray(image.convert('RGB'))
  except (OSError, ValueError, SyntaxError) as error:
    raise UserError(f'The image {path} cannot be read: {error}') from error
  if pixels.shape != (mnist.SIZE, mnist.SIZE, 3):
    raise UserError(
      f'The image {path} has {pixels.shape[1]}x{pixels.shape[0]} pixels instead of '
      '28x28.'
    )
  return pixels
