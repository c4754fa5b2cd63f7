"""The recipe of PolyMNIST: digits in inverse colour on photographs.

The recipe of Sutter et al., "Generalized Multimodal ELBO" (ICLR 2021), appendix
on PolyMNIST. Modality m of an example shows a digit on a random crop of
photograph m; the images of one example share the class of the digit and nothing
else. It serves every source of digits: `digits.py` and `polymnist.py` differ in
where their masks come from.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from mmsbm.data.backgrounds import Background
from mmsbm.data.dataset import CLASS, SPLITS
from mmsbm.data.store import Writer

VERSION = 1
# Keeps the temporary arrays of a block within a processor's cache.
_BLOCK = 512

# (rng, instance indices [n]) -> [n, S, S] bool, True where the digit is.
DrawMasks = Callable[[np.random.Generator, np.ndarray], np.ndarray]
# Labels [num] int32, and images [num, S, S, 3] uint8, one modality after the other.
Examples = tuple[np.ndarray, Iterable[np.ndarray]]


def draw_labels(
  rng: np.random.Generator, instance_labels: np.ndarray, num: int
) -> np.ndarray:
  """Draws the classes [num] of the examples, as frequent as among the instances.

  Every round of `len(instance_labels)` examples has exactly the class counts of
  the instances, so that pairing can use each instance once per round.
  """
  rounds = -(-num // len(instance_labels))
  return np.concatenate([rng.permutation(instance_labels) for _ in range(rounds)])[:num]


def pair_instances(
  rng: np.random.Generator, instance_labels: np.ndarray, labels: np.ndarray
) -> np.ndarray:
  """Draws an instance of the right class for each example of one modality.

  The examples of a class, `labels` [N], meet an independent random permutation of the
  class's instances, `instance_labels` [I]; where these run out, a fresh permutation of
  them follows. `rng` is of this modality alone. Returns indices of instances [N].
  """
  indices = np.empty(len(labels), np.int64)
  for label in np.unique(labels):
    examples = np.flatnonzero(labels == label)
    pool = np.flatnonzero(instance_labels == label)
    rounds = -(-len(examples) // len(pool))
    shuffled = np.concatenate([rng.permutation(pool) for _ in range(rounds)])
    indices[examples] = shuffled[: len(examples)]
  return indices


def composite(
  rng: np.random.Generator, masks: np.ndarray, background: np.ndarray
) -> np.ndarray:
  """Puts digits in inverse colour on random crops, at the photograph's resolution.

  Corners are uniform on all positions where the crop fits, 0..W-S and 0..H-S;
  the published generator leaves the last of each out (0..W-S-1).

  Returns:
    [N, S, S, 3] uint8: the crop's value v off the digit, where the masks [N, S, S] are
    False, and 255 - v on it. The background is [H, W, 3] uint8.
  """
  num, size = masks.shape[:2]
  height, width = background.shape[:2]
  top = rng.integers(0, height - size + 1, num)
  left = rng.integers(0, width - size + 1, num)
  windows = np.lib.stride_tricks.sliding_window_view(background, (size, size), (0, 1))
  images = np.moveaxis(windows[top, left], 1, -1)  # copies [N, 3, S, S]
  # On 8 bits, flipping every bit is 255 - v.
  return images ^ (masks.astype(np.uint8) * 255)[..., None]


def make_rng(seed: int, split: str, modality: int | None = None) -> np.random.Generator:
  """A generator per split and modality (None: the labels).

  Streams of their own, so that a modality's images do not change when others
  are added, nor a split's when another one grows. The name 'instances' in place
  of a split gives the stream that shares the instances out to the splits.
  """
  # From 1: numpy pads seeds with zeros, [s] and [s, 0] are the same stream.
  which = 1 + ('instances', *SPLITS).index(split)
  return np.random.default_rng([seed, which, 1 if modality is None else 2 + modality])


def make_examples(
  split: str,
  instance_labels: np.ndarray,
  draw_masks: DrawMasks,
  backgrounds: Sequence[Background],
  num: int,
  seed: int,
) -> Examples:
  """Makes the examples of one split.

  Args:
    split: 'train', 'val' or 'test'.
    instance_labels: [I] classes of the instances of this split.
    draw_masks: draws the digits of given instances.
    backgrounds: one photograph per modality.
    num: number of examples; may exceed the number of instances.
    seed: of the whole dataset.
  """
  labels = draw_labels(make_rng(seed, split), instance_labels, num).astype(np.int32)

  def make_modality(m: int) -> np.ndarray:
    rng = make_rng(seed, split, m)
    indices = pair_instances(rng, instance_labels, labels)
    blocks = (indices[i : i + _BLOCK] for i in range(0, num, _BLOCK))
    pixels = backgrounds[m].pixels
    return np.concatenate(
      [composite(rng, draw_masks(rng, rows), pixels) for rows in blocks]
    )

  return labels, map(make_modality, range(len(backgrounds)))


def write_examples(
  writer: Writer,
  dataset: str,
  modalities: Sequence[str],
  counts: Mapping[str, int],
  make_split: Callable[[str, int], Examples],
  origin: str,
) -> str:
  """Writes counts[split] examples of each split, and describes them.

  Args:
    writer: see `store.prepare`.
    dataset: its name.
    modalities: their names.
    counts: numbers of examples.
    make_split: makes so many examples of a split.
    origin: where digits and photographs are from.
  """
  for split, num in counts.items():
    labels, images = make_split(split, num)
    writer.annotate(split, CLASS, labels)
    for name, pixels in zip(modalities, images, strict=True):
      writer.write(split, name, pixels)
  size, numbers = pixels.shape[1], '/'.join(f'{n:,}' for n in counts.values())
  return (
    f'{dataset}: {len(modalities)} modalities of {size}x{size} pixels, {numbers} '
    f'train/val/test examples {origin}'
  )
