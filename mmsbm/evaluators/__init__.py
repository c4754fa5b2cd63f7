"""Evaluators: what is measured of a trained model, on which examples.

A new evaluator is a frozen dataclass with `check` and `measurements`, see `base`, and
a line of `plan.EVALUATORS`. One of the user's own is named 'package.module:Class' in
the config and needs no line.
"""

from mmsbm.evaluators.base import EvaluationPlan, Measurement
from mmsbm.evaluators.evaluation import VERSION, Evaluation
from mmsbm.evaluators.plan import (
  EVALUATORS,
  evaluate,
  make_evaluation,
  sampling_seconds,
)
from mmsbm.evaluators.readers import READERS_STEP, make_readers, reader_stage

__all__ = [
  'EVALUATORS',
  'READERS_STEP',
  'VERSION',
  'Evaluation',
  'EvaluationPlan',
  'Measurement',
  'evaluate',
  'make_evaluation',
  'make_readers',
  'reader_stage',
  'sampling_seconds',
]
