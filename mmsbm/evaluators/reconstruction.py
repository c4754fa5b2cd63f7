"""Every modality encoded and decoded alone, against the example itself."""

import dataclasses
from typing import Any

import numpy as np

from mmsbm.evaluators.aggregate import Rows, is_of_sets, is_of_tuples
from mmsbm.evaluators.base import EvaluationPlan, Measurement, Row, about
from mmsbm.evaluators.evaluation import Evaluation
from mmsbm.infra.rng import fold_in_name


def row_name(metric: str) -> str:
  """What rows call a metric of reconstructions; 'reconstruction' for coherence."""
  return 'reconstruction' if metric == 'coherence' else f'reconstruction_{metric}'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstruction:
  """All metrics against the true example, of reconstructions."""

  def check(self, plan: EvaluationPlan, model: Any) -> None:
    """See `Evaluator.check`; whatever there is can be measured."""

  def measurements(self, evaluation: Evaluation) -> list[Measurement]:
    """See `Evaluator.measurements`."""
    model = evaluation.model
    metrics = {
      name: metric
      for name, metric in evaluation.plan.metrics.items()
      if not is_of_tuples(metric) and not (is_of_sets(metric) and not metric.paired)
    }
    if not hasattr(model, 'reconstruct'):
      evaluation.warn('the method does not reconstruct, so no reconstruction is made.')
      return []
    text = 'Each modality is encoded and decoded alone.'
    return [
      Measurement(
        name='reconstruction',
        uses=model.uses(None) | evaluation.reading_steps,
        options=evaluation.decoding_options() | evaluation.reading_options(),
        run=lambda: self._measure(evaluation),
        about={row_name(name): about(metric, text) for name, metric in metrics.items()},
      )
    ]

  def _measure(self, evaluation: Evaluation) -> list[Row]:
    plan = evaluation.plan
    x = evaluation.inference.reconstruct(
      evaluation.encoded, key=fold_in_name(evaluation.key, 'reconstruction')
    )
    rows = Rows(
      evaluation.row, plan.metrics, len(plan.rows), rename=row_name, binomial=False
    )
    rows.add(
      evaluation.targets(x),
      np.arange(len(plan.rows)),
      lambda name: {'given': [name], 'num_given': 1},
      {},
    )
    return rows.rows
