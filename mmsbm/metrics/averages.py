"""Means over test examples, and their standard errors.

Variances are unbiased. An error that cannot be known is None: that of one example, or
of numbers that do not differ and are no shares of 0 or 1.
"""

import math

import numpy as np


def _error_without_spread(value: float, n: int) -> float | None:
  """The standard error of a share of exactly 0 or 1 of n examples.

  That all outcomes were equal does not mean that all others will be: it is the error as
  if half an example more had come out either way, about 0.7 / n.
  """
  if n < 2 or value not in (0, 1):
    return None
  p = 0.5 / (n + 1)
  return math.sqrt(p * (1 - p) / (n - 1))


def share(correct: np.ndarray) -> tuple[float, float | None]:
  """Returns the share p of True in [N] and its error sqrt(p (1 - p) / (N - 1)).

  The error of 0 and of 1 does not vanish, see `_error_without_spread`.
  """
  value, n = float(np.mean(correct)), len(correct)
  if value in (0, 1):
    return value, _error_without_spread(value, n)
  return value, math.sqrt(value * (1 - value) / (n - 1))


def macro_mean(values: np.ndarray, label: np.ndarray) -> tuple[float, float | None]:
  """Mean over the classes that occur in `label` of the mean within each.

  The standard error adds the variances of the classes, whose examples are disjoint. A
  class with one example has the variance of all, which is no smaller on average, and so
  has every class where none varies.

  Args:
    values: numbers of the examples [N], e.g. the share of targets that are right.
    label: true classes [N].
  """
  values, label = np.asarray(values, np.float64), np.asarray(label)
  groups = [values[label == c] for c in np.unique(label)]
  value = float(np.mean([group.mean() for group in groups]))
  if np.ptp(values) == 0:
    return value, _error_without_spread(value, len(values))
  whole = values.var(ddof=1)
  variances = [g.var(ddof=1) if len(g) > 1 else whole for g in groups]
  if not any(variances):
    variances = [whole] * len(groups)
  total = sum(v / len(g) for v, g in zip(variances, groups, strict=True))
  return value, math.sqrt(total) / len(groups)


def clustered_mean(
  correct: np.ndarray, counted: np.ndarray | None = None
) -> tuple[float, float | None]:
  """Mean over targets or subsets that were tried on the same test tuples.

  A tuple that is hard for one subset is hard for the next, so S * N outcomes are
  not S * N independent trials. The tuples are independent: the standard error is
  that of the mean of N per-tuple means, which with one subset is exactly that of a
  share.

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
    return math.nan, None
  value = float(correct.sum() / total)
  n = int((weight.sum(axis=leading) > 0).sum())
  residual = np.sum(weight * (correct - value), axis=leading)
  spread = float(np.sqrt(np.sum(residual**2)) / total)
  # Below it is the rounding of the mean of equal numbers.
  if n < 2 or spread <= 1e-12 * abs(value):
    return value, _error_without_spread(value, n)
  return value, spread * math.sqrt(n / (n - 1))
