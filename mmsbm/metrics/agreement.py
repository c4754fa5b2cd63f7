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
  """F1 [N] of the positive entries of each example; both arguments 0/1 [N, ...].

  2 |both| / (|predicted| + |true|), and 0 where neither has any: scikit-learn's
  f1_score(average='samples') before its mean, the published metric of attributes
  and masks (arXiv 2305.15708).
  """
  predicted, true = _positive(predicted), _positive(true)
  both = (predicted & true).sum(1)
  total = predicted.sum(1) + true.sum(1)
  return 2 * both / np.maximum(total, 1)


def f1_by_entry(
  predicted: np.ndarray, true: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """F1 of each entry over all examples; both arguments 0/1 [N, ...].

  F_a = 2 sum_i b_ia / sum_i d_ia with b = 1 where both are positive and d the number
  of the two that are. The mean over the entries that have a positive is
  scikit-learn's f1_score(average='macro') of those.

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

  scikit-learn's r2_score(multioutput='variance_weighted') of predictions x [N, ...]
  for y [N, ...]. It is 1 for perfect ones, 0 for the mean, below 0 for worse ones.

  Returns:
    R^2, and the influence [N] of every example on it: the linearisation of the ratio,
    -(|y - x|^2 - (1 - R^2) |y - mean y|^2) / sum |y - mean y|^2. NaN and zeros where
    all examples y are equal.
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
class Accuracy:
  """Whether a generated label is the true one."""

  name: ClassVar[str] = 'accuracy'
  better: ClassVar[Better] = 'high'
  about: ClassVar[str] = 'The share of generated labels that are those of the example.'

  def __call__(self, target: Target) -> np.ndarray | None:
    """Returns hits [N]; see `PerExample`."""
    if not target.measured_by('accuracy'):
      return None
    return np.asarray(target.generated == target.real)


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
      predicted, true = (
        np.asarray(to_model(examples[start : start + _ROWS]), np.float64)
        for examples in (target.generated, target.real)
      )
      parts.append(np.square(true - predicted).reshape(len(true), -1).mean(1))
    return np.concatenate(parts)


class _Ratio:
  """A ratio of sums over examples, with the error that their influences give."""

  better: ClassVar[Better] = 'high'
  paired: ClassVar[bool] = True
  asked_as: ClassVar[str]

  def __call__(self, target: Target) -> list[Estimate]:
    """Returns one number; see `OfSets`."""
    if not target.measured_by(self.asked_as):
      return []
    if len(target) < MIN_EXAMPLES:
      return [too_few()]
    value, influence, note = self._measure(target.generated, target.real)
    if np.isnan(value):
      return [Estimate(value, None, note)]
    # As the unbiased variance of a mean.
    influence = influence * np.sqrt(len(target) / (len(target) - 1))
    stderr = float(np.sqrt(np.sum(np.square(influence))))
    return [Estimate(value, stderr, note, influence=influence)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class F1ByEntry(_Ratio):
  """F1 of each attribute or pixel over all examples, averaged over those."""

  name: ClassVar[str] = 'f1_by_entry'
  asked_as: ClassVar[str] = 'f1'
  about: ClassVar[str] = (
    'F1 of each entry (attribute or pixel) over all test examples, averaged over '
    'entries: rare entries count as much as common ones.'
  )

  def _measure(self, generated, real):
    f1, usable, influence = f1_by_entry(generated, real)
    if not len(f1):
      return float('nan'), influence, 'no entry is positive'
    missing = int((~usable).sum())
    note = f'without {missing} of {len(usable)} entries that are never positive'
    return float(f1.mean()), influence, note if missing else ''


@dataclasses.dataclass(frozen=True, kw_only=True)
class R2(_Ratio):
  """The share of the variance of vectors that is explained."""

  name: ClassVar[str] = 'r2'
  asked_as: ClassVar[str] = 'r2'
  about: ClassVar[str] = (
    'The share of the variance of the true vectors that the generated ones explain: 1 '
    'is perfect, 0 is no better than the mean. A model that draws samples, and not '
    'means, pays for their spread.'
  )

  def _measure(self, generated, real):
    value, influence = explained_variance(generated, real)
    return value, influence, 'the true vectors do not vary' if np.isnan(value) else ''
