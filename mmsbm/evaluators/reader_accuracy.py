"""How well readers read real examples, without which no coherence means much."""

import dataclasses
from typing import Any

import numpy as np

from mmsbm.evaluators.base import EvaluationPlan, Measurement, Row
from mmsbm.evaluators.evaluation import Evaluation
from mmsbm.metrics.averages import clustered_mean, share
from mmsbm.metrics.coherence import known_hits

_ABOUT = {
  'classifier_accuracy': {
    'about': (
      'The share of real examples in which a classifier sees the true class. Where a '
      'generated modality does better it is more typical than real ones.'
    ),
    'better': 'high',
  }
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReaderAccuracy:
  """The accuracy of all readers that predict classes of which the data know some."""

  def check(self, plan: EvaluationPlan, model: Any) -> None:
    """See `Evaluator.check`; whatever there is can be measured."""

  def measurements(self, evaluation: Evaluation) -> list[Measurement]:
    """See `Evaluator.measurements`."""
    if not evaluation.plan.has_reader():
      return []
    options = evaluation.reading_options()
    return [
      Measurement(
        name='readers',
        uses=evaluation.reading_steps,
        options={'readers': options['readers']},
        run=lambda: self._measure(evaluation),
        about=_ABOUT,
      )
    ]

  def _measure(self, evaluation: Evaluation) -> list[Row]:
    """Rows of the first reader of every modality, then of the second, and so on."""
    rows, hits = [], self._hits(evaluation)
    for number in range(max(map(len, hits.values()))):
      here = {
        name: found[number] for name, found in hits.items() if len(found) > number
      }
      # The report tells further readers of a modality apart by this field.
      for name, (reader, hit) in here.items():
        more = {'features': reader} if number else {}
        if hit.dtype == bool and len(hit) == len(evaluation.rows):
          value, stderr, num = *share(hit), len(hit)
        else:
          num = int((~np.isnan(hit)).sum())
          value, stderr = clustered_mean(hit, ~np.isnan(hit))
        fields = {'target': name, 'reader': reader, **more}
        rows.append(
          evaluation.row('classifier_accuracy', value, stderr, **fields, n=num)
        )
      stacked = np.stack([hit for _, hit in here.values()])
      counted = ~np.isnan(stacked)
      value, stderr = clustered_mean(stacked, counted)
      names = sorted({reader for reader, _ in here.values()})
      more = {'features': ', '.join(names)} if number else {}
      num = int(counted.any(axis=0).sum())
      row = evaluation.row(
        'classifier_accuracy', value, stderr, target='mean', **more, n=num
      )
      rows.append(row)
    return rows

  def _hits(self, evaluation: Evaluation) -> dict[str, list[tuple[str, np.ndarray]]]:
    """By modality: every reader that predicts, and whether it is right, [n]."""
    out = {}
    for name, target in evaluation.targets(evaluation.x).items():
      for reader, read in target.read_real.items():
        label = target.annotations.get(read.annotation)
        if label is None:
          continue
        hit = known_hits(read.prediction, label)
        if not target.present.all():
          hit = np.where(target.present, hit, np.nan)
        if not np.isnan(hit).all():
          out.setdefault(name, []).append((reader, hit))
    return out
