"""What the report shows of a trained model: samples/*.npz, *.json and *.png."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mmsbm.evaluators.base import (
  EvaluationPlan,
  Evaluator,
  Measurement,
  check_least,
  take,
)
from mmsbm.evaluators.evaluation import Evaluation
from mmsbm.evaluators.tiles import lay_out
from mmsbm.infra import digests
from mmsbm.infra.errors import UserError
from mmsbm.infra.files import write_atomic
from mmsbm.infra.rng import fold_in_name, make_key


def nearest_training_examples(
  problem: Any, name: str, queries: np.ndarray, chunk: int = 4096
) -> np.ndarray:
  """Training examples closest to `queries` [N, *shape] in squared pixel distance.

  Shown beside samples so that a reader sees whether they are copies.
  """
  part = problem.dataset.splits['train']
  array = part.arrays[name]
  flat = queries.reshape(len(queries), -1).astype(np.float32)
  best = np.full(len(queries), np.inf, np.float32)
  index = np.zeros(len(queries), np.int64)
  column = [m.name for m in problem.modalities].index(name)
  usable = np.flatnonzero(part.present[:, column])
  for start in range(0, len(usable), chunk):
    rows = usable[start : start + chunk]
    points = np.asarray(array[rows]).reshape(len(rows), -1).astype(np.float32)
    distance = (points**2).sum(1) - 2 * flat @ points.T
    closest = distance.argmin(1)
    value = distance[np.arange(len(flat)), closest]
    index = np.where(value < best, rows[closest], index)
    best = np.minimum(best, value)
  return np.asarray(array[index])


def choose_examples(part: Any, annotation: str, num: int) -> np.ndarray:
  """Rows of complete examples, one of each class in turn where classes are known.

  Where no example is complete, of those that have any modality.
  """
  present = np.asarray(part.present)
  usable = np.flatnonzero(present.all(axis=1))
  if not len(usable):
    usable = np.flatnonzero(present.any(axis=1))
  if annotation not in part.annotations:
    return usable[:num]
  labels = np.asarray(part.annotations[annotation])[usable]
  seen = np.zeros(len(labels), int)
  for value in np.unique(labels):
    seen[labels == value] = np.arange((labels == value).sum())
  return usable[np.lexsort((labels, seen))][:num]


def pictured_subsets(num_modalities: int) -> list[int]:
  """Numbers of given modalities that get a picture: one, half, all but one."""
  counts = {1, num_modalities // 2, num_modalities - 1}
  return sorted(counts - {0, num_modalities})


def _listing(names: Sequence[str]) -> str:
  if len(names) > 3:
    return f'{names[0]} to {names[-1]}'
  return ' and '.join(filter(None, (', '.join(names[:-1]), names[-1])))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples(Evaluator):
  """Samples and reconstructions of N examples of M modalities, kept as files.

  A file has its kind ('unconditional', 'conditional' or 'reconstruction') and title,
  `observed` and `present` [N, M] (which were given, which the examples have), their
  `label` [N], -1 where unknown, and for each modality 'draw/NAME' (its kind),
  'generated/NAME' [N, S, *shape], but of samples from nothing 'given/NAME' (the
  examples), and but of reconstructions 'nearest/NAME' (training examples nearest to
  the first samples), both [N, *shape].

  Attributes:
    split: where the examples are from.
    num_examples: their number.
    num_samples: samples for each.
    seed: of the draws.
    annotation: classes of which the examples are taken in turn, if the data have them.
  """

  split: str = 'test'
  num_examples: int = 10
  num_samples: int = 3
  seed: int = 0
  annotation: str = 'class'

  def __post_init__(self):
    check_least(self, 1, 'num_examples', 'num_samples')

  def check(self, plan: EvaluationPlan, model: Any) -> None:
    """See `Evaluator.check`."""
    splits = plan.problem.dataset.splits
    if self.split not in splits:
      raise UserError(f'split={self.split!r} is not one of {sorted(splits)}.')
    labels = splits[self.split].annotations.get(self.annotation)
    if labels is not None and np.ndim(labels) != 1:
      raise UserError(f'annotation={self.annotation!r} has no classes.')
    if not np.asarray(splits[self.split].present).any():
      raise UserError(f'no {self.split} example has any modality.')

  def measurements(self, evaluation: Evaluation) -> list[Measurement]:
    """See `Evaluator.measurements`: one for each file, which it makes if need be."""
    model, sampling = evaluation.model, evaluation.main_sampling
    options = dataclasses.asdict(self) | evaluation.sampling_options(sampling)
    artist, out = _Artist(self, evaluation), []
    for name, kind, title, observed in self._files(evaluation.names, len(artist.rows)):
      is_drawn = kind != 'reconstruction'
      if is_drawn or hasattr(model, 'reconstruct'):
        uses = model.uses(sampling if is_drawn else None)
        stamp = f'{name} {evaluation.fingerprint(uses, options)}'
        draw = functools.partial(artist.draw, name, kind, title, observed)
        run = functools.partial(draw, uses, stamp)
        out.append(
          Measurement(name=name, uses=uses, options=options, run=run, is_kept=False)
        )
    return out

  def _files(self, names: Sequence[str], size: int) -> Iterator[tuple]:
    """Name, kind, title and observed set [N, M] of each file.

    The titles choose the noise of the samples.
    """
    num = len(names)
    empty = np.zeros((size, num), bool)
    yield 'unconditional', 'unconditional', 'Nothing given', empty
    for count in pictured_subsets(num):
      observed = np.broadcast_to(np.arange(num) < count, empty.shape)
      title = f'Given {_listing(names[:count])}'
      yield f'given_first_{count}', 'conditional', title, observed
    if num > 1:
      rng = np.random.default_rng(self.seed)
      order = rng.random(empty.shape).argsort(1).argsort(1)
      observed = order < rng.integers(1, num, (size, 1))
      title = 'Each row given a subset of its own'
      yield 'given_any', 'conditional', title, observed
    yield 'reconstruction', 'reconstruction', 'Reconstructions', ~empty


class _Artist:
  """Chooses examples, draws for them, and writes files."""

  def __init__(self, options: Samples, evaluation: Evaluation):
    self._options, self._evaluation = options, evaluation
    self._part = evaluation.problem.dataset.splits[options.split]
    self.rows = choose_examples(self._part, options.annotation, options.num_examples)

  @functools.cached_property
  def _x(self) -> tuple[np.ndarray, ...]:
    names = self._evaluation.names
    return tuple(np.asarray(self._part.arrays[name][self.rows]) for name in names)

  @functools.cached_property
  def _encoded(self) -> Any:
    return self._evaluation.inference.encode(self._x)

  def draw(
    self, name: str, kind: str, title: str, observed, uses: frozenset, stamp: str
  ) -> list:
    """Draws and writes the files `name`, unless they are there; has no rows."""
    path = pathlib.Path(self._evaluation.workdir, 'samples', f'{name}.npz')
    png, tiles = path.with_suffix('.png'), path.with_suffix('.json')
    pairs = zip(self._evaluation.problem.modalities, self._x, strict=True)
    has_pictures = all(m.kind.picture(x[0]) is not None for m, x in pairs)
    if _is_whole(path, stamp, has_pictures):
      return []
    # Or a kill between the files would leave old pictures of new samples.
    for old in (png, tiles):
      old.unlink(missing_ok=True)
    arrays = self._arrays(kind, title, observed)
    digests.write_npz(path, {'stamp': np.array(stamp), **arrays}, stamp, compress=True)
    sheet = lay_out(arrays, self._evaluation.problem.modalities)
    if has_pictures:
      # Matplotlib is slow to import, and most uses of the program do without.
      from mmsbm.report.grid import save_grid

      save_grid(png, **sheet.grid())
    picture = digests.sha256(png) if has_pictures else None
    of = {'stamp': stamp, 'steps': self._evaluation.identity_of(uses), 'png': picture}
    write_atomic(tiles, digests.to_json(sheet.to_json() | of, name))
    return []

  def _arrays(self, kind: str, title: str, observed: np.ndarray) -> dict[str, Any]:
    """What the file holds, see `Samples`."""
    options, evaluation, size = self._options, self._evaluation, len(self.rows)
    inference, problem = evaluation.inference, evaluation.problem
    key = fold_in_name(make_key(options.seed), 'pictures')
    key = fold_in_name(key, title)
    present = np.asarray(self._part.present[self.rows])
    observed = observed & present
    if kind == 'reconstruction':
      x, num_samples = inference.reconstruct(self._encoded, key=key), 1
    else:
      num_samples = options.num_samples
      repeated = np.repeat(np.arange(size), num_samples)
      x = inference.sample(
        take(self._encoded, repeated),
        observed[repeated],
        key=key,
        sampling=evaluation.main_sampling,
      )
    label = self._part.annotations.get(options.annotation)
    out = {
      'kind': np.array(kind),
      'title': np.array(title),
      'modalities': np.array(evaluation.names),
      'observed': observed,
      'present': present,
      'label': np.full(size, -1) if label is None else np.asarray(label[self.rows]),
    }
    for m, real, array in zip(problem.modalities, self._x, x, strict=True):
      generated = array.reshape(size, num_samples, *array.shape[1:])
      out[f'draw/{m.name}'] = np.array(m.kind_name)
      out[f'generated/{m.name}'] = generated
      if kind != 'unconditional':
        out[f'given/{m.name}'] = real
      if kind != 'reconstruction':
        nearest = nearest_training_examples(problem, m.name, generated[:, 0])
        out[f'nearest/{m.name}'] = nearest
    return out


def _is_whole(path: pathlib.Path, stamp: str, has_pictures: bool) -> bool:
  """Whether a file of samples and those beside it are as they were written."""
  png = path.with_suffix('.png')
  try:
    digests.read_npz(path, stamp)
    sheet = digests.read_json(path.with_suffix('.json'), path.stem)
    picture = digests.sha256(png) if has_pictures else None
  except (FileNotFoundError, digests.Damaged):
    return False
  return (sheet['stamp'], sheet['png']) == (stamp, picture)
