"""Pictures of what a trained model generates: samples/*.npz and *.png."""

import hashlib
import json
import os
import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from mmsbm.data.dataset import Split
from mmsbm.experiment import UNREADABLE, Experiment, describe_setup
from mmsbm.generate import Generator
from mmsbm.infra.errors import UserError
from mmsbm.infra.files import atomic_path
from mmsbm.infra.images import save_png
from mmsbm.infra.rng import fold_in_name


def nearest_training_examples(
  experiment: Experiment, name: str, queries: np.ndarray, chunk: int = 4096
) -> np.ndarray:
  """Training examples closest to `queries` [N, *shape] in squared pixel distance.

  Shown beside samples so that a reader sees whether they are copies.
  """
  part = experiment.dataset.splits['train']
  array = part.arrays[name]
  flat = queries.reshape(len(queries), -1).astype(np.float32)
  best = np.full(len(queries), np.inf, np.float32)
  index = np.zeros(len(queries), np.int64)
  usable = np.flatnonzero(part.present[:, experiment.names.index(name)])
  for start in range(0, len(usable), chunk):
    rows = usable[start : start + chunk]
    points = np.asarray(array[rows]).reshape(len(rows), -1).astype(np.float32)
    distance = (points**2).sum(1) - 2 * flat @ points.T
    closest = distance.argmin(1)
    value = distance[np.arange(len(flat)), closest]
    index = np.where(value < best, rows[closest], index)
    best = np.minimum(best, value)
  return np.asarray(array[index])


def choose_examples(part: Split, num: int) -> np.ndarray:
  """Rows of complete examples, one of each class in turn where labels exist."""
  complete = np.flatnonzero(np.asarray(part.present).all(axis=1))
  if part.labels is None:
    return complete[:num]
  labels = np.asarray(part.labels)[complete]
  seen = np.zeros(len(labels), int)
  for value in np.unique(labels):
    seen[labels == value] = np.arange((labels == value).sum())
  return complete[np.lexsort((labels, seen))][:num]


def pictured_subsets(num_modalities: int) -> list[int]:
  """Numbers of given modalities that get a picture: one, half, all but one."""
  return sorted({1, num_modalities // 2, num_modalities - 1} - {0})


def write_samples(
  experiment: Experiment, generator: Generator, steps: dict[str, int]
) -> list[pathlib.Path]:
  """Writes what the report shows; files that are up to date stay as they are."""
  config = experiment.config['sample']
  folder = pathlib.Path(experiment.workdir, 'samples')
  for key in ('num_examples', 'num_samples'):
    if config[key] < 1:
      raise UserError(f'config.sample.{key} is {config[key]}; it must be positive.')
  part = experiment.split('sample')
  rows = choose_examples(part, config['num_examples'])
  if not len(rows):
    raise UserError(f'no {config["split"]} example has all modalities.')
  names = experiment.names
  x = tuple(np.asarray(part.arrays[name][rows]) for name in names)
  label = np.full(len(rows), -1) if part.labels is None else part.labels[rows]
  key = fold_in_name(jax.random.key(config['seed']), 'pictures')
  codes = generator.encode(x)
  stamp = hashlib.sha1(
    json.dumps(
      [
        config,
        describe_setup(experiment.setups['default']),
        steps,
        experiment.dataset.content_hash,
        *experiment.decoding.values(),
      ],
      sort_keys=True,
    ).encode()
  ).hexdigest()

  def draw(observed: np.ndarray, title: str) -> tuple[np.ndarray, ...]:
    """[N, S, *shape] per modality."""
    count = config['num_samples']
    repeated = np.repeat(np.arange(len(rows)), count)
    own = fold_in_name(key, title)
    latents = generator.sample_latents(codes[repeated], observed[repeated], key=own)
    drawn = generator.decode(latents, key=fold_in_name(own, 'decode'))
    return tuple(a.reshape(len(rows), count, *a.shape[1:]) for a in drawn)

  written = []

  def write(name: str, kind: str, title: str, observed: np.ndarray) -> None:
    path = folder / f'{name}.npz'
    written.append(path)
    if path.exists() and path.with_suffix('.png').exists():
      try:
        with open(path, 'rb') as f, np.load(f) as stored:
          if str(stored['stamp']) == stamp:
            return
      except UNREADABLE:
        pass  # Damaged or from another checkpoint: drawn again.
    # Or a kill between the two files would leave an old picture of new samples.
    path.with_suffix('.png').unlink(missing_ok=True)
    if kind == 'reconstruction':
      x_hat = generator.reconstruct(codes, key=fold_in_name(key, title))
      generated = tuple(a[:, None] for a in x_hat)
    else:
      generated = draw(observed, title)
    arrays: dict[str, np.ndarray] = {
      'kind': np.array(kind),
      'title': np.array(title),
      'stamp': np.array(stamp),
      'modalities': np.array(names),
      'observed': observed,
      'label': np.asarray(label),
    }
    for i, modality in enumerate(experiment.modalities):
      arrays[f'draw/{modality.name}'] = np.array(modality.kind_name)
      arrays[f'generated/{modality.name}'] = generated[i]
      if kind != 'unconditional':
        arrays[f'given/{modality.name}'] = x[i]
      if kind != 'reconstruction':
        arrays[f'nearest/{modality.name}'] = nearest_training_examples(
          experiment, modality.name, generated[i][:, 0]
        )
    with atomic_path(path) as temporary, open(temporary, 'wb') as f:
      np.savez_compressed(f, **arrays)
    # Matplotlib is slow to import, and most uses of the program do without.
    from mmsbm.report import render_samples

    save_png(path.with_suffix('.png'), render_samples(path))

  num = len(names)
  nothing = np.zeros((len(rows), num), bool)
  write('unconditional', 'unconditional', 'Nothing given', nothing)
  for k in pictured_subsets(num):
    observed = np.broadcast_to(np.arange(num) < k, nothing.shape)
    title = f'Given {_listing(names[:k])}'
    write(f'given_first_{k}', 'conditional', title, observed)
  rng = np.random.default_rng(config['seed'])
  order = rng.random(nothing.shape).argsort(1).argsort(1)
  some = order < rng.integers(1, max(2, num), (len(rows), 1))
  write('given_any', 'conditional', 'Each row given a subset of its own', some)
  write('reconstruction', 'reconstruction', 'Reconstructions', ~nothing)
  return written


def _listing(names: Sequence[str]) -> str:
  if len(names) <= 3:
    return ' and '.join([', '.join(names[:-1]), names[-1]] if names[1:] else names)
  return f'{names[0]} to {names[-1]}'


def samples_exist(workdir: str | os.PathLike) -> bool:
  return any(pathlib.Path(workdir, 'samples').glob('*.npz'))
