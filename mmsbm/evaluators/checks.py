"""Two faults that samples alone do not show: latents that say little, and copies."""

import dataclasses

import numpy as np

from mmsbm.evaluators.base import EvaluationPlan, Evaluator, Measurement, Row
from mmsbm.evaluators.evaluation import Evaluation
from mmsbm.infra.bounds import UNIT, check_value
from mmsbm.infra.rng import fold_in_name

_KEPT = (
  'How much of the variance of a modality, as networks see it, is in what is decoded '
  'from its own latent. What the latent does not keep no sampling can bring back.'
)
_NEAREST = (
  'How far samples from nothing lie from the nearest training example, over how far '
  'test examples do, in the space of latents; medians. About 1 is as new as real '
  'examples are, near 0 are copies of training examples.'
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeptShare(Evaluator):
  """The share of each modality that its latent keeps; a warning where it is small.

  Attributes:
    least: share below which there is a warning.
  """

  least: float = 0.5

  def __post_init__(self):
    check_value('least', self.least, float, UNIT)

  def measurements(self, evaluation: Evaluation) -> list[Measurement]:
    """See `Evaluator.measurements`; none where nothing is reconstructed."""
    if not hasattr(evaluation.model, 'reconstruct'):
      return []
    return [
      Measurement(
        name='kept_share',
        uses=evaluation.model.uses(None),
        options=evaluation.decoding_options() | dataclasses.asdict(self),
        run=lambda: self._measure(evaluation),
        about={'kept_share': {'about': _KEPT, 'better': 'high'}},
      )
    ]

  def _measure(self, evaluation: Evaluation) -> list[Row]:
    key, rows = fold_in_name(evaluation.key, 'kept share'), []
    decoded = evaluation.inference.reconstruct(evaluation.encoded, key=key)
    for i, modality in enumerate(evaluation.plan.problem.modalities):
      here = evaluation.present[:, i]
      x, back = (
        np.asarray(modality.kind.to_model(np.asarray(a)[here]), np.float64)
        for a in (evaluation.x[i], decoded[i])
      )
      spread = np.square(x - x.mean(0)).sum() if len(x) else 0.0
      if not spread:
        continue
      share, fields = 1 - np.square(x - back).sum() / spread, {}
      if share < self.least:
        fields['note'] = (
          f'Warning: the latent of {modality.name} keeps {share:.0%} of it, less than '
          f'{self.least:.0%}: give it a larger latent_dim, a smaller beta, a smaller '
          'scale of its likelihood or more steps.'
        )
        evaluation.warn(fields['note'])
      fields |= {'target': modality.name, 'n': int(here.sum())}
      rows.append(evaluation.row('kept_share', float(share), None, **fields))
    return rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memorised(Evaluator):
  """How near samples lie to training examples; a warning where they are copies.

  Attributes:
    least: ratio below which there is a warning.
    num_examples: the most samples, test and training examples that are compared; 0 for
      no measurement.
  """

  least: float = 0.5
  num_examples: int = 2_000

  def __post_init__(self):
    check_value('least', self.least, float, UNIT)

  def measurements(self, evaluation: Evaluation) -> list[Measurement]:
    """See `Evaluator.measurements`; none without latents or complete examples."""
    plan, model = evaluation.plan, evaluation.model
    possible = hasattr(model, 'latents') and plan.split != 'train'
    if not (self.num_examples and possible and evaluation.present.all(1).any()):
      return []
    if not self._train_rows(plan).size:
      return []
    sampling = next(iter(model.samplings))
    return [
      Measurement(
        name='memorised',
        uses=model.uses(sampling),
        options=evaluation.decoding_options()
        | dataclasses.asdict(self)
        | {'sampling': model.describe(sampling)},
        run=lambda: self._measure(evaluation, sampling),
        about={'distance_to_training': {'about': _NEAREST}},
      )
    ]

  def _train_rows(self, plan: EvaluationPlan) -> np.ndarray:
    train = plan.problem.dataset.splits['train']
    return np.flatnonzero(np.asarray(train.present).all(axis=1))

  def _measure(self, evaluation: Evaluation, sampling: str) -> list[Row]:
    plan, inference = evaluation.plan, evaluation.inference
    key = fold_in_name(evaluation.key, 'memorised')
    rows = self._train_rows(plan)
    # All of them, if possible: the nearest of a part is farther away.
    rows = np.random.default_rng(plan.seed).permutation(rows)[: 10 * self.num_examples]
    train = plan.problem.dataset.splits['train'].arrays
    whole = np.flatnonzero(evaluation.present.all(1))[: self.num_examples]
    test = tuple(np.asarray(a)[whole] for a in evaluation.x)
    blank = np.zeros((len(whole), len(evaluation.names)), bool)
    drawn = inference.sample(inference.encode(test), blank, key=key, sampling=sampling)

    def latents(x):
      shown = np.ones((len(x[0]), len(x)), bool)
      parts = inference.latents(inference.encode(x), shown, key=key)
      if evaluation.model.latents_are_shared:
        return parts['shared']
      return np.concatenate(list(parts.values()), axis=1)

    rows = np.sort(rows)
    known = latents(tuple(np.asarray(train[n][rows]) for n in evaluation.names))
    near = [np.median(nearest_distances(latents(x), known)) for x in (drawn, test)]
    ratio = float(near[0] / max(near[1], 1e-12))
    fields = {'given': [], 'num_given': 0, 'n': len(whole)}
    if ratio < self.least:
      fields['note'] = (
        f'Warning: samples lie {ratio:.2f} times as far from training examples as test '
        f'examples do, less than {self.least}: the score model repeats what it was '
        'trained on. Give config.score a patience, dropout or a smaller network.'
      )
      evaluation.warn(fields['note'])
    fields |= evaluation.sampling_fields(sampling, 0)
    return [evaluation.row('distance_to_training', ratio, None, **fields)]


def nearest_distances(x: np.ndarray, known: np.ndarray) -> np.ndarray:
  """Returns the distance of each row of x [n, D] to the nearest of known [N, D]."""
  out = []
  for part in np.array_split(x.astype(np.float64), -(-len(x) // 100)):
    square = np.square(part).sum(1)[:, None] + np.square(known).sum(1)
    out.append(np.sqrt(np.maximum(square - 2 * part @ known.T, 0).min(1)))
  return np.concatenate(out)
