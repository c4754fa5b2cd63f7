"""Generated examples against the true ones, entry by entry, without a reader.

Where a modality holds its own meaning no classifier is needed: what is generated is
compared with what is there.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from mmsbm.metrics.base import MIN_EXAMPLES, Better, Estimate, Target, too_few

# Examples at a time, where all entries of all of them would need much memory.
_ROWS = 512


def _positive(examples: np.ndarray) -> np.ndarray:
  """0/1 entries [N, ...] as bool [N, A]."""
  return np.asarray(examples).reshape(len(examples), -1) > 0


def f1_per_example(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
  """F1 of the positive entries of each example, [N].

  2 |both| / (|predicted| + |true|), and 0 where neither has any: scikit-learn's
  f1_score(average='samples') before its mean, the published metric of attributes
  and masks (arXiv 2305.15708).

  Args:
    predicted: 0/1 entries [N, ...].
    true: 0/1 entries [N, ...].
  """
  predicted, true = _positive(predicted), _positive(true)
  both = (predicted & true).sum(1)
  total = predicted.sum(1) + true.sum(1)
  return 2 * both / np.maximum(total, 1)


def f1_by_entry(
  predicted: np.ndarray, true: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """F1 of each entry over all examples, which its rare positives count for.

  F_a = 2 sum_i b_ia / sum_i d_ia with b = 1 where both are positive and d the number
  of the two that are. The mean over the entries that have a positive is
  scikit-learn's f1_score(average='macro') of those.

  Args:
    predicted: 0/1 entries [N, ...].
    true: 0/1 entries [N, ...].

  Returns:
    F1 [A] of the entries with a positive, bool [all entries] for which these are, and
    the influence [N] of every example on their mean: the linearisation of the ratios,
    (1 / A) sum_a (2 b_ia - F_a d_ia) / sum_j d_ja.
  """
  predicted, true = _positive(predicted), _positive(true)
  total = predicted.sum(0) + true.sum(0)
  usable = total > 0
  predicted, true, total = predicted[:, usable], true[:, usable], total[usable]
  f1 = 2 * (predicted & true).sum(0) / total
  influence = np.zeros(len(predicted))
  for start in range(0, len(predicted) if usable.any() else 0, _ROWS):
    p, t = predicted[start : start + _ROWS], true[start : start + _ROWS]
    residual = 2.0 * (p & t) - f1 * (p.astype(float) + t)
    influence[start : start + _ROWS] = (residual / total).mean(1)
  return f1, usable, influence


def explained_variance(
  predicted: np.ndarray, true: np.ndarray
) -> tuple[float, np.ndarray]:
  """R^2 = 1 - sum |y - x|^2 / sum |y - mean y|^2 over examples and entries.

  scikit-learn's r2_score(multioutput='variance_weighted'). It is 1 for perfect
  predictions, 0 for the mean of the examples, and below 0 for worse ones.

  Args:
    predicted: numbers x [N, ...].
    true: numbers y [N, ...], not all examples equal.

  Returns:
    R^2, and the influence [N] of every example on it: the linearisation of the ratio,
    -(|y - x|^2 - (1 - R^2) |y - mean y|^2) / sum |y - mean y|^2. NaN and zeros where
    all examples are equal.
  """
  predicted, true = (
    np.asarray(a, np.float64).reshape(len(a), -1) for a in (predicted, true)
  )
  error = np.square(true - predicted).sum(1)
  spread = np.square(true - true.mean(0)).sum(1)
  total = spread.sum()
  if not total > 0:
    return float('nan'), np.zeros(len(true))
  ratio = error.sum() / total
  return float(1 - ratio), -(error - ratio * spread) / total


def squared_error_per_example(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
  """Mean of (y - x)^2 over the entries of each example, [N]."""
  difference = np.asarray(true, np.float64) - np.asarray(predicted, np.float64)
  return np.square(difference).reshape(len(difference), -1).mean(1)


def root_of_squares(influence: np.ndarray) -> float:
  """The standard error that belongs to the influences of examples [N]."""
  return float(np.sqrt(np.sum(np.square(influence))))


@dataclasses.dataclass(frozen=True, kw_only=True)
class F1:
  """F1 of the positive entries of attributes and masks."""

  name: ClassVar[str] = 'f1'
  better: ClassVar[Better] = 'high'
  about: ClassVar[str] = (
    'F1 of the positive entries of a generated example against those of the test '
    'example, averaged over examples.'
  )

  def __call__(self, target: Target) -> np.ndarray | None:
    """Returns F1 [N]; see `PerExample`."""
    if not target.measured_by('f1'):
      return None
    return f1_per_example(target.generated, target.real)


@dataclasses.dataclass(frozen=True, kw_only=True)
class F1ByEntry:
  """F1 of each attribute or pixel over all examples, averaged over those."""

  name: ClassVar[str] = 'f1_by_entry'
  better: ClassVar[Better] = 'high'
  paired: ClassVar[bool] = True
  about: ClassVar[str] = (
    'F1 of each entry (attribute or pixel) over all test examples, averaged over '
    'entries: rare entries count as much as common ones.'
  )

  def __call__(self, target: Target) -> list[Estimate]:
    """Returns one number; see `OfSets`."""
    if not target.measured_by('f1'):
      return []
    if len(target) < MIN_EXAMPLES:
      return [too_few()]
    f1, usable, influence = f1_by_entry(target.generated, target.real)
    if not len(f1):
      return [Estimate(float('nan'), None, 'no entry is positive')]
    missing = int((~usable).sum())
    note = f'without {missing} of {len(usable)} entries that are never positive'
    return [
      Estimate(
        float(f1.mean()),
        root_of_squares(influence),
        note if missing else '',
        influence=influence,
      )
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracy:
  """Whether a generated label is the true one."""

  name: ClassVar[str] = 'accuracy'
  better: ClassVar[Better] = 'high'
  about: ClassVar[str] = 'The share of generated labels that are those of the example.'

  def __call__(self, target: Target) -> np.ndarray | None:
    """Returns hits [N] as numbers; see `PerExample`."""
    if not target.measured_by('accuracy'):
      return None
    return np.asarray(target.generated == target.real, np.float64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class R2:
  """The share of the variance of vectors that is explained."""

  name: ClassVar[str] = 'r2'
  better: ClassVar[Better] = 'high'
  paired: ClassVar[bool] = True
  about: ClassVar[str] = (
    'The share of the variance of the true vectors that the generated ones explain: 1 '
    'is perfect, 0 is no better than the mean. A model that draws samples, and not '
    'means, pays for their spread.'
  )

  def __call__(self, target: Target) -> list[Estimate]:
    """Returns one number; see `OfSets`."""
    if not target.measured_by('r2'):
      return []
    if len(target) < MIN_EXAMPLES:
      return [too_few()]
    value, influence = explained_variance(target.generated, target.real)
    if np.isnan(value):
      return [Estimate(value, None, 'the true vectors do not vary')]
    return [Estimate(value, root_of_squares(influence), influence=influence)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SquaredError:
  """The mean squared error of pictures and vectors, as networks see them."""

  name: ClassVar[str] = 'mse'
  better: ClassVar[Better] = 'low'
  about: ClassVar[str] = (
    'The mean squared difference of an entry from that of the test example, scaled as '
    'the networks see it: pictures in [0, 1], vectors less their offset and divided by '
    'their scale.'
  )

  def __call__(self, target: Target) -> np.ndarray | None:
    """Returns errors [N]; see `PerExample`."""
    if not target.measured_by('mse'):
      return None
    to_model = target.modality.kind.to_model
    parts = [np.zeros(0)]
    for start in range(0, len(target), _ROWS):
      rows = slice(start, start + _ROWS)
      parts.append(
        squared_error_per_example(
          to_model(target.generated[rows]), to_model(target.real[rows])
        )
      )
    return np.concatenate(parts)
