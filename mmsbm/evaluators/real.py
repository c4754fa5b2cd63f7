"""Real examples in the place of generated ones: what a perfect model would have.

Numbers of a model that are better than these are not: a distance below that of real
examples is luck or a copy, and samples in which a classifier sees more classes right
than in real examples are more typical than the data.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from mmsbm.evaluators.aggregate import Rows
from mmsbm.evaluators.base import Evaluator, Measurement, Row, check_draws
from mmsbm.evaluators.evaluation import Evaluation
from mmsbm.evaluators.generated import metrics_of, tuple_rows
from mmsbm.metrics.base import Target

# Prefixes of the metrics of generated examples, and what they stand for.
REAL, TRAIN, HALF = 'real_', 'real_train_', 'real_half_'
ABOUT = {
  REAL: 'Real test examples in the place of samples. ',
  TRAIN: 'Real examples of the training split in the place of samples. ',
  HALF: 'One half of the test examples in the place of samples, the other half as the '
  'reference: with half the number of examples a distance is larger. ',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RealData(Evaluator):
  """Metrics of distributions, tuples and draws, of real examples.

  Attributes:
    num_draws: for each example, other ones of its class in the place of draws. Scores
      compare at the number that the evaluator `draws` has.
  """

  num_draws: int = 8

  def __post_init__(self):
    check_draws(self)

  def measurements(self, evaluation: Evaluation) -> list[Measurement]:
    """See `Evaluator.measurements`: no step of the model is used."""
    about = {}
    for prefix in ABOUT:
      kinds = ('tuples', 'draws') if prefix == REAL else ('distributions',)
      for name, metric in metrics_of(evaluation, *kinds).items():
        text = ABOUT[prefix] + metric.about
        about[prefix + name] = {'about': text, 'better': metric.better}
    return [
      Measurement(
        name='real_data',
        uses=evaluation.reading_steps,
        options={**evaluation.reading_options(), 'num_draws': self.num_draws},
        run=lambda: self._measure(evaluation),
        about=about,
      )
    ]

  def _measure(self, evaluation: Evaluation) -> list[Row]:
    rng = np.random.default_rng(evaluation.plan.seed)
    rows = _distributions(evaluation, HALF, lambda i: _halves(evaluation, i, rng))
    if evaluation.plan.split != 'train':
      training = _training_examples(evaluation, rng)
      rows = _distributions(evaluation, TRAIN, training) + rows
    return self._tuples(evaluation, rng) + rows

  def _tuples(self, evaluation: Evaluation, rng) -> list[Row]:
    """Rows of real tuples: whether they agree, alone and among those of a class."""
    complete = np.flatnonzero(evaluation.present.all(axis=1))
    if not len(complete):
      return []
    targets = {
      name: dataclasses.replace(t, read_generated=t.read_real)
      for name, t in evaluation.targets(evaluation.x, complete).items()
    }
    rows = tuple_rows(evaluation, targets, {})
    drawn = Rows(evaluation, {})
    draws, num = self._others_of_the_class(evaluation, targets, rng), self.num_draws
    for name, metric in metrics_of(evaluation, 'draws').items() if draws else ():
      drawn.add_values(name, metric(draws), complete, {'num_draws': num})
    return [row | {'metric': REAL + row['metric']} for row in rows + drawn.rows]

  def _others_of_the_class(self, evaluation, targets, rng) -> list[dict[str, Target]]:
    """Targets that show other test examples of the class; none without classes.

    An example without enough others of its class has an unknown one.
    """
    known = [r.annotation for r in evaluation.plan.readers]
    known = [name for name in known if name in evaluation.annotations]
    if not known:
      return []
    first = next(iter(targets.values()))
    label = first.annotations[known[0]]
    others = np.zeros((self.num_draws, len(label)), int)
    usable = label >= 0
    for row, c in enumerate(label):
      pool = np.setdiff1d(np.flatnonzero(label == c), [row])
      if usable[row] and len(pool) >= self.num_draws:
        others[:, row] = rng.permutation(pool)[: self.num_draws]
      else:
        usable[row] = False
    if not usable.any():
      return []

    def shown(target, rows):
      return dataclasses.replace(
        target,
        generated=target.generated[rows],
        read_generated={n: r.take(rows) for n, r in target.read_generated.items()},
        annotations={known[0]: np.where(usable, label, -1)},
      )

    return [{n: shown(t, rows) for n, t in targets.items()} for rows in others]


def _distributions(
  evaluation: Evaluation, prefix: str, make: Callable[[int], Target | None]
) -> list[Row]:
  """Rows of one target for each modality number, and of their mean."""
  rows = Rows(evaluation, {})
  for i, name in enumerate(evaluation.names):
    target = make(i)
    if target is not None:
      rows.compare({name: target}, np.arange(len(target)), {})
  rows.average({})
  return [row | {'metric': prefix + row['metric']} for row in rows.rows]


def _pair(evaluation, i: int, shown, read: Mapping, rows: np.ndarray) -> Target:
  """Examples `shown`, read as `read`, beside as many test examples `rows`."""
  modality = evaluation.problem.modalities[i]
  return Target(
    modality=modality,
    generated=shown,
    real=evaluation.x[i][rows],
    present=np.ones(len(rows), bool),
    annotations={},
    read_generated=read,
    read_real={n: r.take(rows) for n, r in evaluation.read_real[modality.name].items()},
  )


def _halves(evaluation: Evaluation, i: int, rng) -> Target | None:
  """One half of the test examples that have modality i, beside the other half."""
  have = rng.permutation(np.flatnonzero(evaluation.present[:, i]))
  first, second = have[: len(have) // 2], have[len(have) // 2 :][: len(have) // 2]
  if not len(first):
    return None
  read = evaluation.read_real[evaluation.names[i]]
  read = {name: r.take(second) for name, r in read.items()}
  return _pair(evaluation, i, evaluation.x[i][second], read, first)


def _training_examples(evaluation: Evaluation, rng) -> Callable[[int], Target | None]:
  """As many training as test examples of every modality, all read at once."""
  part, names = evaluation.problem.dataset.splits['train'], evaluation.names
  present, size, chosen = np.asarray(part.present), len(evaluation.rows), []
  order = rng.permutation(len(present))
  for i in range(len(names)):
    chosen.append(np.sort(order[present[order, i]][:size]))
  # Readers want equally many of every modality: repeated, and left out again.
  padded = [np.resize(rows, size) if len(rows) else None for rows in chosen]
  x = tuple(
    np.zeros_like(evaluation.x[i])
    if padded[i] is None
    else np.asarray(part.arrays[name][padded[i]])
    for i, name in enumerate(names)
  )
  read = evaluation.read(x)

  def make(i: int) -> Target | None:
    have = np.flatnonzero(evaluation.present[:, i])
    num = min(len(have), len(chosen[i]))
    if not num:
      return None
    keep = rng.permutation(len(chosen[i]))[:num]
    shown = {name: r.take(keep) for name, r in read[names[i]].items()}
    return _pair(evaluation, i, x[i][keep], shown, rng.permutation(have)[:num])

  return make
