"""Metrics of what a model generates: from nothing, from some modalities, from each."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mmsbm.evaluators.aggregate import Rows
from mmsbm.evaluators.base import (
  EvaluationPlan,
  Evaluator,
  Measurement,
  Row,
  check_least,
  is_number,
)
from mmsbm.evaluators.evaluation import Evaluation
from mmsbm.evaluators.subsets import check_num_given, measured_subsets
from mmsbm.infra.errors import UserError
from mmsbm.infra.progress import Progress
from mmsbm.infra.rng import fold_in_name
from mmsbm.metrics.base import Metric, Target, kind_of


def metrics_of(evaluation: Evaluation, *kinds: str) -> dict[str, Metric]:
  """The metrics of the plan that are of these kinds, see `kind_of`."""
  metrics = evaluation.plan.metrics
  return {name: metric for name, metric in metrics.items() if kind_of(metric) in kinds}


def tuple_rows(
  evaluation: Evaluation, targets: Mapping[str, Target], fields: Row
) -> list[Row]:
  """Rows of the metrics of tuples; `fields` stand in all of them."""
  rows = []
  for name, metric in metrics_of(evaluation, 'tuples').items():
    for estimate in metric(targets):
      if is_number(estimate.value):
        note = {'note': estimate.note} if estimate.note else {}
        more = {**estimate.fields, **fields, **note}
        more['n'] = min(len(target) for target in targets.values())
        rows.append(evaluation.row(name, estimate.value, estimate.stderr, **more))
  return rows


def of_sampling(
  evaluation: Evaluation,
  name: str,
  sampling: str,
  metrics: Mapping[str, Metric],
  run: Callable[[], list[Row]],
  **options: Any,
) -> Measurement:
  """What is measured of samples; `name` without that of the run's own sampling."""
  return Measurement(
    name=name if sampling == evaluation.main_sampling else f'{name}_{sampling}',
    uses=evaluation.model.uses(sampling) | evaluation.reading_steps,
    options={
      **options,
      **evaluation.sampling_options(sampling),
      **evaluation.reading_options(),
    },
    run=run,
    about={k: {'about': m.about, 'better': m.better} for k, m in metrics.items()},
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unconditional(Evaluator):
  """Metrics of tuples and of distributions, of samples given nothing."""

  def measurements(self, evaluation: Evaluation) -> list[Measurement]:
    """See `Evaluator.measurements`."""
    metrics = metrics_of(evaluation, 'tuples', 'distributions')
    return [
      of_sampling(
        evaluation,
        'unconditional',
        sampling,
        metrics,
        functools.partial(self._measure, evaluation, sampling),
      )
      for sampling in (evaluation.model.samplings if metrics else ())
    ]

  def _measure(self, evaluation: Evaluation, sampling: str) -> list[Row]:
    positions, x = evaluation.generate(np.zeros(len(evaluation.names), bool), sampling)
    targets = evaluation.targets(x)
    fields = evaluation.sampling_fields(sampling, 0)
    given = {'given': [], 'num_given': 0}
    rows = tuple_rows(evaluation, targets, given | fields)
    compared = Rows(evaluation, fields)
    compared.compare(targets, positions, given)
    compared.average(given)
    return rows + compared.rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditional(Evaluator):
  """All metrics but those of tuples, given 1, ..., M - 1 modalities.

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
    check_least(self, 1, 'max_subsets')

  def check(self, plan: EvaluationPlan, model: Any) -> None:
    """See `Evaluator.check`."""
    check_num_given(self.num_given, len(plan.names))
    most = int(plan.present.sum(axis=1).max())
    for count in self.num_given:
      if count >= most:
        raise UserError(
          f'num_given: no {plan.split} example has the {count + 1} modalities that are '
          f'needed to measure one given {count}; the most are {most}.'
        )

  def measurements(self, evaluation: Evaluation) -> list[Measurement]:
    """See `Evaluator.measurements`."""
    metrics = metrics_of(evaluation, 'examples', 'pairs', 'distributions')
    return [
      of_sampling(
        evaluation,
        f'given_{count}',
        sampling,
        metrics,
        functools.partial(self._measure, evaluation, sampling, count),
        count=count,
        max_subsets=self.max_subsets,
      )
      for sampling in evaluation.model.samplings
      for count in self._counts(evaluation, sampling)
    ]

  def _counts(self, evaluation: Evaluation, sampling: str) -> list[int]:
    """Numbers of given modalities that a way of sampling is measured with."""
    num = len(evaluation.names)
    counts = self.num_given or range(1, num)
    if sampling != evaluation.main_sampling and not self.all_samplings:
      # Ways of sampling are compared on the extremes. A latent that all modalities
      # share is encoded, not sampled, as soon as any of them is given.
      shared = getattr(evaluation.model, 'latents_are_shared', False)
      counts = [] if shared or num < 2 else [num - 1]
    most = int(evaluation.present.sum(axis=1).max())
    return sorted((k for k in counts if k < most), reverse=True)

  def _measure(self, evaluation: Evaluation, sampling: str, count: int) -> list[Row]:
    """Rows of all sets of so many given modalities."""
    names, seed = evaluation.names, evaluation.plan.seed
    subsets, drawn = measured_subsets(len(names), count, self.max_subsets, seed)
    rows = Rows(evaluation, evaluation.sampling_fields(sampling, count))
    with Progress(f'evaluate given {count} [{sampling}]', len(subsets)) as progress:
      for number, given in enumerate(subsets):
        given_names = np.array(names)[given].tolist()
        common = {'given': given_names, 'num_given': count}
        positions, x = evaluation.generate(given, sampling)
        targets = evaluation.targets(x, positions)
        targets = {n: t for n, t in targets.items() if n not in given_names}
        rows.add(targets, positions, common, bool(drawn[number]))
        if drawn[number]:
          rows.compare(targets, positions, common)
        progress.update(number + 1)
    protocol = {'protocol': 'given the rest'} if count == len(names) - 1 else {}
    rows.average({'given': 'mean', 'num_given': count, **protocol})
    # The published curve: the last modality given the first ones (section 7.2).
    paired = metrics_of(evaluation, 'examples', 'pairs')
    curve = [
      row | {'given': 'incremental'}
      for row in rows.rows
      if row['given'] == list(names[:count])
      and row['target'] == names[-1]
      and row['metric'] in paired
    ]
    return rows.rows + curve


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstruction(Evaluator):
  """All metrics against the true example, of modalities encoded and decoded alone."""

  def measurements(self, evaluation: Evaluation) -> list[Measurement]:
    """See `Evaluator.measurements`."""
    model = evaluation.model
    if not hasattr(model, 'reconstruct'):
      evaluation.warn('the method does not reconstruct, so no reconstruction is made.')
      return []
    metrics = metrics_of(evaluation, 'examples', 'pairs', 'distributions', 'tuples')
    return [
      Measurement(
        name='reconstruction',
        uses=model.uses(None) | evaluation.reading_steps,
        options=evaluation.decoding_options() | evaluation.reading_options(),
        run=lambda: self._measure(evaluation),
        about={
          _reconstruction_name(name): {
            'about': f'Each modality is encoded and decoded alone. {metric.about}',
            'better': metric.better,
          }
          for name, metric in metrics.items()
        },
      )
    ]

  def _measure(self, evaluation: Evaluation) -> list[Row]:
    size, key = len(evaluation.rows), fold_in_name(evaluation.key, 'reconstruction')
    x = evaluation.inference.reconstruct(evaluation.encoded, key=key)
    targets = evaluation.targets(x)
    rows, compared = Rows(evaluation, {}, binomial=False), Rows(evaluation, {})
    rows.add(targets, np.arange(size), {})
    compared.compare(targets, np.arange(size), {})
    compared.average({})
    out = []
    for row in rows.rows + compared.rows:
      target = row['target']
      given = {} if target == 'mean' else {'given': [target], 'num_given': 1}
      out.append({**row, 'metric': _reconstruction_name(row['metric']), **given})
    complete = np.flatnonzero(evaluation.present.all(axis=1))
    if len(complete):
      tuples = {name: target.take(complete) for name, target in targets.items()}
      for row in tuple_rows(evaluation, tuples, {}):
        out.append(row | {'metric': _reconstruction_name(row['metric'])})
    return out


def _reconstruction_name(metric: str) -> str:
  return 'reconstruction' if metric == 'coherence' else f'reconstruction_{metric}'
