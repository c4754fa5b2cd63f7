"""Metrics of generated examples; every number has a standard error.

A new metric is a class, see `base`, and a line of `METRICS`. One of the user's own is
named 'package.module:Class' in the config and needs no line.
"""

from mmsbm.metrics.agreement import F1, R2, Accuracy, F1ByEntry, SquaredError
from mmsbm.metrics.coherence import (
  Coherence,
  CoherenceMacro,
  JointCoherence,
  JointCoherenceWithFirst,
  MeanAgreement,
)
from mmsbm.metrics.frechet import Frechet
from mmsbm.metrics.precision_recall import Precision, Recall

METRICS = {
  metric.name: metric
  for metric in (
    Coherence, CoherenceMacro, F1, F1ByEntry, Accuracy, R2, SquaredError,
    JointCoherence, JointCoherenceWithFirst, MeanAgreement, Frechet, Precision, Recall,
  )
}  # fmt: skip
