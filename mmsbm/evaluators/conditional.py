"""Modalities generated from others, measured against the examples that they are for."""

import dataclasses
import functools
from typing import Any

import numpy as np

from mmsbm.evaluators.aggregate import Rows, is_of_sets, is_of_tuples
from mmsbm.evaluators.base import EvaluationPlan, Measurement, Row, about
from mmsbm.evaluators.evaluation import Evaluation
from mmsbm.evaluators.subsets import check_num_given, measured_subsets
from mmsbm.infra.errors import UserError
from mmsbm.infra.progress import Progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditional:
  """All metrics, given 1, ..., M - 1 modalities.

  Attributes:
    max_subsets: sets of given modalities of each size: all of them while there are at
      most so many.
    num_given: sizes; empty for all.
    all_samplings: whether the other ways of sampling are measured given every number
      of modalities too, and not only given all but one.
  """

  max_subsets: int = 10
  num_given: tuple[int, ...] = ()
  all_samplings: bool = False

  def __post_init__(self):
    if self.max_subsets < 1:
      raise UserError(f'max_subsets is {self.max_subsets}; it must be positive.')

  def check(self, plan: EvaluationPlan, model: Any) -> None:
    """See `Evaluator.check`."""
    del model
    check_num_given(self.num_given, len(plan.names))
    most = int(plan.present.sum(axis=1).max())
    for count in self.num_given:
      if count >= most:
        raise UserError(
          f'num_given: no {plan.split} example has the {count + 1} modalities that are '
          f'needed to measure one given {count}; the most are {most}.'
        )

  def counts(self, plan: EvaluationPlan, model: Any, sampling: str) -> list[int]:
    """Numbers of given modalities that a way of sampling is measured with."""
    num = len(plan.names)
    wanted = self.num_given or range(1, num)
    if sampling != next(iter(model.samplings)) and not self.all_samplings:
      # Ways of sampling are compared on the extremes. A latent that all modalities
      # share is encoded, not sampled, as soon as any of them is given.
      shared = getattr(model, 'latents_are_shared', False)
      wanted = [] if shared or num < 2 else [num - 1]
    most = int(plan.present.sum(axis=1).max())
    return sorted((k for k in wanted if k < most), reverse=True)

  def measurements(self, evaluation: Evaluation) -> list[Measurement]:
    """See `Evaluator.measurements`."""
    out, model, plan = [], evaluation.model, evaluation.plan
    metrics = {k: m for k, m in plan.metrics.items() if not is_of_tuples(m)}
    for sampling in model.samplings:
      suffix = '' if sampling == evaluation.main_sampling else f'_{sampling}'
      for count in self.counts(plan, model, sampling):
        out.append(
          Measurement(
            name=f'given_{count}{suffix}',
            uses=model.uses(sampling) | evaluation.reading_steps,
            options={
              'count': count,
              'max_subsets': self.max_subsets,
              **evaluation.sampling_options(sampling),
              **evaluation.reading_options(),
            },
            run=functools.partial(self._measure, evaluation, sampling, count),
            about={name: about(metric) for name, metric in metrics.items()},
          )
        )
    return out

  def _measure(self, evaluation: Evaluation, sampling: str, count: int) -> list[Row]:
    """Rows of all sets of so many given modalities."""
    plan, names = evaluation.plan, evaluation.names
    subsets, drawn = measured_subsets(len(names), count, self.max_subsets, plan.seed)
    fields = evaluation.sampling_fields(sampling, count)
    rows = Rows(evaluation.row, plan.metrics, len(plan.rows), fields=fields)
    title = f'evaluate given {count} [{sampling}]'
    with Progress(title, len(subsets)) as progress:
      for number, (given, counts) in enumerate(zip(subsets, drawn, strict=True)):
        self._add(evaluation, rows, given, sampling, counts)
        progress.update(number + 1)
    average = {'given': 'mean', 'num_given': count}
    if count == len(names) - 1:
      average['protocol'] = 'given the rest'
    rows.average(average)
    return rows.rows + incremental(rows.rows, names[:count], names[-1], plan.metrics)

  def _add(self, evaluation, rows: Rows, given: np.ndarray, sampling: str, counts):
    """Adds what is generated from one set of modalities."""
    given_names = [n for n, g in zip(evaluation.names, given, strict=True) if g]
    where = f' given {" and ".join(given_names)}'
    common = {'given': given_names, 'num_given': len(given_names)}
    positions, targets = evaluation.conditional_targets(given, sampling)
    rows.add(
      targets, positions, lambda _: common, common, where=where, counts=bool(counts)
    )
    if counts:
      rows.compare(targets, positions, common, where)


def incremental(
  rows: list[Row], first: tuple[str, ...], last: str, metrics: Any
) -> list[Row]:
  """The published curve: the last modality given the first ones (section 7.2).

  Args:
    rows: made given so many modalities.
    first: names of the first ones.
    last: name of the last modality.
    metrics: by name; those that compare distributions have no such curve.
  """
  return [
    row | {'given': 'incremental'}
    for row in rows
    if row['given'] == list(first)
    and row['target'] == last
    and (not is_of_sets(m := metrics[row['metric']]) or m.paired)
  ]
