"""Coherence: do generated modalities show what they should?

Conditional coherence is the accuracy of a judge (a pretrained classifier) on a
generated modality against the label of the example that it was generated for;
joint coherence is the share of unconditional samples whose modalities agree.
Publications mean different numbers by these words, so each has a name here:

* `accuracy` (micro: every example counts the same; MoPoE, MMVAE+ and the
  score-based autoencoders) and `macro_accuracy` (every class counts the same;
  MultiVae);
* `joint_agreement(reference='mode')`, k modalities share a class, whichever it
  is; `reference='first'`, k modalities, the first included, share the class of
  the first (the published score-based code); `mean_agreement`, the mean share of
  modalities in the largest group (MultiVae).

All standard errors are those of the mean over test examples.
"""

import itertools
import math

import numpy as np

from mmsbm.infra.errors import UserError


def choose_subsets(
  num_modalities: int, num_given: int, max_subsets: int, seed: int
) -> np.ndarray:
  """The subsets of `num_given` modalities to condition on.

  All of them when there are at most `max_subsets`, else a uniform draw without
  repetition. The draw is keyed by (seed, num_modalities, num_given), so it does
  not change when other sizes are added or left out, and a larger `max_subsets`
  keeps the subsets of a smaller one.

  Returns:
    Bool [S, M], True where a modality is given; lexicographic order.
  """
  if not 0 <= num_given <= num_modalities:
    raise ValueError(f'Cannot give {num_given} of {num_modalities} modalities.')
  if max_subsets < 1:
    raise UserError(f'max_subsets must be at least 1, not {max_subsets}.')
  if math.comb(num_modalities, num_given) <= max_subsets:
    chosen = itertools.combinations(range(num_modalities), num_given)
  else:
    # Distinct draws one after the other: no list of all subsets, of which there
    # are 10^11 for 20 of 40.
    rng = np.random.default_rng([seed, num_modalities, num_given])
    chosen = set()
    while len(chosen) < max_subsets:
      draw = rng.permutation(num_modalities)[:num_given]
      chosen.add(tuple(sorted(draw.tolist())))
    chosen = sorted(chosen)
  return np.array([np.isin(np.arange(num_modalities), c) for c in chosen], bool)


def _binomial(correct: np.ndarray) -> tuple[float, float]:
  value = float(np.mean(correct))
  return value, math.sqrt(value * (1 - value) / len(correct))


def _check_labels(predicted, label) -> tuple[np.ndarray, np.ndarray]:
  predicted, label = np.asarray(predicted), np.asarray(label)
  if predicted.shape != label.shape or label.ndim != 1 or not label.size:
    raise ValueError(
      f'Need two [N] arrays, N > 0, not {predicted.shape} and {label.shape}.'
    )
  if label.min() < 0:
    raise ValueError('Unknown labels (-1): select the labelled examples first.')
  return predicted, label


def accuracy(predicted: np.ndarray, label: np.ndarray) -> tuple[float, float]:
  """Share of correct predictions and its standard error sqrt(p (1 - p) / n).

  Args:
    predicted: classes [N].
    label: true classes [N].
  """
  predicted, label = _check_labels(predicted, label)
  return _binomial(predicted == label)


def macro_accuracy(predicted: np.ndarray, label: np.ndarray) -> tuple[float, float]:
  """Mean over the classes that occur in `label` of the accuracy within each.

  Arguments as in `accuracy`, standard error as in `macro_mean`.
  """
  predicted, label = _check_labels(predicted, label)
  return macro_mean(predicted == label, label)


def macro_mean(values: np.ndarray, label: np.ndarray) -> tuple[float, float]:
  """Mean over the classes that occur in `label` of the mean within each.

  The standard error adds the variances of the classes, whose examples are disjoint.

  Args:
    values: of the examples [N], e.g. the share of targets that are right.
    label: true classes [N].
  """
  values, label = np.asarray(values, np.float64), np.asarray(label)
  groups = [values[label == c] for c in np.unique(label)]
  variances = [group.var() / len(group) for group in groups]
  value = np.mean([group.mean() for group in groups])
  return float(value), math.sqrt(sum(variances)) / len(groups)


def _agreement(predictions: np.ndarray, reference: str) -> np.ndarray:
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
    predictions: judged class of every modality of every sample [N, M].
    reference: 'mode', agreement with the commonest class of the sample; or
      'first', with the class of modality 0, which is never larger. For k = M
      (all agree) they are the same.

  Returns:
    {k: (value, standard error)}.
  """
  count = _agreement(predictions, reference)
  return {k: _binomial(count >= k) for k in range(2, np.shape(predictions)[1] + 1)}


def mean_agreement(
  predictions: np.ndarray, reference: str = 'mode'
) -> tuple[float, float]:
  """Mean share of modalities in agreement; arguments as in `joint_agreement`."""
  return clustered_mean(_agreement(predictions, reference) / np.shape(predictions)[1])


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
