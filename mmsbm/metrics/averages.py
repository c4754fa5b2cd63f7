"""Means over test examples, and their standard errors."""

import math

import numpy as np


def share(correct: np.ndarray) -> tuple[float, float]:
  """Returns the share of True in [N] and its standard error sqrt(p (1 - p) / N)."""
  value = float(np.mean(correct))
  return value, math.sqrt(value * (1 - value) / len(correct))


def macro_mean(values: np.ndarray, label: np.ndarray) -> tuple[float, float]:
  """Mean over the classes that occur in `label` of the mean within each.

  The standard error adds the variances of the classes, whose examples are disjoint.

  Args:
    values: numbers of the examples [N], e.g. the share of targets that are right.
    label: true classes [N].
  """
  values, label = np.asarray(values, np.float64), np.asarray(label)
  groups = [values[label == c] for c in np.unique(label)]
  variances = [group.var() / len(group) for group in groups]
  value = np.mean([group.mean() for group in groups])
  return float(value), math.sqrt(sum(variances)) / len(groups)


def clustered_mean(
  correct: np.ndarray, counted: np.ndarray | None = None
) -> tuple[float, float]:
  """Mean over targets or subsets that were tried on the same test tuples.

  A tuple that is hard for one subset is hard for the next, so S * N outcomes are
  not S * N independent trials. The tuples are independent: the standard error is
  that of the mean of N per-tuple means, which with one subset is exactly the
  binomial one.

  Args:
    correct: outcomes [S..., N], bool or float.
    counted: bool [S..., N], outcomes that exist (a modality may be missing from
      a tuple); all by default. The value is then a ratio of sums, its standard
      error the usual linearisation.
  """
  correct = np.asarray(correct, np.float64)
  weight = np.ones_like(correct) if counted is None else np.asarray(counted, float)
  if weight.shape != correct.shape:
    raise ValueError(f'counted is {weight.shape}, correct is {correct.shape}.')
  leading = tuple(range(correct.ndim - 1))
  correct = np.where(weight > 0, correct, 0.0)
  total = weight.sum()
  if not total:
    return math.nan, math.nan
  value = correct.sum() / total
  residual = np.sum(weight * (correct - value), axis=leading)
  return float(value), float(np.sqrt(np.sum(residual**2)) / total)
