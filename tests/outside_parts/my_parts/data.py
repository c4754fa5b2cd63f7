"""A data set: headings and places of a boat that goes round a lake."""

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from mmsbm.data.dataset import MultimodalDataset, Split
from mmsbm.modalities import Modality


def build(
  modalities: Sequence[Modality], *, num_train: int = 64, noise: float = 0.1
) -> MultimodalDataset:
  """Makes the data set.

  Args:
    modalities: of the config; here 'heading' and 'place'.
    num_train: number of training examples.
    noise: of the place.
  """
  names = tuple(modality.name for modality in modalities)
  sizes = {'train': num_train, 'val': 16, 'test': 32}
  splits = {
    split: _split(names, num, noise, seed)
    for seed, (split, num) in enumerate(sizes.items())
  }
  key = json.dumps([names, num_train, noise])
  return MultimodalDataset(
    modalities=names,
    splits=splits,
    num_classes={'class': 4},
    content_hash=hashlib.sha1(key.encode()).hexdigest(),
    source=f'a boat on a lake: {num_train} training examples',
  )


def _split(names: tuple[str, ...], num: int, noise: float, seed: int) -> Split:
  rng = np.random.default_rng(seed)
  heading = rng.uniform(-180, 180, num).astype(np.float32)
  radians = np.deg2rad(heading)
  place = np.stack([-np.sin(radians), np.cos(radians)], axis=1)
  place = (place + noise * rng.normal(size=place.shape)).astype(np.float32)
  arrays = {'heading': heading, 'place': place}
  return Split(
    arrays={name: arrays[name] for name in names},
    present=np.ones((num, len(names)), bool),
    annotations={'class': (np.floor(heading / 90) + 2).clip(0, 3).astype(np.int32)},
  )
