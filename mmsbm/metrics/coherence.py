"""Coherence: do generated modalities show what they should?

Conditional coherence is the accuracy of a classifier on a generated modality against
the label of the example that it was generated for; joint coherence is the share of
unconditional samples whose modalities agree. Publications mean different numbers by
these words, so each has a name here:

* `coherence` (micro: every example counts the same; MoPoE, MMVAE+ and the
  score-based autoencoders) and `coherence_macro` (every class counts the same;
  MultiVae);
* `joint_coherence`, k modalities share a class, whichever it is;
  `joint_coherence_with_first`, k modalities, the first included, share the class of
  the first (the published score-based code); `mean_agreement`, the mean share of
  modalities in the largest group (MultiVae).

All standard errors are those of the mean over test examples.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from mmsbm.metrics.averages import clustered_mean, share
from mmsbm.metrics.base import Better, Estimate, Reading, Target


def _num_agreeing(predictions: np.ndarray, reference: str) -> np.ndarray:
  """Number of modalities [N] in agreement."""
  predictions = np.asarray(predictions)
  if predictions.ndim != 2 or not predictions.size:
    raise ValueError(f'Need predictions [N, M], not {predictions.shape}.')
  if reference == 'first':
    return (predictions == predictions[:, :1]).sum(axis=1)
  if reference != 'mode':
    raise ValueError(f"reference must be 'mode' or 'first', not {reference!r}.")
  same = predictions[:, :, None] == predictions[:, None, :]
  return same.sum(axis=2).max(axis=1)


def joint_agreement(
  predictions: np.ndarray, reference: str = 'mode'
) -> dict[int, tuple[float, float]]:
  """Share of samples in which at least k modalities agree, for k = 2, ..., M.

  Args:
    predictions: class that a reader sees in every modality of every sample [N, M].
    reference: 'mode', agreement with the commonest class of the sample; or
      'first', with the class of modality 0, which is never larger. For k = M
      (all agree) they are the same.

  Returns:
    {k: (value, standard error)}.
  """
  count = _num_agreeing(predictions, reference)
  return {k: share(count >= k) for k in range(2, np.shape(predictions)[1] + 1)}


def mean_agreement(
  predictions: np.ndarray, reference: str = 'mode'
) -> tuple[float, float]:
  """Mean share of modalities in agreement; arguments as in `joint_agreement`."""
  return clustered_mean(_num_agreeing(predictions, reference) / len(predictions[0]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ReadsClasses:
  """A metric of what a reader sees.

  Attributes:
    reader: its name; '' for the first one that predicts classes of the modality.
    annotation: what it is to predict; '' for whatever it predicts.
  """

  reader: str = ''
  annotation: str = ''

  better: ClassVar[Better] = 'high'
  # Of several readers the first one.
  number: ClassVar[int] = 0

  def _read(self, target: Target, annotation: str = '') -> Reading | None:
    annotation = annotation or self.annotation
    return target.classes(self.reader, annotation, number=self.number)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coherence(_ReadsClasses):
  """The accuracy of a reader on generated examples."""

  name: ClassVar[str] = 'coherence'
  about: ClassVar[str] = (
    'The share of generated examples in which a classifier sees the class of the '
    'example that they were generated for. The classifier is not perfect: see its '
    'accuracy on real examples.'
  )

  def __call__(self, target: Target) -> np.ndarray | None:
    """Returns hits [N], NaN where the class is unknown; see `PerExample`."""
    read = self._read(target)
    if read is None or read.annotation not in target.annotations:
      return None
    label = target.annotations[read.annotation]
    hit, known = read.prediction == label, label >= 0
    return hit if known.all() else np.where(known, hit, np.nan)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoherenceMacro(Coherence):
  """The same with equal weights of the classes of the examples."""

  name: ClassVar[str] = 'coherence_macro'
  about: ClassVar[str] = (
    'Coherence in which every class counts the same, however many test examples it has.'
  )

  def groups(self, target: Target) -> np.ndarray:
    """Returns the class [N] of every example; see `PerExample`."""
    return target.annotations[self._read(target).annotation]


@dataclasses.dataclass(frozen=True, kw_only=True)
class JointCoherence(_ReadsClasses):
  """The share of tuples whose modalities agree."""

  name: ClassVar[str] = 'joint_coherence'
  tuples: ClassVar[bool] = True
  about: ClassVar[str] = (
    'The share of samples, given nothing, in which at least so many modalities show '
    'one class, whichever it is.'
  )
  reference: ClassVar[str] = 'mode'

  def __call__(self, targets: Mapping[str, Target]) -> list[Estimate]:
    """Returns the numbers; none if fewer than two modalities are read.

    Only readers of one annotation are compared: that of the first one if none is named.
    See `OfTuples`.
    """
    annotation, seen = self.annotation, []
    for target in targets.values():
      read = self._read(target, annotation)
      if read is not None:
        annotation = read.annotation
        seen.append(read.prediction)
    return self._measure(np.stack(seen, axis=1)) if len(seen) > 1 else []

  def _measure(self, predictions: np.ndarray) -> list[Estimate]:
    """A number for each k of "at least k agree"."""
    shares = joint_agreement(predictions, self.reference)
    return [Estimate(*numbers, fields={'at_least': k}) for k, numbers in shares.items()]


_SECOND = (
  ' By a second classifier, of other weights, that no setting was chosen with: where '
  'the first one says more, samples please it rather than show the class.'
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoherenceSecond(Coherence):
  """The accuracy of the second reader that predicts what the first one does."""

  name: ClassVar[str] = 'coherence_second'
  about: ClassVar[str] = Coherence.about + _SECOND
  number: ClassVar[int] = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class JointCoherenceSecond(JointCoherence):
  """The agreement of modalities as the second reader sees them."""

  name: ClassVar[str] = 'joint_coherence_second'
  about: ClassVar[str] = JointCoherence.about + _SECOND
  number: ClassVar[int] = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class JointCoherenceWithFirst(JointCoherence):
  """The same for agreement with the first modality, which is never more."""

  name: ClassVar[str] = 'joint_coherence_with_first'
  about: ClassVar[str] = (
    'The share of samples, given nothing, in which at least so many modalities, the '
    'first included, show the class of the first: the published count.'
  )
  reference: ClassVar[str] = 'first'


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanAgreement(JointCoherence):
  """The mean share of modalities that show the commonest class of their tuple."""

  name: ClassVar[str] = 'mean_agreement'
  about: ClassVar[str] = (
    'The mean share of the modalities of a sample, given nothing, that show its '
    'commonest class.'
  )

  def _measure(self, predictions: np.ndarray) -> list[Estimate]:
    return [Estimate(*mean_agreement(predictions))]
