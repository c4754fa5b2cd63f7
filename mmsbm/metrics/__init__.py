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
  'coherence': Coherence,
  'coherence_macro': CoherenceMacro,
  'f1': F1,
  'f1_by_entry': F1ByEntry,
  'accuracy': Accuracy,
  'r2': R2,
  'mse': SquaredError,
  'joint_coherence': JointCoherence,
  'joint_coherence_with_first': JointCoherenceWithFirst,
  'mean_agreement': MeanAgreement,
  'frechet': Frechet,
  'precision': Precision,
  'recall': Recall,
}
