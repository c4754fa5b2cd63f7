"""Dataset 'digits': the PolyMNIST recipe on digits that need no download.

scikit-learn carries 1,797 handwritten digits of 8x8 pixels, and scikit-learn
and scikit-image carry photographs: a small PolyMNIST made of the project's own
dependencies.
"""

import pathlib
from collections.abc import Sequence

import numpy as np

from mmsbm.data import backgrounds, polymnist_recipe, store
from mmsbm.data.dataset import MultimodalDataset, check_count, check_counts
from mmsbm.infra.errors import UserError
from mmsbm.modalities.base import Modality

NUM_INSTANCES = {'train': 1047, 'val': 300, 'test': 450}
_VERSION = 2

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
  """Draws small deformations [num, 2, 3] float32, as `warp` takes them.

  Strength 1 is rotation within +-0.17 rad, scale within +-10 %, shear within +-0.1 and
  shift within +-0.6 input pixels; 0 is no deformation.
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
  """Resamples images [N, s, s] to [N, size, size] float32, bilinearly, zero outside.

  Pixel centres are aligned: output pixel i lies at input position
  (i + 0.5) * s / size - 0.5. Then the input position (y, x) relative to the centre is
  affine @ (y, x, 1) of the output's, for `affine` [N, 2, 3].
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
  out = list(photographs[:count])
  for i in range(len(photographs), count):
    photograph, colour = out[i % len(photographs)], VARIANTS[i // len(photographs)]
    # On 8 bits, flipping every bit is 255 - v.
    pixels = photograph.pixels ^ np.array(colour, np.uint8)
    fingerprint = f'{photograph.fingerprint} ^ {colour}'
    out.append(backgrounds.Background(pixels, fingerprint, photograph.credit))
  return tuple(out)


def build(
  modalities: Sequence[Modality],
  cache_dir: str,
  *,
  num_train: int = 10_000,
  num_val: int = NUM_INSTANCES['val'],
  num_test: int = NUM_INSTANCES['test'],
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
    num_train: examples, made of 1,047 instances of a digit.
    num_val, num_test: examples, at most 300 and 450, made of as many further
      instances. A modality shows an instance once at most: examples are independent,
      and none has a near-duplicate among the neighbours that precision and recall
      look for.
    image_size: height and width, 16 to 28.
    photos: names from `backgrounds.BUNDLED`.
    threshold: grey level, of 0..16, above which a pixel belongs to the digit.
    augment: strength of the random deformation of every digit (see `random_affine`);
      0 for none. It is the same for all splits: what a model learns is what it is
      measured against.
    seed: of the split of the instances and of everything drawn.
    memory_limit_gb: see `store.prepare`.
  """
  names = tuple(modality.name for modality in modalities)
  seed = check_count('seed', seed, minimum=0)
  counts = check_counts(num_train, num_val, num_test)
  for split in ('val', 'test'):
    if counts[split] > NUM_INSTANCES[split]:
      raise UserError(
        f'data.num_{split} is {counts[split]}; there are {NUM_INSTANCES[split]} digits '
        f'for this split, and each is shown once: at most {NUM_INSTANCES[split]}.'
      )
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
    tuple(photos), min(len(names), len(backgrounds.BUNDLED))
  )
  photographs = vary_backgrounds(loaded, len(names))

  def write(writer: store.Writer) -> str:
    digits, digit_labels = load_instances()
    rows_of_split = split_instances(seed)

    def make_split(split: str, num: int) -> polymnist_recipe.Examples:
      rows = rows_of_split[split]
      instances = digits[rows]

      def draw_masks(rng, indices):
        affine = random_affine(rng, len(indices), augment)
        return warp(instances[indices], image_size, affine) > threshold

      return polymnist_recipe.make_examples(
        split, digit_labels[rows], draw_masks, photographs, num, seed
      )

    origin = 'of the 1,797 digits of scikit-learn (UCI, CC BY 4.0) on '
    origin += ', '.join(photograph.credit for photograph in loaded)
    return polymnist_recipe.write_examples(
      writer, 'digits', names, counts, make_split, origin
    )

  key = {
    'recipe': [polymnist_recipe.VERSION, _VERSION],
    'counts': counts,
    'image_size': int(image_size),
    'threshold': float(threshold),
    'augment': float(augment),
    'seed': seed,
    'digits': store.fingerprint(instances_path()),
    'photos': [p.fingerprint for p in photographs],
  }
  return store.prepare(
    'digits', names, cache_dir, key, write, memory_limit_gb=memory_limit_gb
  )
