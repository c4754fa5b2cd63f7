"""From values of metrics to rows: single targets, means over targets and subsets.

All averages are taken here, so that they mean the same for every metric. Test examples
are the independent units: what was tried on the same ones is clustered.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmsbm.evaluators.base import Row, is_number
from mmsbm.evaluators.evaluation import Evaluation
from mmsbm.infra.errors import UserError
from mmsbm.metrics.averages import clustered_mean, macro_mean, share
from mmsbm.metrics.base import Estimate, Metric, Target, kind_of

# The field of an average that holds what it is of, for each example of the evaluation.
# Files of measurements have it, results have not.
BY_EXAMPLE = 'by_example'


@dataclasses.dataclass(frozen=True)
class Number:
  """A metric of one target.

  Attributes:
    target: name of the modality.
    place: what stands behind it in a note, e.g. ' given m0'.
    estimate: the number; its influence is [size], of all examples of the evaluation.
    n: examples that count.
    missing: why it could not be measured, '' if it could.
    values: [size], NaN for examples that do not count; None of a metric of sets.
    groups: [size], see `PerExample`.
  """

  target: str
  place: str
  estimate: Estimate
  n: int
  missing: str
  values: np.ndarray | None = None
  groups: np.ndarray | None = None


def values_of(
  name: str, metric: Metric, target: Target, positions: np.ndarray, size: int
) -> np.ndarray | None:
  """Values of a `PerExample` [size], of a target with examples at `positions`.

  NaN for those that do not count; bool if all do and the metric says shares. None where
  the metric, which the user calls `name`, does not apply.
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
) -> tuple[float, float | None, int]:
  """Mean, standard error and number of examples of values [n] or [K, n], NaN not
  counted; with groups [n] the mean of the means of groups, see `macro_mean`."""
  counted = ~np.isnan(values)
  times = np.atleast_2d(counted).sum(axis=0)
  if groups is None:
    return *clustered_mean(values, counted), int((times > 0).sum())
  total = np.atleast_2d(np.where(counted, values, 0.0)).sum(axis=0)
  usable = (times > 0) & (groups >= 0)
  if not usable.any():
    return float('nan'), None, 0
  value, stderr = macro_mean(total[usable] / times[usable], groups[usable])
  return value, stderr, int(usable.sum())


def mean_of_one(values: np.ndarray) -> tuple[float, float | None, int]:
  """The same of values [n] of one target: the error of a share is that of shares."""
  return (*share(values), len(values)) if values.dtype == bool else mean_of(values)


def mean_of_estimates(estimates: Sequence[Estimate]) -> tuple[float, float | None]:
  """Mean of numbers of sets, and its standard error.

  Where all say how each example influences them, the error knows that they are of the
  same examples. Otherwise it is that of independent numbers.
  """
  value = float(np.mean([e.value for e in estimates]))
  if any(e.stderr is None for e in estimates):
    return value, None
  if all(e.influence is not None for e in estimates):
    errors = np.sum([e.influence for e in estimates], axis=0)
  else:
    errors = np.array([e.stderr for e in estimates])
  return value, float(np.sqrt(np.sum(errors**2)) / len(estimates))


def by_example(values: np.ndarray) -> list[float]:
  """Means [n] of values [K, n] over what counts (NaN does not), to four decimals."""
  counted = ~np.isnan(values)
  total = np.where(counted, values, 0.0).sum(axis=0)
  with np.errstate(invalid='ignore'):
    return np.round(total / counted.sum(axis=0), 4).tolist()


def compare_by_example(rows: Sequence[Row], known: dict[tuple, Any]) -> list[Row]:
  """Puts in the place of values by example what they say of another way of sampling.

  Averages of the first way of sampling, which is the run's own, come first. Those of
  the others get the `difference` from it, and its standard error `difference_stderr`:
  it is known better than either average, since hard examples are hard for both.

  Args:
    rows: of a measurement.
    known: values of the first way of sampling, to which those of these rows are added.
  """
  out = []
  for row in rows:
    row = dict(row)
    values = row.pop(BY_EXAMPLE, None)
    if values is not None:
      key = row['metric'], row['num_given']
      values = np.array(values, np.float64)
      first = known.setdefault(key, (row.get('sampling'), values))
      if first[0] != row.get('sampling'):
        value, stderr, _ = mean_of(values - first[1])
        row |= {'difference': value, 'difference_stderr': stderr}
    out.append(row)
  return out


def note_of(missing: Sequence[Number]) -> Row:
  """The field that says which parts of an average could not be measured, and why."""
  if not missing:
    return {}
  shown = '; '.join(f'{n.target}{n.place} ({n.missing})' for n in missing[:4])
  more = f' and {len(missing) - 4} more' if len(missing) > 4 else ''
  return {'note': f'without {shown}{more}'}


def _place(fields: Row) -> str:
  """What a note says of the given modalities."""
  return f' given {" and ".join(fields["given"])}' if fields.get('given') else ''


class Rows:
  """Measures generated modalities by all metrics, and averages what was measured.

  Attributes:
    rows: those made so far.
  """

  def __init__(self, evaluation: Evaluation, fields: Row, binomial: bool = True):
    """Starts without rows.

    Args:
      evaluation: says the metrics; those of tuples are left to the evaluator.
      fields: stand in all rows.
      binomial: whether the error of a share of one target is computed as that of a
        share. Otherwise it is that of a mean, which is the same but for rounding.
    """
    self.rows: list[Row] = []
    self._row, self._metrics = evaluation.row, evaluation.plan.metrics
    self._size, self._fields = len(evaluation.rows), fields
    self._mean = mean_of_one if binomial else mean_of
    # What counts in averages over subsets, by metric and fields.
    self._numbers: dict[tuple, list[Number]] = {}
    self._compared: set[tuple[str, str]] = set()

  def add(
    self,
    targets: Mapping[str, Target],
    positions: np.ndarray,
    fields: Row,
    counts: bool = True,
  ) -> None:
    """Measures modalities against the examples that they were generated for.

    Args:
      targets: by modality, of the same k examples.
      positions: of the k among the examples of the evaluation.
      fields: of the rows; `given` is what notes call these targets.
      counts: whether they count in averages over subsets.
    """
    for name, metric in self._metrics.items():
      if kind_of(metric) in ('examples', 'pairs'):
        numbers = self._measure(name, targets, positions, fields)
        for key, part in numbers.items():
          self._add_mean(key, part, fields)
          if counts:
            self._numbers.setdefault(key, []).extend(part)

  def compare(
    self, targets: Mapping[str, Target], positions: np.ndarray, fields: Row
  ) -> None:
    """Compares distributions: of each target the first ones that can be compared.

    Arguments are those of `add`.
    """
    for name, metric in self._metrics.items():
      if kind_of(metric) == 'distributions':
        new = {t: v for t, v in targets.items() if (name, t) not in self._compared}
        for key, part in self._measure(name, new, positions, fields).items():
          self._numbers.setdefault(key, []).extend(part)
          self._compared |= {(name, n.target) for n in part if not n.missing}

  def add_values(
    self,
    name: str,
    values: Mapping[str, np.ndarray],
    positions: np.ndarray,
    fields: Row,
  ) -> None:
    """Adds a metric whose values [k] are known, by target; see `add`."""
    numbers = []
    for target, part in values.items():
      spread = np.full(self._size, np.nan)
      spread[positions] = part
      numbers.append(self._number(spread, None, target, _place(fields)))
      if not numbers[-1].missing:
        estimate = numbers[-1].estimate
        self._add(name, target, estimate.value, estimate.stderr, numbers[-1].n, fields)
    if numbers:
      self._add_mean((name, ()), numbers, fields)
      self._numbers.setdefault((name, ()), []).extend(numbers)

  def average(self, fields: Row) -> None:
    """Adds the averages over all that was measured; `fields` stand in their rows."""
    # Metrics of examples come first.
    items = sorted(self._numbers.items(), key=lambda item: item[1][0].values is None)
    for key, numbers in items:
      # A target that could not be compared may have been with another subset.
      part = [
        n for n in numbers if not n.missing or (key[0], n.target) not in self._compared
      ]
      self._add_mean(key, part, fields)

  def _measure(
    self, name: str, targets: Mapping[str, Target], positions: np.ndarray, fields: Row
  ) -> dict[tuple, list[Number]]:
    """Adds the rows of single targets; their numbers by metric and fields."""
    place = _place(fields)
    metric, out = self._metrics[name], {}
    measure = self._examples if kind_of(metric) == 'examples' else self._sets
    for target_name, target in targets.items():
      for number in measure(name, metric, target, positions, target_name, place):
        estimate = number.estimate
        key = name, tuple(sorted(estimate.fields.items()))
        out.setdefault(key, []).append(number)
        if not number.missing:
          more = {'note': estimate.note} if estimate.note else {}
          more = {**estimate.fields, **fields, **more}
          self._add(name, target_name, estimate.value, estimate.stderr, number.n, more)
    return out

  def _examples(self, name, metric, target, positions, *place) -> list[Number]:
    values = values_of(name, metric, target, positions, self._size)
    if values is None:
      return []
    groups = None
    if hasattr(metric, 'groups'):
      groups = np.full(self._size, -1)
      groups[positions] = metric.groups(target)
    return [self._number(values, groups, *place)]

  def _number(self, values, groups, *place) -> Number:
    value, stderr, num = (
      self._mean(values) if groups is None else mean_of(values, groups)
    )
    missing = '' if num else 'no example counts'
    return Number(*place, Estimate(value, stderr), num, missing, values, groups)

  def _sets(self, name, metric, target, positions, *place) -> list[Number]:
    del name
    out, num = [], int(target.present.sum())
    for estimate in metric(target.complete()):
      is_measured = is_number(estimate.value)
      missing = '' if is_measured else estimate.note or 'not measurable'
      if estimate.influence is not None:
        influence = np.zeros(self._size)
        influence[positions[target.present]] = estimate.influence
        estimate = dataclasses.replace(estimate, influence=influence)
      out.append(Number(*place, estimate, num, missing))
    return out

  def _add_mean(self, key: tuple, numbers: list[Number], fields: Row) -> None:
    """Adds the mean over targets, or over targets and subsets."""
    measured = [n for n in numbers if not n.missing]
    if not measured:
      return
    groups, values = None, [n.values for n in measured if n.values is not None]
    if not values:
      value, stderr = mean_of_estimates([n.estimate for n in measured])
      num = max(n.n for n in measured)
    else:
      if measured[0].groups is not None:
        groups = np.max([n.groups for n in measured], axis=0)
      value, stderr, num = mean_of(np.stack(values), groups)
    if values and fields.get('given') == 'mean' and groups is None:
      fields = {**fields, BY_EXAMPLE: by_example(np.stack(values))}
    name, estimate_fields = key
    note = note_of([n for n in numbers if n.missing])
    fields = {**dict(estimate_fields), **fields, **note}
    self._add(name, 'mean', value, stderr, num, fields)

  def _add(self, name, target, value, stderr, num, fields: Row) -> None:
    fields = {'target': target, **fields, **self._fields, 'n': num}
    self.rows.append(self._row(name, value, stderr, **fields))
