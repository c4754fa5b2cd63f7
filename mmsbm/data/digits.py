"""Dataset 'digits': the PolyMNIST recipe on digits that need no download.

scikit-learn carries 1,797 handwritten digits of 8x8 pixels, and scikit-learn
and scikit-image carry photographs: a small PolyMNIST made of the project's own
dependencies.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from mmsbm.data import backgrounds, polymnist_recipe, store
from mmsbm.data.dataset import CLASS, MultimodalDataset, check_count
from mmsbm.infra.errors import UserError
from mmsbm.modalities.base import Modality

NUM_INSTANCES = {'train': 1197, 'val': 150, 'test': 450}
_VERSION = 1

# Colours by which a photograph is inverted: once all photographs are used, modalities
# show them again in the next variant. A channel keeps its variance and the contrast of
# the digit to it, so no variant is harder than its photograph, and grey photographs
# differ in colour as well. The first one changes nothing.
VARIANTS = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255))
MAX_MODALITIES = len(VARIANTS) * len(backgrounds.BUNDLED)


def instances_path() -> pathlib.Path:
  """The file inside scikit-learn: importing that package takes seconds."""
  return backgrounds.find_in_package('sklearn', 'datasets/data/digits.csv.gz')


def load_instances() -> tuple[np.ndarray, np.ndarray]:
  """The 1,797 digits, float32 [I, 8, 8] in 0..16, and their classes [I] int32."""
  rows = np.loadtxt(instances_path(), np.float32, delimiter=',')
  return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int32)


def split_instances(seed: int) -> dict[str, np.ndarray]:
  """Indices of each split's instances: disjoint, and fixed before any pairing."""
  rng = polymnist_recipe.make_rng(seed, 'instances')
  order = rng.permutation(sum(NUM_INSTANCES.values()))
  bounds = np.cumsum(list(NUM_INSTANCES.values()))[:-1]
  return dict(zip(NUM_INSTANCES, np.split(order, bounds), strict=True))


def random_affine(rng: np.random.Generator, num: int, strength: float) -> np.ndarray:
  """Draws small deformations, as `warp` takes them.

  Args:
    rng: source of randomness.
    num: how many.
    strength: 1 is rotation within +-0.17 rad, scale within +-10 %, shear within
      +-0.1, shift within +-0.6 input pixels; 0 is no deformation.

  Returns:
    [num, 2, 3] float32.
  """
  limits = strength * np.array([0.17, 0.1, 0.1, 0.6, 0.6])
  angle, scale, shear, *shift = rng.uniform(-limits, limits, (num, 5)).T
  cos, sin, scale = np.cos(angle), np.sin(angle), 1 + scale
  matrix = [
    [scale * cos, -scale * sin, shift[0]],
    [scale * sin + shear, scale * cos, shift[1]],
  ]
  return np.moveaxis(np.array(matrix, np.float32), -1, 0)


def warp(images: np.ndarray, size: int, affine: np.ndarray | None = None) -> np.ndarray:
  """Resamples images bilinearly, pixel centres aligned, zero outside.

  Output pixel i lies at input position (i + 0.5) * s / size - 0.5 before the
  deformation about the centre.

  Args:
    images: [N, s, s] float32.
    size: height and width of the result.
    affine: [N, 2, 3], the input position (y, x) relative to the centre is
      affine @ (y, x, 1) of the output's; None for none.

  Returns:
    [N, size, size] float32.
  """
  num, side = images.shape[:2]
  centre = (side - 1) / 2
  grid = (np.arange(size, dtype=np.float32) + 0.5) * side / size - 0.5 - centre
  y, x = np.broadcast_arrays(grid[:, None], grid[None, :])
  if affine is not None:
    a = affine[:, :, :, None, None]
    y, x = (a[:, k, 0] * y + a[:, k, 1] * x + a[:, k, 2] for k in (0, 1))
  else:
    y, x = y[None], x[None]
  # A frame of zeros: everything beyond it is zero, and interpolates towards it.
  padded = np.pad(images, ((0, 0), (1, 2), (1, 2))).reshape(num, -1)
  y, x = (np.clip(c + (centre + 1), 0, side + 1) for c in (y, x))
  top, left = y.astype(np.int32), x.astype(np.int32)
  y, x = y - top, x - left
  stride = side + 3
  index = top * stride + left + np.arange(num)[:, None, None] * padded.shape[1]
  p = padded.ravel()
  return (1 - y) * ((1 - x) * p[index] + x * p[index + 1]) + y * (
    (1 - x) * p[index + stride] + x * p[index + stride + 1]
  )


def vary_backgrounds(
  photographs: Sequence[backgrounds.Background], count: int
) -> tuple[backgrounds.Background, ...]:
  """The photographs over and over again, each time in the next of `VARIANTS`."""
  out = []
  for i in range(count):
    photograph = photographs[i % len(photographs)]
    variant = i // len(photographs)
    if variant:
      colour = np.array(VARIANTS[variant], np.uint8)
      photograph = dataclasses.replace(
        photograph,
        # On 8 bits, flipping every bit is 255 - v.
        pixels=photograph.pixels ^ colour,
        fingerprint=f'{photograph.fingerprint} ^ {VARIANTS[variant]}',
      )
    out.append(photograph)
  return tuple(out)


def build(
  modalities: Sequence[Modality],
  cache_dir: str,
  *,
  num_train: int = 10_000,
  num_val: int = 1_000,
  num_test: int = 1_000,
  image_size: int = 16,
  photos: Sequence[str] = tuple(backgrounds.BUNDLED),
  threshold: float = 7.5,
  augment: float = 1.0,
  seed: int = 0,
  memory_limit_gb: float = 8.0,
) -> MultimodalDataset:
  """Builds the dataset, or opens it where it was built before.

  Args:
    modalities: 2 to 50 of them; modality i is drawn on photograph i % 10 in variant
      i // 10 of its colours.
    cache_dir: folder of prepared datasets.
    num_train: examples, made of 1,197 instances of a digit.
    num_val: examples, made of 150 further instances.
    num_test: examples, made of the remaining 450 instances.
    image_size: height and width, 16 to 28.
    photos: names from `backgrounds.BUNDLED`.
    threshold: grey level, of 0..16, above which a pixel belongs to the digit.
    augment: strength of the random deformation of every digit of the train
      split (see `random_affine`); 0 for none. Never applied to the other splits.
    seed: of the split of the instances and of everything drawn.
    memory_limit_gb: see `store.prepare`.
  """
  names = tuple(modality.name for modality in modalities)
  photos = tuple(photos)
  seed = check_count('seed', seed, minimum=0)
  counts = {
    'train': check_count('num_train', num_train),
    'val': check_count('num_val', num_val),
    'test': check_count('num_test', num_test),
  }
  if not 2 <= len(names) <= MAX_MODALITIES:
    raise UserError(
      f"The dataset 'digits' has 2 to {MAX_MODALITIES} modalities, not {len(names)}."
    )
  if not 16 <= check_count('image_size', image_size) <= 28:
    raise UserError(f'data.image_size is {image_size}; it must be 16 to 28.')
  if not augment >= 0 or not 0 <= threshold < 16:
    raise UserError(
      f'data.augment is {augment} and data.threshold is {threshold}; they must be '
      'at least 0, and the threshold below 16.'
    )
  loaded = backgrounds.load_backgrounds(
    photos, min(len(names), len(backgrounds.BUNDLED))
  )
  photographs = vary_backgrounds(loaded, len(names))

  def write(writer: store.Writer) -> str:
    digits, digit_labels = load_instances()
    for split, rows in split_instances(seed).items():
      instances, instance_labels = digits[rows], digit_labels[rows]
      plain = warp(instances, image_size) > threshold

      def draw_masks(rng, indices, split=split, instances=instances, plain=plain):
        if split != 'train' or not augment:
          return plain[indices]
        affine = random_affine(rng, len(indices), augment)
        return warp(instances[indices], image_size, affine) > threshold

      labels, images = polymnist_recipe.make_examples(
        split, instance_labels, draw_masks, photographs, counts[split], seed
      )
      writer.annotate(split, CLASS, labels)
      for name, pixels in zip(names, images, strict=True):
        writer.write(split, name, pixels)
    return (
      f'digits: {len(names)} modalities of {image_size}x{image_size} pixels, '
      + '/'.join(f'{n:,}' for n in counts.values())
      + ' train/val/test examples of the 1,797 digits of scikit-learn (UCI, CC BY 4.0)'
      + ' on '
      + ', '.join(p.credit for p in loaded)
    )

  return store.prepare(
    'digits',
    names,
    cache_dir,
    {
      'recipe': [polymnist_recipe.VERSION, _VERSION],
      'counts': counts,
      'image_size': int(image_size),
      'threshold': float(threshold),
      'augment': float(augment),
      'seed': seed,
      'digits': store.fingerprint(instances_path()),
      'photos': [p.fingerprint for p in photographs],
    },
    write,
    memory_limit_gb=memory_limit_gb,
  )
