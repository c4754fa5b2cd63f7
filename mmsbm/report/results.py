"""Rows of results.jsonl as tables: one panel for every metric that was measured."""

import dataclasses
import functools
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mmsbm.infra import metric_writer
from mmsbm.report import formats

# Fields that every table has; a file may have more.
FIELDS = (
  'metric', 'value', 'stderr', 'n', 'target', 'given', 'num_given', 'sampling',
  'sampler', 'conditioning', 'guidance', 'nfe', 'features', 'at_least', 'note', 'unit',
  'split',
)  # fmt: skip
# Fields that tell the samplings of a run apart.
SETTINGS = ('sampler', 'conditioning', 'guidance', 'nfe')
# Fields that say a value once more, for each dimension.
DETAILS = {'bits_per_dimension': 'bits per dimension', 'per_dimension': 'per dimension'}
# Shown first, in this order, where they were measured. Everything else follows.
FIRST = (
  'coherence', 'f1', 'accuracy', 'r2', 'mse', 'joint_coherence', 'frechet',
  'precision', 'recall',
)  # fmt: skip
# Spelling that a metric's name does not give.
TITLES = {'frechet': 'Fréchet distance', 'r2': 'R²', 'mse': 'Mean squared error'}
ACRONYMS = r'\b(f1|vae|mae|psnr|kl)\b'
# Directions of metrics in files that do not state them, such as results of studies.
LOW = ('frechet', 'mse')
MEAN = 'mean over targets'
ADDED = 'adding one by one'
TOGETHER = 'all together'


@dataclasses.dataclass(frozen=True)
class Number:
  """A value with its standard error and the number of examples behind it.

  Attributes:
    value: None if it is not finite.
    stderr: None if it is not known.
    n: None if it is not known, or not the same for all that was averaged.
    averaged: how many rows it is the plain average of.
    best: whether nothing that it is compared with is better.
    detail: the value in other units, if the row has it.
    nfe: network evaluations per sample, where something was generated.
  """

  value: float | None
  stderr: float | None = None
  n: int | None = None
  averaged: int = 1
  best: bool = False
  detail: str = ''
  nfe: int | None = None

  @property
  def text(self) -> str:
    return formats.format_number(self.value, self.stderr).partition(' ± ')[0]

  @property
  def error(self) -> str:
    return formats.format_number(self.value, self.stderr).partition(' ± ')[2]


def read_rows(path: str | os.PathLike) -> pd.DataFrame:
  """Reads results.jsonl, with `FIELDS` as columns and None for what a row lacks.

  The column `given` holds tuples of names or words; `count` is the number of other
  modalities that were given, None where that has no meaning. Where the test split was
  evaluated only it is returned, and rows that repeat a measurement replace it.

  Raises:
    UserError: a line of the file is damaged.
  """
  read = metric_writer.read_jsonl(path)
  rows = to_frame([row for row in read if isinstance(row.get('metric'), str)])
  rows['given'] = [tuple(g) if isinstance(g, list) else g for g in rows.given]
  rows['count'] = pd.Series(map(_count, rows.to_dict('records')), dtype=object)
  splits = list(rows.split)
  if splits:
    shown = 'test' if 'test' in splits else splits[-1]
    rows = rows[[split == shown for split in splits]]
  same = ['metric', 'target', 'given', 'num_given', 'sampling', 'features', 'at_least']
  return rows.drop_duplicates(same, keep='last').reset_index(drop=True)


def to_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
  """Rows as a table with at least `FIELDS`, and None for what a row lacks."""
  names = dict.fromkeys([*FIELDS, *(name for row in rows for name in row)])
  frame = pd.DataFrame(rows, columns=list(names), dtype=object)
  return frame.where(frame.notna(), None)


def _count(row: Mapping[str, Any]) -> int | None:
  is_own = isinstance(row['given'], tuple) and row['target'] in row['given']
  return (
    row['num_given'] if formats.is_finite(row['num_given']) and not is_own else None
  )


def title(metric: str, features: str | None = None, given: str | None = None) -> str:
  """Names a metric in a heading; FID is only the distance of Inception features."""
  words = metric.replace('_', ' ')
  words = re.sub(ACRONYMS, lambda match: match.group().upper(), words)
  name = given or TITLES.get(metric, words[:1].upper() + words[1:])
  if metric == 'frechet' and features == 'inception':
    return 'FID (Inception features)'
  return f'{name} ({features} features)' if features else name


def given_label(count: int | None, num_modalities: int) -> str:
  """Says how many modalities were given: 'nothing', '2', '3 (rest)' or 'value'."""
  words = {num_modalities: f'{count} (all)', num_modalities - 1: f'{count} (rest)'}
  return {None: 'value', 0: 'nothing'}.get(count) or words.get(count, f'{count}')


@dataclasses.dataclass(frozen=True)
class Panel:
  """Everything that was measured of one metric with one reader's features.

  Attributes:
    metric: its name in the rows.
    features: name of the reader, or None.
    rows: of one sampling, or of none.
    about: what evaluation/metrics.json says: `about`, `better`, perhaps `title`.
    modalities: names in the order of the config.
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
    return self.about.get('better') or ('low' if self.metric in LOW else None)

  @property
  def is_generated(self) -> bool:
    return self.rows.sampling.notna().any()

  @property
  def notes(self) -> list[str]:
    return list(dict.fromkeys(self.rows.note.dropna()))

  @property
  def units(self) -> str:
    return ', '.join(dict.fromkeys(self.rows.unit.dropna().map(str)))

  @property
  def levels(self) -> dict[int, Number]:
    """Numbers of a metric that is stated for several thresholds `at_least`."""
    return {
      int(r.at_least): number(r)
      for r in self.rows.dropna(subset='at_least').itertuples()
    }

  @functools.cached_property
  def lines(self) -> dict[str, dict[int | None, Number]]:
    """Name of a line -> number of given modalities -> number; the mean comes first.

    A measured mean over subsets of given modalities wins. Where only single subsets
    were measured it is their plain average, without an error, as they share examples.
    """
    lines: dict[str, dict] = {}
    named = self.rows.assign(line=[_line(row) for row in self.rows.itertuples()])
    for (line, count), part in named.groupby(
      ['line', 'count'], sort=False, dropna=False
    ):
      means = part[[not isinstance(given, tuple) for given in part.given]]
      count = None if pd.isna(count) else int(count)
      lines.setdefault(line, {})[count] = (
        number(means.iloc[-1])
        if len(means)
        else average([*map(number, part.itertuples())])
      )
    targets = [line for line in lines if line not in (MEAN, ADDED)]
    if MEAN in lines and len(targets) == 1:
      # The mean over one target is that target.
      lines[targets[0]] |= lines.pop(MEAN)
    order = [MEAN, *self.modalities, *targets, ADDED]
    return {
      line: dict(
        sorted(lines[line].items(), key=lambda item: (item[0] is None, item[0]))
      )
      for line in dict.fromkeys(order)
      if line in lines
    }

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
  value, stderr, n, nfe = (
    x if formats.is_finite(x) else None for x in (row.value, row.stderr, row.n, row.nfe)
  )
  detail = ', '.join(
    f'{formats.format_number(getattr(row, field))} {words}'
    for field, words in DETAILS.items()
    if formats.is_finite(getattr(row, field, None))
  )
  return Number(value, stderr, n, detail=detail, nfe=nfe)


def average(numbers: Sequence[Number]) -> Number:
  """The plain average; of one number, that number."""
  if len(numbers) == 1:
    return numbers[0]
  values = [x.value for x in numbers]
  mean = None if None in values else sum(values) / len(values)
  sizes, costs = {x.n for x in numbers}, {x.nfe for x in numbers}
  n, nfe = (x.pop() if len(x) == 1 else None for x in (sizes, costs))
  return Number(mean, None, n, len(numbers), nfe=nfe)


def mark_best(numbers: Mapping[Any, Number | None], better: str | None) -> dict:
  """Marks the best of numbers that differ; `better` is 'high', 'low' or unknown."""
  values = [x.value for x in numbers.values() if x is not None and x.value is not None]
  if better not in ('high', 'low') or len(set(values)) < 2:
    return dict(numbers)
  best = max(values) if better == 'high' else min(values)
  return {
    key: x if x is None else dataclasses.replace(x, best=x.value == best)
    for key, x in numbers.items()
  }


def make_panels(
  rows: pd.DataFrame,
  about: Mapping[str, Mapping[str, str]],
  modalities: Sequence[str],
  sampling: str | None,
) -> list[Panel]:
  """One panel for each metric, of one sampling and of what needs none."""
  shown = rows[rows.sampling.isna() | (rows.sampling == sampling)]
  panels = [
    Panel(metric, features or None, part, about.get(metric) or {}, tuple(modalities))
    for (metric, features), part in shown.groupby(
      ['metric', shown.features.fillna('')], sort=False
    )
  ]

  def rank(panel):
    known = FIRST.index(panel.metric) if panel.metric in FIRST else len(FIRST)
    return not panel.is_generated, known

  return sorted(panels, key=rank)


def samplings(rows: pd.DataFrame) -> dict[str, dict[str, str]]:
  """Name of a sampling -> its settings; the run's own comes first.

  The number of network evaluations may depend on how much is given: a range.
  """
  settings = {}
  for name, part in rows.dropna(subset='sampling').groupby('sampling', sort=False):
    costs = sorted({int(nfe) for nfe in part.nfe if formats.is_finite(nfe)})
    words = {key: formats.short(str(part[key].iloc[0] or '')) for key in SETTINGS[:3]}
    words['nfe'] = f'{costs[0]:,}' if costs else ''
    words['nfe'] += f' to {costs[-1]:,}' if len(costs) > 1 else ''
    settings[name] = words
  return dict(sorted(settings.items(), key=lambda item: item[0] != 'default'))


def compare_samplings(
  rows: pd.DataFrame, about: Mapping, modalities: Sequence[str]
) -> list[tuple[Panel, str, int | None, dict[str, Number | None]]]:
  """Averages that several samplings have: (panel, line, count, {sampling: number})."""
  names, compared = list(samplings(rows)), {}
  for name in names:
    generated = rows[rows.sampling == name]
    for panel in make_panels(generated, about, modalities, name):
      for line, numbers in panel.main.items():
        for count, value in numbers.items():
          key = (panel.key, line, count)
          compared.setdefault(key, (panel, line, count, {}))[3][name] = value
  return [
    (panel, line, count, mark_best({n: values.get(n) for n in names}, panel.better))
    for panel, line, count, values in compared.values()
    if len(values) > 1
  ]


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
  )
