"""Tuples generated from nothing: do they agree, and are they like real examples?"""

import dataclasses
import functools
from typing import Any

import numpy as np

from mmsbm.evaluators.aggregate import Rows, is_of_sets, is_of_tuples
from mmsbm.evaluators.base import EvaluationPlan, Measurement, Row, about, is_number
from mmsbm.evaluators.evaluation import Evaluation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unconditional:
  """Metrics of tuples and of distributions, of samples given nothing."""

  def check(self, plan: EvaluationPlan, model: Any) -> None:
    """See `Evaluator.check`; whatever there is can be measured."""

  def measurements(self, evaluation: Evaluation) -> list[Measurement]:
    """See `Evaluator.measurements`."""
    out, model = [], evaluation.model
    metrics = {
      name: metric
      for name, metric in evaluation.plan.metrics.items()
      if is_of_tuples(metric) or (is_of_sets(metric) and not metric.paired)
    }
    for sampling in model.samplings if metrics else ():
      suffix = '' if sampling == evaluation.main_sampling else f'_{sampling}'
      out.append(
        Measurement(
          name=f'unconditional{suffix}',
          uses=model.uses(sampling) | evaluation.reading_steps,
          options={
            **evaluation.sampling_options(sampling),
            **evaluation.reading_options(),
          },
          run=functools.partial(self._measure, evaluation, sampling),
          about={name: about(metric) for name, metric in metrics.items()},
        )
      )
    return out

  def _measure(self, evaluation: Evaluation, sampling: str) -> list[Row]:
    plan = evaluation.plan
    given = np.zeros(len(evaluation.names), bool)
    positions, x = evaluation.generate(given, sampling)
    targets = evaluation.targets(x)
    fields = evaluation.sampling_fields(sampling, 0)
    common = {'given': [], 'num_given': 0}
    rows = []
    for name, metric in plan.metrics.items():
      for estimate in metric(targets) if is_of_tuples(metric) else ():
        if is_number(estimate.value):
          note = {'note': estimate.note} if estimate.note else {}
          number = estimate.value, estimate.stderr
          rows.append(
            evaluation.row(name, *number, **estimate.fields, **common, **fields, **note)
          )
    compared = Rows(evaluation.row, plan.metrics, len(plan.rows), fields=fields)
    compared.compare(targets, positions, common)
    compared.average(common)
    return rows + compared.rows
