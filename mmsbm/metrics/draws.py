"""Several draws for the same condition: what a model says when it is asked again.

One draw that shows the class of the example says nothing of how sure the model is: the
frequencies of classes over draws are a forecast, and are scored as one.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from mmsbm.metrics.base import Better, Target


def brier_score(predictions: np.ndarray, label: np.ndarray) -> np.ndarray:
  """Brier scores [N] of the class frequencies of K >= 2 draws, unbiased in K.

  sum_c (f_c - [c = y])^2 - f_c (1 - f_c) / (K - 1): what is subtracted is the variance
  that f_c has because K is finite, so that the mean over draws is sum_c (p_c -
  [c = y])^2 of the probabilities p. A single score may be negative.

  Args:
    predictions: classes that are seen in the draws [K, N].
    label: true classes [N].
  """
  predictions, label = np.asarray(predictions), np.asarray(label)
  num, score = len(predictions), np.zeros(predictions.shape[1])
  for c in np.union1d(predictions, label):
    f = np.mean(predictions == c, axis=0)
    score += (f - (label == c)) ** 2 - f * (1 - f) / (num - 1)
  return score


def log_score(predictions: np.ndarray, label: np.ndarray) -> np.ndarray:
  """Log scores [N], in nats, of the frequency of the true class among K draws.

  -log (k + 1/2) / (K + 1) for k draws of K with the true class: with the estimate of
  Krichevsky and Trofimov (1981) no class that was not drawn is impossible. The best is
  log (K + 1) / (K + 1/2), so only scores of equal K compare.

  Arguments are those of `brier_score`.
  """
  count = np.sum(np.asarray(predictions) == np.asarray(label), axis=0)
  return -np.log((count + 0.5) / (len(predictions) + 1))


def pair_agreement(predictions: np.ndarray, apart: bool = False) -> np.ndarray:
  """Share [N] of pairs of targets that show one class, over all draws.

  Args:
    predictions: classes [K, T, N] in T >= 2 targets of K draws.
    apart: whether the two targets of a pair are of different draws (K >= 2).
  """
  num, targets, size = predictions.shape
  together, either = np.zeros(size), np.zeros(size)
  for t in range(1, targets):
    for s in range(t):
      together += np.mean(predictions[:, s] == predictions[:, t], axis=0)
      for draw in predictions[:, s] if apart else ():
        either += np.mean(draw == predictions[:, t], axis=0)
  pairs = targets * (targets - 1) / 2
  return ((either - together) / (num - 1) if apart else together) / pairs


@dataclasses.dataclass(frozen=True, kw_only=True)
class _OfClasses:
  """A metric of the classes that are seen in draws.

  Attributes:
    reader: the name of a reader; '' for the first one that predicts classes. A label
      is its own class, and needs none.
    annotation: what the reader is to predict; '' for whatever it predicts.
  """

  reader: str = ''
  annotation: str = ''

  better: ClassVar[Better] = 'low'
  draws: ClassVar[bool] = True

  def _seen(self, draws: Sequence[Mapping[str, Target]]):
    """Yields name, annotation, classes [K, N] and true ones [N], -1 where unknown."""
    for name in draws[0]:
      seen = [draw[name].seen_and_true(self.reader, self.annotation) for draw in draws]
      if seen[0] is not None:
        annotation, _, label = seen[0]
        yield name, annotation, np.stack([s[1] for s in seen]), label


class _Forecast(_OfClasses):
  """A score of the frequencies of classes."""

  def __call__(self, draws: Sequence[Mapping[str, Target]]) -> dict[str, np.ndarray]:
    """Returns scores [N] of each target whose classes are known; see `OfDraws`."""
    if len(draws) < 2:
      return {}
    return {
      name: np.where(label >= 0, self._score(predictions, label), np.nan)
      for name, _, predictions, label in self._seen(draws)
      if label is not None
    }


class Brier(_Forecast):
  """The Brier score of the frequencies of classes."""

  name: ClassVar[str] = 'brier'
  about: ClassVar[str] = (
    'The squared error of the frequencies of classes among several samples for one '
    'example, as a forecast of its class (Brier score), without what the number of '
    'samples adds: 0 is certain and right, 1 is no class more often than any other, 2 '
    'is certain and wrong.'
  )
  _score = staticmethod(brier_score)


class LogScore(_Forecast):
  """The log score of the frequency of the true class."""

  name: ClassVar[str] = 'log_score'
  about: ClassVar[str] = (
    'Minus the logarithm of the frequency of the true class among several samples for '
    'one example. Compare it only at equal numbers of samples.'
  )
  _score = staticmethod(log_score)


class TargetAgreement(_OfClasses):
  """The share of pairs of targets of a draw that show one class."""

  name: ClassVar[str] = 'target_agreement'
  better: ClassVar[Better] = 'high'
  about: ClassVar[str] = (
    'The share of pairs of modalities, generated together from the same given ones, '
    'that show one class, right or wrong. What it is above that of modalities of '
    'different samples is agreement about what was not observed.'
  )
  apart: ClassVar[bool] = False

  def __call__(self, draws: Sequence[Mapping[str, Target]]) -> dict[str, np.ndarray]:
    """Returns shares [N] of all targets together; see `OfDraws`.

    Only classes of one annotation are compared, that of the first target.
    """
    seen = list(self._seen(draws))
    same = [s[2] for s in seen if s[1] == seen[0][1]]
    if len(same) < 2 or len(draws) < 1 + self.apart:
      return {}
    return {'all': pair_agreement(np.stack(same, axis=1), self.apart)}


class TargetAgreementApart(TargetAgreement):
  """The same for pairs of targets of different draws."""

  name: ClassVar[str] = 'target_agreement_apart'
  about: ClassVar[str] = (
    'The share of pairs of modalities of different samples for the same given ones '
    'that show one class: what the given ones alone settle.'
  )
  apart: ClassVar[bool] = True
