"""Several samples for each example: how sure a model is, and of what."""

import dataclasses
import functools
from typing import Any

import numpy as np

from mmsbm.evaluators.aggregate import Rows
from mmsbm.evaluators.base import (
  EvaluationPlan,
  Evaluator,
  Measurement,
  Row,
  check_draws,
  check_least,
)
from mmsbm.evaluators.evaluation import Evaluation
from mmsbm.evaluators.generated import metrics_of, of_sampling
from mmsbm.evaluators.subsets import check_num_given, choose_subsets
from mmsbm.infra.progress import Progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draws(Evaluator):
  """Metrics of several draws for each example, with the run's own way of sampling.

  Attributes:
    num_draws: K, samples for each example.
    num_examples: the most that are used of those that are evaluated.
    max_subsets: sets of given modalities of each size, at most.
    num_given: sizes; empty for one and for all but one.
  """

  num_draws: int = 8
  num_examples: int = 500
  max_subsets: int = 4
  num_given: tuple[int, ...] = ()

  def __post_init__(self):
    check_least(self, 1, 'num_examples', 'max_subsets')
    check_draws(self)

  def check(self, plan: EvaluationPlan, model: Any) -> None:
    """See `Evaluator.check`."""
    check_num_given(self.num_given, len(plan.names))

  def measurements(self, evaluation: Evaluation) -> list[Measurement]:
    """See `Evaluator.measurements`; none where nothing says what a class is."""
    metrics, num = metrics_of(evaluation, 'draws'), len(evaluation.names)
    has_classes = any(reader.annotation for reader in evaluation.plan.readers)
    has_classes |= any(
      'accuracy' in m.kind.metrics for m in evaluation.problem.modalities
    )
    sampling = evaluation.main_sampling
    if not metrics or not has_classes or sampling is None:
      return []
    most = int(evaluation.present.sum(axis=1).max())
    counts = self.num_given or {1, num - 1} - {0}
    return [
      of_sampling(
        evaluation,
        f'draws_given_{count}',
        sampling,
        metrics,
        functools.partial(self._measure, evaluation, sampling, count),
        count=count,
        num_draws=self.num_draws,
        num_draw_examples=self.num_examples,
        max_subsets=self.max_subsets,
      )
      for count in sorted(counts, reverse=True)
      if count < most
    ]

  def _measure(self, evaluation: Evaluation, sampling: str, count: int) -> list[Row]:
    """Rows of all sets of so many given modalities, and their mean."""
    plan, names = evaluation.plan, np.array(evaluation.names)
    order = np.random.default_rng(plan.seed).permutation(len(evaluation.rows))
    among = order[: self.num_examples]
    subsets = choose_subsets(len(names), count, self.max_subsets, plan.seed)
    fields = evaluation.sampling_fields(sampling, count)
    rows = Rows(evaluation, fields | {'num_draws': self.num_draws})
    with Progress(f'evaluate draws given {count}', len(subsets)) as progress:
      for done, given in enumerate(subsets, start=1):
        hidden, draws = names[~given].tolist(), []
        for draw in range(1, self.num_draws + 1):
          positions, x = evaluation.generate(given, sampling, among=among, draw=draw)
          targets = evaluation.targets(x, positions)
          draws.append({name: targets[name] for name in hidden})
        common = {'given': names[given].tolist(), 'num_given': count}
        for name, metric in metrics_of(evaluation, 'draws').items():
          rows.add_values(name, metric(draws), positions, common)
        progress.update(done)
    rows.average({'given': 'mean', 'num_given': count})
    return rows.rows
