"""The recipe of PolyMNIST: digits in inverse colour on photographs.

The recipe of Sutter et al., "Generalized Multimodal ELBO" (ICLR 2021), appendix
on PolyMNIST. Modality m of an example shows a digit on a random crop of
photograph m; the images of one example share the class of the digit and nothing
else. It serves every source of digits: `digits.py` and `polymnist.py` differ in
where their masks come from.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mmsbm.data.backgrounds import Background
from mmsbm.data.dataset import SPLITS

VERSION = 1
# Keeps the temporary arrays of a block within a processor's cache.
_BLOCK = 512

# (rng, instance indices [n]) -> [n, S, S] bool, True where the digit is.
DrawMasks = Callable[[np.random.Generator, np.ndarray], np.ndarray]


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

  The examples of a class meet an independent random permutation of the class's
  instances; where the instances run out, a fresh permutation of them follows.

  Args:
    rng: a generator of this modality alone.
    instance_labels: [I] classes of the instances.
    labels: [N] classes of the examples.

  Returns:
    [N] indices of instances.
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

  Args:
    rng: draws the corners.
    masks: [N, S, S] bool.
    background: [H, W, 3] uint8.

  Returns:
    [N, S, S, 3] uint8: the crop's value v off the digit, 255 - v on it.
  """
  num, size = masks.shape[:2]
  height, width = background.shape[:2]
  top = rng.integers(0, height - size + 1, num)
  left = rng.integers(0, width - size + 1, num)
  windows = np.lib.stride_tricks.sliding_window_view(background, (size, size), (0, 1))
  images = np.moveaxis(windows[top, left], 1, -1)  # copies [N, 3, S, S]
  # On 8 bits, flipping every bit is 255 - v.
  return images ^ (masks.astype(np.uint8) * 255)[..., None]


def make_modality(
  rng: np.random.Generator,
  instance_labels: np.ndarray,
  labels: np.ndarray,
  draw_masks: DrawMasks,
  background: np.ndarray,
) -> np.ndarray:
  """Images [N, S, S, 3] uint8 of one modality for examples of classes `labels`."""
  indices = pair_instances(rng, instance_labels, labels)
  return np.concatenate(
    [
      composite(rng, draw_masks(rng, indices[i : i + _BLOCK]), background)
      for i in range(0, len(indices), _BLOCK)
    ]
  )


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
) -> tuple[np.ndarray, Iterator[np.ndarray]]:
  """Makes the examples of one split.

  Args:
    split: 'train', 'val' or 'test'.
    instance_labels: [I] classes of the instances of this split.
    draw_masks: draws the digits of given instances.
    backgrounds: one photograph per modality.
    num: number of examples; may exceed the number of instances.
    seed: of the whole dataset.

  Returns:
    Labels [num] int32, and an iterator over the modalities' images
    [num, S, S, 3] uint8 that makes one modality at a time.
  """
  labels = draw_labels(make_rng(seed, split), instance_labels, num).astype(np.int32)
  images = (
    make_modality(
      make_rng(seed, split, m), instance_labels, labels, draw_masks, b.pixels
    )
    for m, b in enumerate(backgrounds)
  )
  return labels, images
