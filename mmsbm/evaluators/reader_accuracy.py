"""How well readers read real examples, without which no coherence means much."""

import dataclasses

import numpy as np

from mmsbm.evaluators.aggregate import mean_of, mean_of_one, values_of
from mmsbm.evaluators.base import Evaluator, Measurement, Row
from mmsbm.evaluators.evaluation import Evaluation
from mmsbm.metrics import Coherence

_ABOUT = (
  'The share of real examples in which a classifier sees the true class. Where a '
  'generated modality does better it is more typical than real ones.'
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReaderAccuracy(Evaluator):
  """The accuracy of all readers that predict classes of which the data know some."""

  def measurements(self, evaluation: Evaluation) -> list[Measurement]:
    """See `Evaluator.measurements`."""
    plan = evaluation.plan
    if not any(reader.annotation in plan.part.annotations for reader in plan.readers):
      return []
    return [
      Measurement(
        name='readers',
        uses=evaluation.reading_steps,
        options={'readers': evaluation.reading_options()['readers']},
        run=lambda: self._measure(evaluation),
        about={'classifier_accuracy': {'about': _ABOUT, 'better': 'high'}},
      )
    ]

  def _measure(self, evaluation: Evaluation) -> list[Row]:
    """Rows of the first reader of every modality, then of the second, and so on."""
    rounds, size = [], len(evaluation.rows)
    for name, target in evaluation.targets(evaluation.x).items():
      target = dataclasses.replace(target, read_generated=target.read_real)
      number = 0
      for reader in target.read_real:
        metric = Coherence(reader=reader)
        hits = values_of(reader, metric, target, np.arange(size), size)
        if hits is not None and not np.isnan(hits).all():
          if number == len(rounds):
            rounds.append([])
          rounds[number].append((name, reader, hits))
          number += 1
    rows = []

    def add(mean, number, target, names, **fields):
      # The report tells further readers of a modality apart by `features`.
      more = {'features': names} if number else {}
      fields = {'target': target, **fields, **more, 'n': mean[2]}
      rows.append(evaluation.row('classifier_accuracy', *mean[:2], **fields))

    for number, entries in enumerate(rounds):
      for name, reader, hits in entries:
        add(mean_of_one(hits), number, name, reader, reader=reader)
      names = sorted({reader for _, reader, _ in entries})
      stacked = np.stack([hits for _, _, hits in entries])
      add(mean_of(stacked), number, 'mean', ', '.join(names))
    return rows
