"""Metrics of generated examples; every number has a standard error.

A new metric is a class, see `base`, and a line of `METRICS`. One of the user's own is
named 'package.module:Class' in the config and needs no line.
"""

from mmsbm.metrics.agreement import F1, R2, Accuracy, F1ByEntry, SquaredError
from mmsbm.metrics.coherence import (
  Coherence,
  CoherenceMacro,
  CoherenceSecond,
  JointCoherence,
  JointCoherenceSecond,
  JointCoherenceWithFirst,
  MeanAgreement,
)
from mmsbm.metrics.draws import (
  Brier,
  LogScore,
  TargetAgreement,
  TargetAgreementApart,
)
from mmsbm.metrics.frechet import Frechet
from mmsbm.metrics.precision_recall import Precision, Recall
from mmsbm.metrics.variety import ClassBalance, VarianceRatio

METRICS = {
  metric.name: metric
  for metric in (
    Coherence, CoherenceMacro, CoherenceSecond, F1, F1ByEntry, Accuracy, R2,
    SquaredError, JointCoherence, JointCoherenceWithFirst, JointCoherenceSecond,
    MeanAgreement, Frechet, Precision, Recall,
    VarianceRatio, ClassBalance, Brier, LogScore, TargetAgreement,
    TargetAgreementApart,
  )
}  # fmt: skip
