"""Dataset 'polymnist': (Extended) PolyMNIST from MNIST, or the published images.

See `polymnist_recipe.py` for the recipe. Instances of a digit are shared out to
the splits before they are paired: 5/6 of MNIST's train file are the train split,
1/6 the validation split, MNIST's test file is the test split.
"""

import functools
import gzip
import hashlib
import os
import pathlib
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import PIL.Image

from mmsbm.data import backgrounds, dataset, digits, polymnist_recipe
from mmsbm.infra import files
from mmsbm.infra.errors import UserError

_VERSION = 1
_SIZE = 28

# Official files: (bytes, md5) as published; images, then labels.
_OFFICIAL = {
  'train-images-idx3-ubyte.gz': (9912422, 'f68b3c2dcbeaaa9fbdd348bbdeb94873'),
  'train-labels-idx1-ubyte.gz': (28881, 'd53e105ee54ea40749a09fcbcd1e9432'),
  't10k-images-idx3-ubyte.gz': (1648877, '9fb629c4189551a2d022fa330f9573f3'),
  't10k-labels-idx1-ubyte.gz': (4542, 'ec29112dd5afa0611ce80d1b7f02629c'),
}
_FILES = tuple(_OFFICIAL)
_PNG_NAME = re.compile(r'(\d+)\.(\d)\.png')

# 'train' and 'test' -> (images [I, 28, 28] uint8, labels [I] int32).
Mnist = Mapping[str, tuple[np.ndarray, np.ndarray]]


def read_idx(path: pathlib.Path, magic: int) -> np.ndarray:
  """Reads an idx file of bytes, gzipped or not.

  Args:
    path: the file.
    magic: 2051 for images, 2049 for labels.

  Returns:
    uint8 array of the shape that the file states.
  """
  try:
    data = pathlib.Path(path).read_bytes()
    if data[:2] == b'\x1f\x8b':
      data = gzip.decompress(data)
  except (OSError, EOFError, zlib.error) as error:
    raise UserError(
      f'The MNIST file {path} cannot be read ({error}); fetch it again.'
    ) from error
  num_axes = magic & 0xFF
  header = np.frombuffer(data[: 4 * (1 + num_axes)], '>u1')
  if len(header) < 4 * (1 + num_axes) or header[:4].view('>u4')[0] != magic:
    found = int.from_bytes(data[:4], 'big')
    raise UserError(
      f'{path} is not the MNIST file that it should be: it begins with the number '
      f'{found} instead of {magic}.'
    )
  shape = tuple(header[4:].view('>u4').tolist())
  if len(data) - len(header) != np.prod(shape):
    raise UserError(
      f'The MNIST file {path} states the shape {shape} but holds '
      f'{len(data) - len(header):,} bytes; fetch it again.'
    )
  return np.frombuffer(data, np.uint8, offset=len(header)).reshape(shape)


def read_mnist_pair(
  image_path: pathlib.Path, label_path: pathlib.Path
) -> tuple[np.ndarray, np.ndarray]:
  """Reads images [I, 28, 28] uint8 and labels [I] int32 that belong together."""
  images, labels = read_idx(image_path, 2051), read_idx(label_path, 2049)
  if len(images) != len(labels):
    raise UserError(
      f'{image_path} has {len(images)} images, but {label_path} has {len(labels)} '
      'labels; they do not belong together.'
    )
  if images.shape[1:] != (_SIZE, _SIZE) or labels.max(initial=0) > 9:
    raise UserError(
      f'{image_path} has images of shape {images.shape[1:]} and labels up to '
      f'{labels.max(initial=0)}; MNIST has (28, 28) and 9.'
    )
  return images, labels.astype(np.int32)


def read_mnist(folder: str, *, verify_checksums: bool = True) -> Mnist:
  """Reads the four official files of MNIST from a folder."""
  find_mnist(folder, verify_checksums=verify_checksums)
  paths = [pathlib.Path(folder).expanduser() / name for name in _FILES]
  return {'train': read_mnist_pair(*paths[:2]), 'test': read_mnist_pair(*paths[2:])}


def find_mnist(folder: str, *, verify_checksums: bool = True) -> list[str]:
  """Digests of the four files, which have to be there."""
  if not folder:
    raise UserError(
      'MNIST is needed: give the folder of its four files '
      f'({", ".join(_FILES)}) as --config.data.mnist_dir=DIR, or let TFDS download '
      'them with --config.data.source=tfds.'
    )
  digests = []
  for name, (size, md5) in _OFFICIAL.items():
    path = pathlib.Path(folder).expanduser() / name
    if not path.is_file():
      raise UserError(
        f'The MNIST file {path} does not exist; data.mnist_dir must hold the four '
        "official gz files (or use data.source='tfds', which downloads them)."
      )
    digests.append(dataset.fingerprint(path))
    if verify_checksums and digests[-1] != md5:
      raise UserError(
        f'{path} is not the published file ({path.stat().st_size:,} bytes instead of '
        f'{size:,}, md5 {digests[-1]} instead of {md5}); fetch it again, or set '
        'data.verify_checksums=False if it is meant to differ.'
      )
  return digests


def read_mnist_from_tfds(data_dir: str = '') -> Mnist:
  """Reads MNIST from TFDS, downloading it on first use."""
  # TFDS is imported by those who ask for it: it is slow to load.
  from mmsbm.data import tfds_polymnist

  return tfds_polymnist.read_mnist(data_dir)


def split_instances(mnist: Mnist, seed: int) -> Mnist:
  """Shares the instances out to 'train', 'val' and 'test', before any pairing.

  60,000 train instances become 50,000 and 10,000; the stand-in keeps the ratio.
  """
  images, labels = mnist['train']
  order = polymnist_recipe.make_rng(seed, 'instances').permutation(len(images))
  val, train = np.split(order, [len(images) // 6])
  return {
    'train': (images[train], labels[train]),
    'val': (images[val], labels[val]),
    'test': mnist['test'],
  }


def make_split(
  split: str,
  instances: Mnist,
  photographs: Sequence[backgrounds.Background],
  num: int,
  seed: int,
) -> tuple[np.ndarray, Iterator[np.ndarray]]:
  """Labels [num] and one array of images [num, 28, 28, 3] after another.

  Args:
    split: 'train', 'val' or 'test'.
    instances: result of `split_instances`.
    photographs: one per modality.
    num: number of examples.
    seed: of the dataset.
  """
  images, labels = instances[split]
  if not len(labels):
    raise UserError(f'There are no MNIST digits for the {split} split.')
  return polymnist_recipe.make_examples(
    split, labels, lambda rng, rows: images[rows] > 128, photographs, num, seed
  )


def build(
  modalities: Sequence[str],
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
) -> dataset.MultimodalDataset:
  """Builds the dataset, or opens it where it was built before.

  Args:
    modalities: names; modality i is drawn on photograph i. For source 'png', the
      names of the folders ('m0', 'm1', ...), any of them.
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
    num_val: the same for the validation split.
    num_test: the same for the test split.
    verify_checksums: for 'idx', insist on the published files.
    standin: for 'idx' without `mnist_dir`, read the files of `write_idx_standin`:
      for trying the program where MNIST is not at hand.
    seed: of the split of the instances and of everything drawn.
    memory_limit_gb: see `dataset.prepare`.
  """
  counts = {
    'train': dataset.check_count('num_train', num_train),
    'val': dataset.check_count('num_val', num_val),
    'test': dataset.check_count('num_test', num_test),
  }
  key = {'recipe': [polymnist_recipe.VERSION, _VERSION], 'counts': counts}
  if source == 'png':
    root = pathlib.Path(png_dir).expanduser()
    names = _list_pngs(png_dir, modalities, counts)
    sizes = '\n'.join(
      f'{split}/{m}/{name} {(root / split / m / name).stat().st_size}'
      for split, split_names in names.items()
      for m in modalities
      for name in split_names
    )
    key['png'] = hashlib.md5(sizes.encode()).hexdigest()
    write = _png_writer(root, modalities, names)
  else:
    seed = dataset.check_count('seed', seed, minimum=0)
    if source == 'idx':
      if standin and not mnist_dir:
        mnist_dir, verify_checksums = _standin_dir(cache_dir), False
      key['mnist'] = find_mnist(mnist_dir, verify_checksums=verify_checksums)
      read = functools.partial(read_mnist, mnist_dir, verify_checksums=verify_checksums)
    elif source == 'tfds':
      key['mnist'] = 'tfds mnist 3.0.1'
      read = functools.partial(read_mnist_from_tfds, tfds_dir)
    else:
      raise UserError(f"data.source is {source!r}; choose 'idx', 'tfds' or 'png'.")
    photographs = backgrounds.load_backgrounds(
      background_dir or tuple(backgrounds.BUNDLED), len(modalities)
    )
    key |= {'photos': [p.fingerprint for p in photographs], 'seed': seed}
    write = _recipe_writer(read, modalities, photographs, counts, seed)
  return dataset.prepare(
    'polymnist', modalities, cache_dir, key, write, memory_limit_gb=memory_limit_gb
  )


def _recipe_writer(
  read: Callable[[], Mnist],
  modalities: Sequence[str],
  photographs: Sequence[backgrounds.Background],
  counts: Mapping[str, int],
  seed: int,
) -> Callable[[dataset.Writer], str]:
  def write(writer):
    mnist = read()
    instances = split_instances(mnist, seed)
    for split, num in counts.items():
      labels, images = make_split(split, instances, photographs, num, seed)
      writer.write(split, dataset.LABELS, labels)
      for name, pixels in zip(modalities, images, strict=True):
        writer.write(split, name, pixels)
    total = sum(len(labels) for _, labels in mnist.values())
    return (
      f'polymnist: {len(modalities)} modalities of 28x28 pixels, '
      + '/'.join(f'{n:,}' for n in counts.values())
      + f' train/val/test examples of {total:,} digits (MNIST: CC BY-SA 3.0) on '
      + ', '.join(p.credit for p in photographs)
    )

  return write


def _list_pngs(
  png_dir: str, modalities: Sequence[str], counts: Mapping[str, int]
) -> dict[str, list[str]]:
  """File names of each split, in numerical order; the same in every modality."""
  root = pathlib.Path(png_dir).expanduser()
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
      matches = [_PNG_NAME.fullmatch(entry.name) for entry in os.scandir(folder)]
      found = sorted(
        (int(match[1]), int(match[2]), match[0]) for match in matches if match
      )
      expected = result.setdefault(split, found)
      for i in range(max(len(found), len(expected))):
        a, b = (
          files_[i][2] if i < len(files_) else None for files_ in (found, expected)
        )
        if a != b:
          raise UserError(
            f'{folder} has {a or "no file"} where {root / split / modalities[0]} has '
            f'{b or "no file"}: index and digit must agree in all modalities.'
          )
    if not result[split]:
      raise UserError(
        f'{root / split / modalities[0]} has no files named <index>.<digit>.png.'
      )
    result[split] = [name for _, _, name in result[split][:num]]
  return result


def _png_writer(
  root: pathlib.Path, modalities: Sequence[str], names: Mapping[str, list[str]]
) -> Callable[[dataset.Writer], str]:
  def read(path):
    try:
      with PIL.Image.open(path) as image:
        pixels = np.asarray(image.convert('RGB'))
    except (OSError, ValueError, SyntaxError) as error:
      raise UserError(f'The image {path} cannot be read: {error}') from error
    if pixels.shape != (_SIZE, _SIZE, 3):
      raise UserError(
        f'The image {path} has {pixels.shape[1]}x{pixels.shape[0]} pixels instead of '
        '28x28.'
      )
    return pixels[None]

  def write(writer):
    for split, split_names in names.items():
      labels = [int(name.split('.')[-2]) for name in split_names]
      writer.write(split, dataset.LABELS, np.array(labels, np.int32))
      for m in modalities:
        blocks = (read(root / split / m / name) for name in split_names)
        shape = (len(split_names), _SIZE, _SIZE, 3)
        writer.write_blocks(split, m, shape, np.uint8, blocks)
    return (
      f'polymnist: {len(modalities)} modalities of 28x28 pixels, '
      + '/'.join(f'{len(n):,}' for n in names.values())
      + ' train/val/test examples as published (MNIST: CC BY-SA 3.0)'
    )

  return write


def _standin_dir(cache_dir: str) -> str:
  """Folder of the stand-in for MNIST; written where it is not there yet."""
  folder = pathlib.Path(cache_dir).expanduser() / f'mnist-standin-{_VERSION}'
  if not folder.is_dir():
    with files.atomic_path(folder) as scratch:
      write_idx_standin(scratch)
  return str(folder)


def write_idx_standin(
  folder: str | os.PathLike, num_train: int = 600, num_test: int = 200, seed: int = 0
) -> None:
  """Writes a small stand-in for MNIST in the official layout, without a download.

  The digits of scikit-learn at 28x28 with grey levels, none twice; the same
  bytes on every call. Read it with `verify_checksums=False`.
  """
  images, labels = digits.load_instances()
  if num_train + num_test > len(images):
    raise UserError(
      f'The stand-in for MNIST has {len(images)} digits, not {num_train + num_test}.'
    )
  order = np.random.default_rng(seed).permutation(len(images))
  parts = order[:num_train], order[num_train : num_train + num_test]
  for part, names in zip(parts, (_FILES[:2], _FILES[2:]), strict=True):
    pixels = np.rint(digits.warp(images[part], _SIZE) * (255 / 16)).astype(np.uint8)
    arrays = pixels, labels[part].astype(np.uint8)
    for name, magic, array in zip(names, (2051, 2049), arrays, strict=True):
      header = np.array([magic, *array.shape], '>u4').tobytes()
      data = gzip.compress(header + array.tobytes(), mtime=0)
      files.write_atomic(pathlib.Path(folder) / name, data)
