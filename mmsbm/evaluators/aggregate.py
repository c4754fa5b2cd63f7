"""From values of metrics to rows: single targets, means over targets and subsets.

All averages of one metric are taken here, so that they mean the same for each. Test
examples are the independent units: what was tried on the same ones is clustered.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mmsbm.evaluators.base import Row, is_number
from mmsbm.infra.errors import UserError
from mmsbm.metrics.averages import clustered_mean, macro_mean, share
from mmsbm.metrics.base import Estimate, Metric, OfSets, OfTuples, Target


def is_of_sets(metric: Metric) -> bool:
  return isinstance(metric, OfSets)


def is_of_tuples(metric: Metric) -> bool:
  return isinstance(metric, OfTuples)


def is_per_example(metric: Metric) -> bool:
  return not is_of_sets(metric) and not is_of_tuples(metric)


def values_of(
  name: str, metric: Metric, target: Target, positions: np.ndarray, size: int
) -> np.ndarray | None:
  """Values of a metric per example, at the places of the examples.

  Args:
    name: of the metric, for messages.
    metric: a `PerExample`.
    target: k examples.
    positions: of the k among the examples of the evaluation.
    size: n, their number.

  Returns:
    [n], NaN for those that do not count; bool if all do and the metric says shares.
    None where the metric does not apply.
  """
  values = metric(target)
  if values is None:
    return None
  values = np.asarray(values)
  if values.shape != (len(target),):
    raise UserError(
      f'metric {name!r} gave values of shape {values.shape} for {len(target)} examples.'
    )
  counted = target.present & ~np.isnan(values)
  if len(values) == size and counted.all():
    return values
  out = np.full(size, np.nan)
  out[positions[counted]] = values[counted]
  return out


def mean_of(
  values: np.ndarray, groups: np.ndarray | None = None
) -> tuple[float, float, int]:
  """Mean, standard error and number of examples of values [n] or [K, n], NaN not
  counted; with groups [n] the mean of the means of groups, see `macro_mean`."""
  counted = ~np.isnan(values)
  num = int(np.atleast_2d(counted).any(axis=0).sum())
  if groups is None:
    return *clustered_mean(values, counted), num
  times = np.atleast_2d(counted).sum(axis=0)
  total = np.atleast_2d(np.where(counted, values, 0.0)).sum(axis=0)
  usable = (times > 0) & (groups >= 0)
  if not usable.any():
    return float('nan'), float('nan'), 0
  value, stderr = macro_mean(total[usable] / times[usable], groups[usable])
  return value, stderr, int(usable.sum())


def mean_of_estimates(estimates: list[Estimate]) -> tuple[float, float | None]:
  """Mean of numbers of sets, and its standard error.

  Where all say how each example influences them, the error knows that they are of the
  same examples. Otherwise it is that of independent numbers.
  """
  value = float(np.mean([e.value for e in estimates]))
  if any(e.stderr is None for e in estimates):
    return value, None
  if all(e.influence is not None for e in estimates):
    total = np.sum([e.influence for e in estimates], axis=0)
    return value, float(np.sqrt(np.sum(total**2)) / len(estimates))
  squares = np.sum([e.stderr**2 for e in estimates])
  return value, float(np.sqrt(squares) / len(estimates))


def note_of(missing: Mapping[tuple[str, str], str]) -> Row:
  """The field that says which parts of an average could not be measured, and why.

  Args:
    missing: why, by target and by what stands behind it in a note, e.g. ' given m0'.
  """
  if not missing:
    return {}
  parts = [f'{"".join(part)} ({why})' for part, why in missing.items()]
  shown = '; '.join(parts[:4])
  more = f' and {len(missing) - 4} more' if len(missing) > 4 else ''
  return {'note': f'without {shown}{more}'}


@dataclasses.dataclass
class _Parts:
  """What an average is taken of.

  Attributes:
    values: arrays [n] of a metric per example, or estimates of one of sets.
    missing: why there is none, see `note_of`.
    groups: [n], see `PerExample`.
  """

  values: list = dataclasses.field(default_factory=list)
  missing: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)
  groups: np.ndarray | None = None

  def add(self, other: '_Parts') -> None:
    self.values += other.values
    self.missing |= other.missing
    if other.groups is not None:
      own = other.groups if self.groups is None else self.groups
      self.groups = np.maximum(own, other.groups)


class Rows:
  """Measures generated modalities by all metrics, and averages what was measured.

  Attributes:
    rows: those made so far.
  """

  def __init__(
    self,
    row: Callable[..., Row],
    metrics: Mapping[str, Metric],
    size: int,
    *,
    fields: Mapping[str, Any] | None = None,
    rename: Callable[[str], str] = str,
    binomial: bool = True,
  ):
    """Starts without rows.

    Args:
      row: makes one, see `Evaluation.row`.
      metrics: by name. Metrics of tuples are left to the evaluator.
      size: number n of examples of the evaluation.
      fields: stand in all rows.
      rename: from the name of a metric to that in rows.
      binomial: whether the error of a share of one target is computed as that of a
        share. Otherwise it is that of a mean, which is the same but for rounding.
    """
    self.rows: list[Row] = []
    self._row, self._metrics, self._size = row, metrics, size
    self._fields, self._rename, self._binomial = dict(fields or {}), rename, binomial
    # Of all subsets that count in averages: by metric, and by metric and fields.
    self._examples: dict[str, _Parts] = {}
    self._sets: dict[tuple, _Parts] = {}
    self._compared: set[tuple[str, str]] = set()

  def add(
    self,
    targets: Mapping[str, Target],
    positions: np.ndarray,
    fields: Callable[[str], Row],
    mean_fields: Row,
    *,
    where: str = '',
    counts: bool = True,
  ) -> None:
    """Measures modalities against the examples that they were generated for.

    Args:
      targets: by modality, of the same k examples.
      positions: of the k among the examples of the evaluation.
      fields: of the rows of one target, by its name.
      mean_fields: of the rows of means over targets.
      where: what notes call these targets, e.g. ' given m0'.
      counts: whether they count in averages over subsets.
    """
    for name, metric in self._metrics.items():
      if is_per_example(metric):
        parts = {(): self._values(name, metric, targets, positions, fields, where)}
        whole = self._examples
      elif is_of_sets(metric) and metric.paired:
        parts = self._estimates(name, metric, targets, positions, fields, where)
        whole = self._sets
      else:
        continue
      for key, part in parts.items():
        self._add_mean(name, key, part, mean_fields)
        if counts:
          whole.setdefault((name, *key), _Parts()).add(part)

  def compare(
    self,
    targets: Mapping[str, Target],
    positions: np.ndarray,
    fields: Row,
    where: str = '',
  ) -> None:
    """Compares distributions: of each target the first ones that can be compared.

    Args:
      targets: by modality, of the same k examples.
      positions: of the k among the examples of the evaluation.
      fields: of the rows.
      where: see `add`.
    """
    for name, metric in self._metrics.items():
      if not is_of_sets(metric) or metric.paired:
        continue
      new = {t: v for t, v in targets.items() if (name, t) not in self._compared}
      parts = self._estimates(name, metric, new, positions, lambda _: fields, where)
      for key, part in parts.items():
        self._sets.setdefault((name, *key), _Parts()).add(part)

  def average(self, fields: Row) -> None:
    """Adds the averages over all that was measured; `fields` stand in their rows."""
    for whole in (self._examples, self._sets):
      for (name, *key), part in whole.items():
        # A target that could not be compared may have been with another subset.
        seen = {t for metric, t in self._compared if metric == name}
        part.missing = {
          place: why for place, why in part.missing.items() if place[0] not in seen
        }
        self._add_mean(name, tuple(key), part, fields)

  def _add(self, metric: str, value, stderr, num, **fields) -> None:
    self.rows.append(
      self._row(self._rename(metric), value, stderr, **fields, **self._fields, n=num)
    )

  def _add_mean(self, name: str, key: tuple, part: _Parts, fields: Row) -> None:
    """Adds the mean over targets, or over targets and subsets."""
    if not part.values:
      return
    if isinstance(part.values[0], Estimate):
      value, stderr = mean_of_estimates(part.values)
      num = max(e.fields['n'] for e in part.values)
      fields = {**dict(key), **fields}
    else:
      value, stderr, num = mean_of(np.stack(part.values), part.groups)
    note = note_of(part.missing)
    self._add(name, value, stderr, num, target='mean', **fields, **note)

  def _values(self, name, metric, targets, positions, fields, where) -> _Parts:
    """Measures single targets by a metric per example."""
    parts = _Parts()
    for target_name, target in targets.items():
      values = values_of(name, metric, target, positions, self._size)
      if values is None:
        continue
      if hasattr(metric, 'groups'):
        parts.groups = np.full(self._size, -1)
        parts.groups[positions] = metric.groups(target)
      if parts.groups is None and values.dtype == bool and self._binomial:
        value, stderr, num = *share(values), self._size
      else:
        value, stderr, num = mean_of(values, parts.groups)
      if num:
        parts.values.append(values)
        self._add(name, value, stderr, num, target=target_name, **fields(target_name))
      else:
        parts.missing[target_name, where] = 'no example counts'
    return parts

  def _estimates(
    self, name, metric, targets, positions, fields, where
  ) -> dict[tuple, _Parts]:
    """Measures single targets by a metric of sets; by the fields of its numbers."""
    out: dict[tuple, _Parts] = {}
    for target_name, target in targets.items():
      num = int(target.present.sum())
      for estimate in metric(target.complete()):
        key = tuple(sorted(estimate.fields.items()))
        parts = out.setdefault(key, _Parts())
        if not is_number(estimate.value):
          parts.missing[target_name, where] = estimate.note or 'not measurable'
          continue
        if not metric.paired:
          self._compared.add((name, target_name))
        influence = estimate.influence
        if influence is not None:
          influence = np.zeros(self._size)
          influence[positions[target.present]] = estimate.influence
        parts.values.append(
          dataclasses.replace(estimate, influence=influence, fields={'n': num})
        )
        note = {'note': estimate.note} if estimate.note else {}
        self._add(
          name, estimate.value, estimate.stderr, num, target=target_name,
          **estimate.fields, **fields(target_name), **note,
        )  # fmt: skip
    return out
