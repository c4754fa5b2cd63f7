"""Rows of results.jsonl as tables: one panel for every metric that was measured."""

import dataclasses
import functools
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mmsbm.infra import metric_writer
from mmsbm.infra.errors import UserError
from mmsbm.report import formats

# Fields that every table has; a file may have more.
FIELDS = (
  'metric', 'value', 'stderr', 'n', 'target', 'given', 'num_given', 'sampling',
  'sampler', 'conditioning', 'guidance', 'nfe', 'features', 'at_least', 'note', 'unit',
  'split', 'step',
)  # fmt: skip
NUMBERS = ('value', 'stderr', 'n', 'num_given', 'nfe', 'at_least', 'step')
# Fields that tell the samplings of a run apart.
SETTINGS = ('sampler', 'conditioning', 'guidance', 'nfe')
# Fields that say a value once more, for each dimension.
DETAILS = {'bits_per_dimension': 'bits per dimension', 'per_dimension': 'per dimension'}
# Shown first, in this order, where they were measured. Everything else follows.
FIRST = (
  'coherence', 'f1', 'accuracy', 'r2', 'mse', 'joint_coherence', 'frechet',
  'precision', 'recall', 'variance_ratio', 'brier', 'log_score', 'target_agreement',
  'target_agreement_apart', 'class_balance_kl',
)  # fmt: skip
# How people write what stands in the name of a metric.
WORDS = {
  'f1': 'F1', 'r2': 'R²', 'mse': 'mean squared error', 'frechet': 'Fréchet distance',
  'log likelihood': 'log-likelihood', 'macro': '(macro average)', 'vae': 'VAE',
  'with first': 'with the first modality', 'mae': 'MAE', 'psnr': 'PSNR', 'kl': 'KL',
}  # fmt: skip
# Directions of metrics in files that do not state them, such as results of studies.
LOW = ('frechet', 'mse', 'brier', 'log_score', 'class_balance_kl')
ONE = ('variance_ratio',)
MEAN = 'mean over targets'
ADDED = 'adding one by one'
TOGETHER = 'all together'


@dataclasses.dataclass(frozen=True)
class Number:
  """A value with its standard error and the number of examples behind it.

  None is what is not known, not finite or, of an average (over `averaged` rows), not
  the same for all. `best` marks the best of those it is compared with, `detail` is the
  value in other units, `nfe` network evaluations per sample, `heat` % of colour.
  """

  value: float | None
  stderr: float | None = None
  n: int | None = None
  averaged: int = 1
  best: bool = False
  detail: str = ''
  nfe: int | None = None
  heat: int | None = None

  def __str__(self) -> str:
    return formats.format_number(self.value, self.stderr)

  @property
  def parts(self) -> list[str]:
    """The value and, if there is one, its error."""
    return str(self).split(' ± ')


def read_rows(path: str | os.PathLike) -> pd.DataFrame:
  """Reads results.jsonl, with `FIELDS` as columns and None for what a row lacks.

  `given` holds tuples of names or words, `count` the number of other modalities that
  were given. Of splits, test wins; of rows that repeat a measurement the last one.

  Raises:
    UserError: the file is not what was written.
  """
  measured = metric_writer.read_results(path)
  for row in measured:
    _check_row(row, path)
  rows = to_frame(measured).dropna(subset='metric')
  if 'test' in set(rows.split):
    rows = rows[rows.split == 'test']
  rows['given'] = [tuple(g) if isinstance(g, list) else g for g in rows.given]
  own = [isinstance(r.given, tuple) and r.target in r.given for r in rows.itertuples()]
  rows['count'] = rows.num_given.where(~np.array(own, bool), None)
  same = ['metric', 'target', 'given', 'num_given', 'sampling', 'features', 'at_least']
  return rows.drop_duplicates(same, keep='last')


def _check_row(row: Mapping[str, Any], path: str | os.PathLike) -> None:
  """Refuses values of another kind, in files that nothing says the digest of."""
  for name in FIELDS:
    value = row.get(name)
    if name in NUMBERS:
      is_right = isinstance(value, int | float)
    elif name == 'given' and isinstance(value, list):
      is_right = all(isinstance(v, str) for v in value)
    else:
      is_right = isinstance(value, str)
    if value is not None and not is_right:
      raise UserError(
        f'{path}: a row has {name}={value!r:.40}: --mode=evaluate writes it anew.'
      )


def to_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
  """Rows as a table with at least `FIELDS`, and None for what a row lacks."""
  names = dict.fromkeys([*FIELDS, *(name for row in rows for name in row)])
  frame = pd.DataFrame(rows, columns=list(names), dtype=object)
  return frame.where(frame.notna(), None)


def title(metric: str, features: str | None = None, given: str | None = None) -> str:
  """Names a metric in a heading; FID is only the distance of Inception features."""
  if metric == 'frechet' and features == 'inception':
    return 'FID (Inception features)'
  pattern = rf'\b({"|".join(WORDS)})\b'
  name = re.sub(pattern, lambda match: WORDS[match[0]], metric.replace('_', ' '))
  name = given or name[:1].upper() + name[1:]
  return f'{name} ({features} features)' if features else name


def given_label(count: int | None, num_modalities: int) -> str:
  """Says how many modalities were given: 'given nothing', 'given 2 (rest)', 'value'."""
  words = {num_modalities: ' (all)', num_modalities - 1: ' (rest)'}
  fixed = {None: 'value', 0: 'given nothing'}
  return fixed.get(count) or f'given {count}{words.get(count, "")}'


@dataclasses.dataclass(frozen=True)
class Panel:
  """All `rows` of one metric, with one reader's features, of one sampling or of none.

  `about` is what evaluation/metrics.json says: `about`, `better`, perhaps `title`.
  """

  metric: str
  features: str | None
  rows: pd.DataFrame
  about: Mapping[str, str]
  modalities: Sequence[str] = ()

  @property
  def title(self) -> str:
    return title(self.metric, self.features, self.about.get('title'))

  @property
  def key(self) -> str:
    return re.sub(r'\W+', '-', f'metric-{self.metric}-{self.features or ""}').strip('-')

  @property
  def better(self) -> str | None:
    if self.metric in LOW + ONE:
      return direction(self.metric)
    return self.about.get('better')

  @property
  def is_generated(self) -> bool:
    return self.rows.sampling.notna().any()

  @property
  def levels(self) -> dict[int, Number]:
    """Numbers of a metric that is stated for several thresholds `at_least`."""
    rows = self.rows.dropna(subset='at_least').itertuples()
    return {int(row.at_least): number(row) for row in rows}

  @functools.cached_property
  def lines(self) -> dict[str, dict[int | None, Number]]:
    """Name of a line -> number of given modalities -> number; the mean comes first.

    Where a mean over subsets was not measured, their plain average stands for it.
    """
    lines: dict[str, dict] = {}
    keys = [list(map(_line, self.rows.itertuples())), self.rows['count']]
    for (line, count), part in self.rows.groupby(keys, sort=False, dropna=False):
      means = part[[not isinstance(given, tuple) for given in part.given]]
      count = None if pd.isna(count) else int(count)
      lines.setdefault(line, {})[count] = average(means.tail(1) if len(means) else part)
    targets = [line for line in lines if line not in (MEAN, ADDED)]
    if MEAN in lines and len(targets) == 1:
      # The mean over one target is that target.
      lines[targets[0]] |= lines.pop(MEAN)
    order = dict.fromkeys([MEAN, *self.modalities, *targets, ADDED])
    return {line: lines[line] for line in order if line in lines}

  @property
  def main(self) -> dict[str, dict[int | None, Number]]:
    """The lines of a summary: the mean over targets, or else all of them.

    Of thresholds the last one counts, which is the strictest.
    """
    for line in (MEAN, TOGETHER):
      if line in self.lines:
        return {line: self.lines[line]}
    lines = [(name, line) for name, line in self.lines.items() if name != ADDED]
    return dict(lines[-1:] if self.levels else lines)

  @property
  def pairs(self) -> dict[str, dict[str, Number]]:
    """Given exactly one modality: source -> target -> number."""
    pairs: dict[str, dict[str, Number]] = {}
    for row in self.rows.itertuples():
      is_pair = isinstance(row.given, tuple) and len(row.given) == 1
      if is_pair and row.target in self.modalities and row.target not in row.given:
        pairs.setdefault(row.given[0], {})[row.target] = number(row)
    return {name: pairs[name] for name in self.modalities if name in pairs}


def _line(row) -> str:
  if row.given == 'incremental':
    return ADDED
  if row.at_least is not None:
    return f'at least {row.at_least} agree'
  return {'mean': MEAN, None: 'value', 'all': TOGETHER}.get(row.target, row.target)


def number(row) -> Number:
  """The number of a row, whose fields are attributes."""

  def known(field):
    x = getattr(row, field, None)
    return x if formats.is_finite(x) else None

  detail = ', '.join(
    f'{formats.format_number(known(field))} {words}'
    for field, words in DETAILS.items()
    if known(field) is not None
  )
  return Number(*map(known, ('value', 'stderr', 'n')), detail=detail, nfe=known('nfe'))


def average(rows: pd.DataFrame, over_seeds: bool = False) -> Number:
  """The plain mean over rows; of one row, or of equal counts of all seeds, its number.

  Only a mean over seeds has an error, of which two parts are known: that over seeds,
  and that over test examples, which are the same for all seeds and stay however many
  there are. Subsets share their examples.
  """
  first, values = number(rows.iloc[0]), pd.to_numeric(rows.value, errors='coerce')
  is_count = over_seeds and values.nunique() == 1 and rows.stderr.isna().all()
  if len(rows) == 1 or is_count:
    return dataclasses.replace(first, averaged=len(rows))
  n, nfe = (
    getattr(first, key) if rows[key].nunique(dropna=False) == 1 else None
    for key in ('n', 'nfe')
  )
  tested = pd.to_numeric(rows.stderr, errors='coerce').fillna(0.0)
  stderr = np.sqrt(values.var(skipna=False) / len(rows) + (tested**2).mean())
  numbers = [values.mean(skipna=False), stderr][: 1 + over_seeds]
  numbers = [float(x) if formats.is_finite(x) else None for x in (*numbers, None)][:2]
  return Number(*numbers, n, len(rows), nfe=nfe)


def direction(metric: str) -> str:
  """Whether 'high', 'low' or 'one' is good, of metrics whose files do not say."""
  return 'low' if metric in LOW else 'one' if metric in ONE else 'high'


def mark_best(
  numbers: Mapping[Any, Number | None],
  better: str | None,
  real: Number | None = None,
) -> dict:
  """Marks the best of numbers that differ, and what lies within two errors of it.

  The error is that of a difference of independent numbers: of numbers of the same test
  examples it is rather smaller, so that more is marked than need be.

  Args:
    numbers: to be compared.
    better: 'high', 'low', 'one' (the nearer to 1) or unknown.
    real: that of real data; what is beyond it counts as equal to it.
  """
  values = {x.value for x in numbers.values() if x and x.value is not None}
  if better not in ('high', 'low', 'one') or len(values) < 2:
    return dict(numbers)
  sign = {'high': 1, 'low': -1}.get(better)
  limit = real.value * sign if sign and real and real.value is not None else math.inf

  def score(x: Number) -> float:
    return min(sign * x.value, limit) if sign else -abs(x.value - 1)

  known = {key: x for key, x in numbers.items() if x and x.value is not None}
  best = max(known.values(), key=score)

  def is_best(x: Number) -> bool:
    error = math.hypot(x.stderr or 0.0, best.stderr or 0.0)
    return score(best) - score(x) <= 2 * error

  marked = {k: dataclasses.replace(x, best=is_best(x)) for k, x in known.items()}
  return dict(numbers) | marked


def make_panels(
  rows: pd.DataFrame,
  about: Mapping[str, Mapping[str, str]],
  modalities: Sequence[str],
  sampling: str | None,
) -> list[Panel]:
  """One panel for each metric, of one sampling and of what needs none."""
  shown = rows[rows.sampling.isna() | (rows.sampling == sampling)]
  keys = ['metric', shown.features.fillna('')]
  panels = [
    Panel(metric, features or None, part, about.get(metric) or {}, tuple(modalities))
    for (metric, features), part in shown.groupby(keys, sort=False)
  ]
  rank = {metric: i for i, metric in enumerate(FIRST)}
  panels.sort(key=lambda p: (not p.is_generated, rank.get(p.metric, len(rank))))
  return panels


def samplings(rows: pd.DataFrame) -> dict[str, dict[str, str]]:
  """Name of a sampling -> its settings; the run's own comes first.

  The number of network evaluations may depend on how much is given: a range.
  """
  settings = {}
  for name, part in rows.groupby('sampling', sort=False):
    costs = part.nfe.dropna()
    words = {key: formats.short(str(part[key].iloc[0] or '')) for key in SETTINGS[:3]}
    ends = dict.fromkeys([costs.min(), costs.max()]) if len(costs) else ()
    settings[name] = words | {'nfe': ' to '.join(f'{int(cost):,}' for cost in ends)}
  return dict(sorted(settings.items(), key=lambda item: item[0] != 'default'))


def family(settings: Mapping[str, Any]) -> str:
  """A sampler without its number of steps, with conditioning and guidance."""
  pattern = r'\b(num_steps|num_levels)=\d+(, )?'
  sampler = re.sub(pattern, '', str(settings.get('sampler'))).replace(', )', ')')
  parts = sampler, settings.get('conditioning'), settings.get('guidance')
  return ', '.join(formats.short(part) for part in parts if part)


def is_average(row: Mapping[str, Any], num_modalities: int) -> bool:
  """Tells averages over targets and subsets, which studies keep, from their parts."""
  return (
    row.get('metric') != 'joint_coherence_with_first'
    and row.get('target') in (None, 'mean', 'all')
    and row.get('given') in (None, [], 'mean')
    and row.get('at_least') in (None, num_modalities)
    # Of several draws there is a mean beside what is of all targets at once.
    and not (row.get('target') == 'all' and 'num_draws' in row)
  )
