"""MNIST: its four files, its digits shared out to splits, and a stand-in for it."""

import gzip
import os
import pathlib
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from mmsbm.data import backgrounds, digits, polymnist_recipe, store
from mmsbm.infra import files
from mmsbm.infra.errors import UserError

SIZE = 28
# Raise it when other bytes are written as the stand-in.
_STANDIN_VERSION = 1

# Official files: (bytes, md5) as published; images, then labels.
_OFFICIAL = {
  'train-images-idx3-ubyte.gz': (9912422, 'f68b3c2dcbeaaa9fbdd348bbdeb94873'),
  'train-labels-idx1-ubyte.gz': (28881, 'd53e105ee54ea40749a09fcbcd1e9432'),
  't10k-images-idx3-ubyte.gz': (1648877, '9fb629c4189551a2d022fa330f9573f3'),
  't10k-labels-idx1-ubyte.gz': (4542, 'ec29112dd5afa0611ce80d1b7f02629c'),
}
FILES = tuple(_OFFICIAL)

# 'train' and 'test' -> (images [I, 28, 28] uint8, labels [I] int32).
Mnist = Mapping[str, tuple[np.ndarray, np.ndarray]]


def read_idx(path: pathlib.Path, magic: int) -> np.ndarray:
  """Reads an idx file, gzipped or not; `magic`: 2051 for images, 2049 for labels."""
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
  found = int.from_bytes(data[:4], 'big')
  if len(header) < 4 * (1 + num_axes) or found != magic:
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


def read_pair(
  image_path: pathlib.Path, label_path: pathlib.Path
) -> tuple[np.ndarray, np.ndarray]:
  """Reads images [I, 28, 28] uint8 and labels [I] int32 that belong together."""
  images, labels = read_idx(image_path, 2051), read_idx(label_path, 2049)
  if len(images) != len(labels):
    raise UserError(
      f'{image_path} has {len(images)} images, but {label_path} has {len(labels)} '
      'labels; they do not belong together.'
    )
  if images.shape[1:] != (SIZE, SIZE) or labels.max(initial=0) > 9:
    raise UserError(
      f'{image_path} has images of shape {images.shape[1:]} and labels up to '
      f'{labels.max(initial=0)}; MNIST has (28, 28) and 9.'
    )
  return images, labels.astype(np.int32)


def read(folder: str, *, verify_checksums: bool = True) -> Mnist:
  """Reads the four official files of MNIST from a folder."""
  find(folder, verify_checksums=verify_checksums)
  return read_files([files.local_path(folder) / name for name in FILES])


def read_files(paths: Sequence[pathlib.Path]) -> Mnist:
  """Reads the four files in the order of `FILES`."""
  return {'train': read_pair(*paths[:2]), 'test': read_pair(*paths[2:])}


def find(folder: str, *, verify_checksums: bool = True) -> list[str]:
  """Digests of the four files, which have to be there."""
  if not folder:
    raise UserError(
      'MNIST is needed: give the folder of its four files '
      f'({", ".join(FILES)}) as --config.data.mnist_dir=DIR, or let TFDS download '
      'them with --config.data.source=tfds.'
    )
  digests = []
  for name, (size, md5) in _OFFICIAL.items():
    path = files.local_path(folder) / name
    if not path.is_file():
      raise UserError(
        f'The MNIST file {path} does not exist; data.mnist_dir must hold the four '
        "official gz files (or use data.source='tfds', which downloads them)."
      )
    digests.append(store.fingerprint(path))
    if verify_checksums and digests[-1] != md5:
      raise UserError(
        f'{path} is not the published file ({path.stat().st_size:,} bytes instead of '
        f'{size:,}, md5 {digests[-1]} instead of {md5}); fetch it again, or set '
        'data.verify_checksums=False if it is meant to differ.'
      )
  return digests


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
  num: int,
  *,
  instances: Mnist,
  photographs: Sequence[backgrounds.Background],
  seed: int,
) -> polymnist_recipe.Examples:
  """Examples [num, 28, 28, 3] of the result of `split_instances`."""
  images, labels = instances[split]
  if not len(labels):
    raise UserError(f'There are no MNIST digits for the {split} split.')
  return polymnist_recipe.make_examples(
    split, labels, lambda rng, rows: images[rows] > 128, photographs, num, seed
  )


def standin_dir(cache_dir: str) -> str:
  """Folder of the stand-in for MNIST; written where it is not there yet."""
  folder = files.local_path(cache_dir) / f'mnist-standin-{_STANDIN_VERSION}'
  if not folder.is_dir():
    with files.atomic_path(folder) as scratch:
      write_idx_standin(scratch)
  return str(folder)


def write_idx_standin(
  folder: str | os.PathLike, num_train: int = 600, num_test: int = 200, seed: int = 0
) -> None:
  """Writes the digits of scikit-learn, none twice, in the layout of MNIST.

  The same bytes on every call. Read it with `verify_checksums=False`.
  """
  images, labels = digits.load_instances()
  if num_train + num_test > len(images):
    raise UserError(
      f'The stand-in for MNIST has {len(images)} digits, not {num_train + num_test}.'
    )
  order = np.random.default_rng(seed).permutation(len(images))
  parts = order[:num_train], order[num_train : num_train + num_test]
  for part, names in zip(parts, (FILES[:2], FILES[2:]), strict=True):
    pixels = np.rint(digits.warp(images[part], SIZE) * (255 / 16)).astype(np.uint8)
    arrays = pixels, labels[part].astype(np.uint8)
    for name, magic, array in zip(names, (2051, 2049), arrays, strict=True):
      header = np.array([magic, *array.shape], '>u4').tobytes()
      data = gzip.compress(header + array.tobytes(), mtime=0)
      files.write_atomic(pathlib.Path(folder) / name, data)
