"""An evaluator: are samples as spread as the data?"""

import dataclasses
from typing import Any

import numpy as np

from mmsbm.evaluators import Evaluation, EvaluationPlan, Measurement
from mmsbm.infra.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
  """Standard deviation of samples from nothing over that of the data.

  Attributes:
    modality: the one that is looked at.
  """

  modality: str

  def check(self, plan: EvaluationPlan, model: Any) -> None:
    """Refuses a modality that does not exist, before training."""
    del model
    if self.modality not in plan.names:
      raise UserError(f'modality={self.modality!r} is not one of {list(plan.names)}.')

  def measurements(self, evaluation: Evaluation) -> list[Measurement]:
    """Returns one measurement, of the run's own way of sampling."""
    sampling = evaluation.main_sampling
    return [
      Measurement(
        name='spread',
        uses=evaluation.model.uses(sampling),
        options={
          'modality': self.modality,
          **evaluation.sampling_options(sampling),
        },
        run=lambda: self._measure(evaluation, sampling),
        about={
          'spread': {
            'about': 'Standard deviation of samples over that of the data.',
            'better': 'high',
          }
        },
      )
    ]

  def _measure(self, evaluation: Evaluation, sampling: str) -> list[dict]:
    index = evaluation.names.index(self.modality)
    nothing = np.zeros(len(evaluation.names), bool)
    _, x = evaluation.generate(nothing, sampling)
    value = np.std(x[index]) / np.std(evaluation.x[index])
    fields = evaluation.sampling_fields(sampling, 0)
    return [
      evaluation.row(
        'spread', float(value), None, target=self.modality, num_given=0, given=[],
        **fields,
      )
    ]  # fmt: skip
