"""How well a linear classifier reads a class from latents."""

import dataclasses
from typing import Any

import numpy as np

from mmsbm.evaluators.aggregate import mean_of
from mmsbm.evaluators.base import (
  EvaluationPlan,
  Evaluator,
  Measurement,
  Row,
  check_least,
)
from mmsbm.evaluators.evaluation import Evaluation
from mmsbm.evaluators.subsets import check_num_given, choose_subsets
from mmsbm.infra.progress import Progress
from mmsbm.infra.rng import fold_in_name
from mmsbm.metrics.linear_probe import linear_probe

_ABOUT = (
  'The accuracy of a linear classifier of the latents of so many modalities, fitted to '
  'training examples.'
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearProbe(Evaluator):
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
    check_least(self, 0, 'num_train')
    check_least(self, 1, 'max_subsets')

  def check(self, plan: EvaluationPlan, model: Any) -> None:
    """See `Evaluator.check`."""
    check_num_given(self.num_given, len(plan.names))

  def measurements(self, evaluation: Evaluation) -> list[Measurement]:
    """See `Evaluator.measurements`; none where it would mean nothing."""
    plan, num = evaluation.plan, len(evaluation.names)
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
    counts = (*(self.num_given or range(1, num)), num)
    options = dataclasses.asdict(self) | {'counts': counts}
    del options['num_given']  # `counts` stands for it.
    return [
      Measurement(
        name='linear_probe',
        uses=evaluation.model.uses(None, decodes=False),
        options=options,
        run=lambda: self._measure(evaluation, counts),
        about={'latent_accuracy': {'about': _ABOUT, 'better': 'high'}},
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
    """Rows of the subsets of each size, and of their mean."""
    plan, names, label = evaluation.plan, evaluation.names, self.annotation
    train, chosen = plan.problem.dataset.splits['train'], self._train_rows(plan)
    x = tuple(np.asarray(train.arrays[name][chosen]) for name in names)
    parts = {
      'train': (
        evaluation.inference.encode(x),
        np.asarray(train.annotations[label][chosen]),
        np.asarray(train.present[chosen]),
      ),
      'test': (evaluation.encoded, evaluation.annotations[label], evaluation.present),
    }
    rows: list[Row] = []

    def add(hits, fields):
      value, stderr, num = mean_of(hits)
      rows.append(evaluation.row('latent_accuracy', value, stderr, **fields, n=num))

    with Progress('evaluate linear probe', len(counts)) as progress:
      for done, count in enumerate(counts, start=1):
        subsets = choose_subsets(len(names), count, self.max_subsets, plan.seed)
        measured = []
        for given in subsets:
          hits, used = self._hits(evaluation, parts, given)
          if not np.isnan(hits).all():
            measured.append(hits)
            given_names = np.array(names)[given].tolist()
            add(hits, {'given': given_names, 'num_given': count, 'num_train': used})
        if measured:
          fields = {'given': 'mean', 'num_given': count, 'num_train': len(chosen)}
          missing = len(subsets) - len(measured)
          if missing:
            text = f'{missing} of {len(subsets)} sets that too few examples have'
            fields['note'] = f'without {text}'
          add(np.array(measured), fields)
        progress.update(done)
    return rows

  def _hits(self, evaluation, parts, given) -> tuple[np.ndarray, int]:
    """Whether the classes [n] are read, NaN where that is not known; training size."""
    key = fold_in_name(evaluation.key, 'linear probe')
    latents, label, usable = {}, {}, {}
    for name, (encoded, classes, present) in parts.items():
      usable[name] = present[:, given].all(axis=1) & (classes >= 0)
      blocks = evaluation.inference.latents(
        encoded, np.broadcast_to(given, present.shape), key=fold_in_name(key, name)
      )
      if evaluation.model.latents_are_shared:
        whole = blocks['shared']
      else:
        whole = np.concatenate(list(blocks.values()), axis=1)
      latents[name], label[name] = whole[usable[name]], classes[usable[name]]
    hits = np.full(len(usable['test']), np.nan)
    if len(label['train']) and len(label['test']):
      predicted = linear_probe(latents['train'], label['train'], latents['test'])
      hits[usable['test']] = predicted == label['test']
    return hits, len(label['train'])
