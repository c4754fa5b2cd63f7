"""What coherence does not see: balance between classes, and variance within them."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from mmsbm.metrics.base import MIN_EXAMPLES, Better, Estimate, Target, too_few


def balance_kl(seen: np.ndarray, true: np.ndarray) -> tuple[float, float]:
  """KL(p | q) in nats of the frequencies p of classes seen [N] from those of true [N'].

  q has half an example more of every class (Jeffreys), so that none is impossible. The
  C classes that occur give the plug-in value an excess of (C - 1) / 2N (Miller, 1955),
  which is subtracted: it is about 0 for samples of q, and may be below.

  Returns:
    KL and its standard error: the linearisation, and the variance (C - 1) / 2N^2 of
    chi^2 / 2N with C - 1 degrees of freedom, which is what is left where KL is 0.
  """
  classes, n = np.union1d(seen, true), len(seen)
  index = np.searchsorted(classes, seen)
  p = np.bincount(index, minlength=len(classes)) / n
  q = np.array([np.sum(true == c) + 0.5 for c in classes])
  ratio = np.log(np.where(p > 0, p, 1.0) / (q / q.sum()))
  plain = float(np.sum(p * ratio))
  influence = (ratio[index] - plain) / n
  # Of samples of q the linearisation is all noise, twice the variance of chi^2 / 2N.
  excess = (len(classes) - 1) / n**2
  variance = max(np.sum(influence**2) - excess, 0) + excess / 2
  return plain - (len(classes) - 1) / (2 * n), float(np.sqrt(variance))


def within_class(features: np.ndarray, label: np.ndarray) -> np.ndarray | None:
  """Squared distances [n] of features [N, F] from the mean of their class.

  Each is scaled by n_c / (n_c - 1), so that the mean is the trace of the unbiased
  covariance within classes; without classes of one example. None if there is no other.
  """
  features, out = np.asarray(features, np.float64), []
  for c in np.unique(label):
    part = features[label == c]
    if len(part) > 1:
      squares = np.square(part - part.mean(0)).sum(1)
      out.append(squares * len(part) / (len(part) - 1))
  return np.concatenate(out) if out else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassBalance:
  """The divergence of the classes of samples from those of examples.

  Attributes:
    reader: the name of a reader; '' for the first one that predicts classes.
    annotation: what it is to predict; '' for whatever it predicts.
  """

  reader: str = ''
  annotation: str = ''

  name: ClassVar[str] = 'class_balance_kl'
  tuples: ClassVar[bool] = True
  better: ClassVar[Better] = 'low'
  about: ClassVar[str] = (
    'The Kullback-Leibler divergence, in nats, of the frequencies of classes of '
    'samples, given nothing, from those of the test examples: 0 if every class is as '
    'frequent as it should be. The mean over modalities, less its bias.'
  )

  def __call__(self, targets: Mapping[str, Target]) -> list[Estimate]:
    """Returns one number, none where no classes are known; see `OfTuples`."""
    parts = []
    for target in targets.values():
      seen = target.seen_and_true(self.reader, self.annotation)
      if seen is None or seen[2] is None or not (seen[2] >= 0).any():
        continue
      parts.append(balance_kl(seen[1], seen[2][seen[2] >= 0]))
    if not parts:
      return []
    # Modalities of one sample depend on each other: their errors as if they were one.
    value, stderr = (float(np.mean([p[i] for p in parts])) for i in (0, 1))
    return [Estimate(value, stderr)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VarianceRatio:
  """The variance within classes of generated examples over that of real ones.

  Attributes:
    reader: the name of a reader; '' for all that have features.
  """

  reader: str = ''

  name: ClassVar[str] = 'variance_ratio'
  better: ClassVar[Better] = 'one'
  paired: ClassVar[bool] = False
  about: ClassVar[str] = (
    'The variance of features within classes (those that the classifier sees, if there '
    'is one) of generated examples over that of real ones: 0 for prototypes of '
    'classes, 1 for as much variety as the data have, more for noise.'
  )

  def __call__(self, target: Target) -> list[Estimate]:
    """Returns a number for each reader with features; see `OfSets`."""
    estimates = []
    for name, read in target.read_generated.items():
      if self.reader in ('', name) and read.features is not None:
        sides = (
          (read, target.classes()),
          (
            target.read_real[name],
            target.classes(of_real=True),
          ),
        )
        estimate = self._measure(*sides) if len(target) >= MIN_EXAMPLES else too_few()
        estimates.append(dataclasses.replace(estimate, fields={'features': name}))
    return estimates

  def _measure(self, *sides) -> Estimate:
    squares = []
    for read, classes in sides:
      label = np.zeros(len(read.features)) if classes is None else classes.prediction
      squares.append(within_class(read.features, label))
    if any(s is None for s in squares) or not squares[1].mean() > 0:
      return Estimate(float('nan'), None, 'no class has several examples that differ')
    generated, real = squares
    ratio = generated.mean() / real.mean()
    # Of a ratio of means of independent sets.
    errors = generated.var(ddof=1) / len(generated), real.var(ddof=1) / len(real)
    variance = (errors[0] + ratio**2 * errors[1]) / real.mean() ** 2
    return Estimate(float(ratio), float(np.sqrt(variance)))
