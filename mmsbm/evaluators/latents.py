"""How well a linear classifier reads a class from latents."""

import dataclasses
from typing import Any

import numpy as np

from mmsbm.evaluators.base import EvaluationPlan, Measurement, Row
from mmsbm.evaluators.evaluation import Evaluation
from mmsbm.evaluators.subsets import check_num_given, choose_subsets
from mmsbm.infra.errors import UserError
from mmsbm.infra.progress import Progress
from mmsbm.infra.rng import fold_in_name
from mmsbm.metrics.averages import clustered_mean
from mmsbm.metrics.linear_probe import linear_probe

_ABOUT = {
  'latent_accuracy': {
    'about': (
      'The accuracy of a linear classifier of the latents of so many modalities, '
      'fitted to training examples.'
    ),
    'better': 'high',
  }
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearProbe:
  """Linear classifiers of the latents, given 1, ..., M modalities.

  The latents are those that the encoders alone give: the shared one where modalities
  share one, otherwise those of all observed modalities.

  Attributes:
    num_train: training examples that each is fitted to; 0 for no measurement.
    annotation: the classes.
    max_subsets: sets of observed modalities of each size, at most.
    num_given: sizes beside that of all modalities; empty for all.
  """

  num_train: int = 0
  annotation: str = 'class'
  max_subsets: int = 10
  num_given: tuple[int, ...] = ()

  def __post_init__(self):
    if self.num_train < 0:
      raise UserError(f'num_train is {self.num_train}; it must not be negative.')
    if self.max_subsets < 1:
      raise UserError(f'max_subsets is {self.max_subsets}; it must be positive.')

  def check(self, plan: EvaluationPlan, model: Any) -> None:
    """See `Evaluator.check`."""
    del model
    check_num_given(self.num_given, len(plan.names))

  def measurements(self, evaluation: Evaluation) -> list[Measurement]:
    """See `Evaluator.measurements`; none where it would mean nothing."""
    plan = evaluation.plan
    if not self.num_train:
      return []
    if not hasattr(evaluation.model, 'latents'):
      evaluation.warn('the method has no latents, so no linear probe is fitted.')
      return []
    if self.annotation not in plan.problem.dataset.num_classes:
      evaluation.warn(
        f'the data have no classes {self.annotation!r}, so no linear probe is fitted.'
      )
      return []
    if plan.split == 'train' or not len(self._train_rows(plan)):
      evaluation.warn('no linear probe is fitted to what is evaluated, or to nothing.')
      return []
    num = len(plan.names)
    counts = (*(self.num_given or range(1, num)), num)
    return [
      Measurement(
        name='linear_probe',
        uses=evaluation.model.uses(None, decodes=False),
        options={
          'num_train': self.num_train,
          'annotation': self.annotation,
          'max_subsets': self.max_subsets,
          'counts': counts,
        },
        run=lambda: self._measure(evaluation, counts),
        about=_ABOUT,
      )
    ]

  def _train_rows(self, plan: EvaluationPlan) -> np.ndarray:
    """A random part of the training examples of which the class is known."""
    train = plan.problem.dataset.splits['train']
    usable = np.asarray(train.present).any(axis=1)
    usable &= np.asarray(train.annotations[self.annotation]) >= 0
    order = np.random.default_rng(plan.seed).permutation(np.flatnonzero(usable))
    return np.sort(order[: self.num_train])

  def _measure(self, evaluation: Evaluation, counts: tuple[int, ...]) -> list[Row]:
    plan, names = evaluation.plan, evaluation.names
    train, chosen = plan.problem.dataset.splits['train'], self._train_rows(plan)
    parts = {
      'train': (
        evaluation.inference.encode(
          tuple(np.asarray(train.arrays[name][chosen]) for name in names)
        ),
        np.asarray(train.annotations[self.annotation][chosen]),
        np.asarray(train.present[chosen]),
      ),
      'test': (
        evaluation.encoded,
        evaluation.annotations[self.annotation],
        evaluation.present,
      ),
    }
    rows: list[Row] = []
    with Progress('evaluate linear probe', len(counts)) as progress:
      for done, count in enumerate(counts, start=1):
        subsets = choose_subsets(len(names), count, self.max_subsets, plan.seed)
        rows += self._of_size(evaluation, parts, subsets, len(chosen))
        progress.update(done)
    return rows

  def _of_size(self, evaluation, parts, subsets, num_train) -> list[Row]:
    """Rows of the subsets of one size, and of their mean."""
    rows, hits, missing = [], [], 0
    for given in subsets:
      names = [n for n, g in zip(evaluation.names, given, strict=True) if g]
      common = {'num_given': len(names)}
      hit, used = self._hits(evaluation, parts, given)
      if np.isnan(hit).all():
        missing += 1
        continue
      hits.append(hit)
      value, stderr = clustered_mean(hit, ~np.isnan(hit))
      fields = {'given': names, **common, 'num_train': used}
      num = int((~np.isnan(hit)).sum())
      rows.append(evaluation.row('latent_accuracy', value, stderr, **fields, n=num))
    if hits:
      stacked = np.array(hits)
      counted = ~np.isnan(stacked)
      value, stderr = clustered_mean(stacked, counted)
      fields = {'given': 'mean', **common, 'num_train': num_train}
      if missing:
        text = f'without {missing} of {len(subsets)} sets that too few examples have'
        fields['note'] = text
      num = int(counted.any(axis=0).sum())
      rows.append(evaluation.row('latent_accuracy', value, stderr, **fields, n=num))
    return rows

  def _hits(self, evaluation, parts, given) -> tuple[np.ndarray, int]:
    """Whether the classes [n] are read, NaN where that is not known; training size."""
    key = fold_in_name(evaluation.key, 'linear probe')
    latents, label, usable = {}, {}, {}
    for name, (encoded, classes, present) in parts.items():
      observed = np.broadcast_to(given, present.shape)
      found = evaluation.inference.latents(
        encoded, observed, key=fold_in_name(key, name)
      )
      if evaluation.model.latents_are_shared:
        latents[name] = found['shared']
      else:
        latents[name] = np.concatenate(list(found.values()), axis=1)
      label[name] = classes
      usable[name] = present[:, given].all(axis=1) & (classes >= 0)
    used = int(usable['train'].sum())
    hit = np.full(len(usable['test']), np.nan)
    if used and usable['test'].any():
      train, test = usable['train'], usable['test']
      predicted = linear_probe(
        latents['train'][train], label['train'][train], latents['test'][test]
      )
      hit[test] = predicted == label['test'][test]
    return hit, used
