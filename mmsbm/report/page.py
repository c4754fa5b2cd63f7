"""The page of a run: what its files hold, arranged for the template."""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from mmsbm.infra import files
from mmsbm.report import figures, formats, references, results
from mmsbm.report.folder import RunFolder, read_run
from mmsbm.report.results import Number, Panel
from mmsbm.report.tables import Table

# The full table of numbers stops here; results.jsonl holds the rest.
MAX_ROWS = 1500
# Numbers of given modalities that a summary has room for.
MAX_COUNTS = 8
# Panels of one step of the training: the loss and its largest parts.
MAX_TERMS = 6
# Lines of a summary that need no name.
UNNAMED = (results.MEAN, 'value')
ARROWS = {
  'high': Markup('<span class="badge" title="higher is better">↑</span>'),
  'low': Markup('<span class="badge" title="lower is better">↓</span>'),
  'one': Markup('<span class="badge" title="1 is best">→1</span>'),
}


def write_report(workdir: str | os.PathLike) -> pathlib.Path:
  """Writes report/index.html from the files of a run, finished or not.

  Args:
    workdir: folder with run.json, metrics.jsonl, results.jsonl,
      evaluation/metrics.json and samples/*.json; each may be missing.

  Returns:
    Path of the page. It refers to nothing outside itself.

  Raises:
    UserError: there is no such folder.
  """
  run = read_run(workdir)
  path = run.path / 'report' / 'index.html'
  files.write_atomic(path, render('run.html.j2', **_context(run)))
  return path


def render(template: str, **context: Any) -> str:
  """Fills a template; whatever came from a file is escaped."""
  return _environment().get_template(template).render(**context)


@functools.cache
def _environment() -> jinja2.Environment:
  return jinja2.Environment(
    loader=jinja2.PackageLoader('mmsbm.report'), autoescape=True, trim_blocks=True,
    lstrip_blocks=True, undefined=jinja2.StrictUndefined,
  )  # fmt: skip


def _heading(panel: Panel, words: str = '') -> Markup:
  """The first cell of a line: a link to the metric, and its direction."""
  link = Markup('<a href="#{}">{}</a>').format(panel.key, panel.title)
  return link + (f', {words}' if words else '') + ARROWS.get(panel.better, '')


def _table(lines: Sequence[tuple[Any, Mapping]], total: int, most=None) -> Table:
  """Lines of {number of given modalities: number}; of many counts `most` are shown."""
  counts = sorted({c for _, line in lines for c in line if c is not None})
  if most and len(counts) > most:
    at = np.linspace(0, len(counts) - 1, most).round().astype(int)
    counts = [counts[i] for i in at]
  counts += [None] if any(None in line for _, line in lines) else []
  head = ['', *(results.given_label(count, total) for count in counts)]
  return Table(head, [[name, *map(line.get, counts)] for name, line in lines])


def _summary(panels: Sequence[Panel], total: int, plain: Sequence[Panel] = ()) -> Table:
  """The main lines of panels in few columns, beside what `plain` says of real data."""
  lines = [(p, name, line) for p in panels for name, line in p.main.items()]
  headed = [
    (_heading(p, name if name not in UNNAMED else ''), x) for p, name, x in lines
  ]
  table, beside = _table(headed, total, MAX_COUNTS), []
  for cells, (panel, name, line) in zip(table.lines, lines, strict=True):
    sizes = sorted({number.n for number in line.values() if number.n is not None})
    cells.append(' to '.join(dict.fromkeys(f'{n:,}' for n in sizes[:1] + sizes[-1:])))
    beside.append(references.references_of(panel, name, plain))
  table.head.append('n')
  for caption in (references.REAL, references.HALF, references.RECONSTRUCTED):
    if any(caption in numbers for numbers in beside):
      table.head.insert(-1, caption)
      for cells, numbers in zip(table.lines, beside, strict=True):
        cells.insert(-1, numbers.get(caption) or '')
  return table


def _panel(panel: Panel, total: int) -> dict[str, Any]:
  """The card of one metric: figure, table, and sources against targets."""
  lines, pairs = panel.lines, panel.pairs
  counted = {
    name: {count: x for count, x in line.items() if count is not None}
    for name, line in lines.items()
  }
  counted = {name: line for name, line in counted.items() if line}
  labels = {'xlabel': 'number of given modalities', 'ylabel': panel.title}
  if len(panel.levels) > 2:
    counted = {panel.title: panel.levels}
    labels = dict(xlabel='modalities that agree, at least', ylabel='share of samples')
  has_curve = any(len(line) > 1 for line in counted.values())
  targets = [m for m in panel.modalities if any(m in line for line in pairs.values())]
  # Some metrics are measured for one source of each target only.
  if sum(map(len, pairs.values())) <= len(targets):
    pairs = {}
  cells = [[s, *map(line.get, targets)] for s, line in pairs.items()]
  return {
    'panel': panel,
    'figure': figures.curves({'': counted}, **labels) if has_curve else '',
    'table': _table(list(lines.items()), total),
    'pairs': Table(['given', *targets], _heated(cells, panel.better)),
    'averaged': any(x.averaged > 1 for line in lines.values() for x in line.values()),
  }


def _heated(lines: Sequence[Sequence], better: str | None) -> list[list]:
  """Numbers in colour: the better, the more."""
  values = [x.value for _, *line in lines for x in line if x and x.value is not None]
  low, high = min([0.0, *values]), max([*values, 1.0 if better != 'low' else 0.0])

  def heated(x: Number | None) -> Number | None:
    if x is None or x.value is None or high == low:
      return x
    gain = high - x.value if better == 'low' else x.value - low
    return dataclasses.replace(x, heat=round(60 * gain / (high - low)))

  return [[name, *map(heated, line)] for name, *line in lines]


def _comparison(run: RunFolder, settings: Mapping) -> dict[str, Any] | None:
  """All samplings: their averages, and curves over network evaluations."""
  lines, frames = [], {}
  compared = references.compare_samplings(run.rows, run.about, run.modalities)
  for panel, line, count, numbers in compared:
    words = [] if line in UNNAMED or panel.levels else [line]
    words += [] if count is None else [results.given_label(count, len(run.modalities))]
    lines.append([_heading(panel, ', '.join(words)), *numbers.values()])
    points: dict[str, dict] = {}
    for name, x in numbers.items():
      if x and x.nfe:
        points.setdefault(results.family(settings[name]), {})[x.nfe] = x
    points = {name: line for name, line in points.items() if len(line) > 1}
    if points and len(frames) < MAX_TERMS:
      frames[f'{panel.title} {" ".join(words)}'] = points
  xlabel = 'network evaluations per sample'
  figure = figures.curves(frames, xlabel=xlabel, is_log=True) if frames else ''
  return {'table': Table(['', *settings], lines), 'figure': figure} if lines else None


def _every_number(rows: pd.DataFrame) -> Table:
  """The folded table of all rows; what all of them share is said once."""
  hidden = ['count', 'value', 'stderr', 'n', 'metric', *results.SETTINGS]
  words = rows.drop(columns=hidden).dropna(axis=1, how='all').map(_words)
  is_shared = (words.nunique() == 1) & (len(rows) > 1)
  note = ', '.join(f'{name} {words[name].iloc[0]}' for name in words.columns[is_shared])
  words = words.loc[:, ~is_shared].head(MAX_ROWS)
  lines = [
    [row.metric, results.number(row), *line]
    for row, line in zip(rows.itertuples(), words.to_numpy().tolist(), strict=False)
  ]
  return Table(['metric', 'value', *words], lines, note)


def _words(value: Any) -> str:
  if isinstance(value, tuple):
    return ', '.join(value) or 'nothing'
  empty = value is None or value == ''
  return '–' if empty else f'{value:.6g}' if isinstance(value, float) else str(value)


def _training(run: RunFolder) -> list[Markup]:
  """Figures of each step of the training: the loss first, then its parts."""
  skip = ['step', 'learner', 'time', 'steps_per_second', 'best_step']
  steps, out = run.curves.learner.map(lambda name: name.partition('/')[0]), []
  for name, part in run.curves.groupby(steps, sort=False):
    terms = part.dropna(axis=1, how='all').columns.drop(skip, errors='ignore')
    own = [term for term in terms if not term.startswith('held_out_')]
    for term in sorted(own, key=lambda term: term != 'loss')[:MAX_TERMS]:
      series = {}
      for words, column in (('', term), (', held out', f'held_out_{term}')):
        known = part.dropna(subset=column) if column in terms else part[:0]
        for learner, rows in known.groupby('learner', sort=False):
          short = learner.partition('/')[2] or learner
          series[short + words] = rows.set_index('step')[column].sort_index()
      out.append(figures.training(f'{name}: {term}', series))
  return out


def _learners(run: RunFolder) -> Table:
  parameters = run.record.get('parameters') or {}
  columns = ['learner', 'step', 'loss', 'best_step', 'steps_per_second']
  curves = run.curves.reindex(columns=columns)
  curves = dict(iter(curves.groupby('learner', sort=False)))
  lines = []
  for learner in dict.fromkeys([*parameters, *curves]):
    numbers = [parameters.get(learner), None, None, None, None]
    if learner in curves:
      rows = curves[learner]
      loss = figures.smooth(rows.loss.dropna()).tail(1)
      kept = rows.best_step.dropna().max()
      numbers[1:3] = int(rows.step.max()), None if pd.isna(kept) else int(kept)
      numbers[3:] = *loss, rows.steps_per_second.median()
    lines.append([learner, *(Number(x) if pd.notna(x) else None for x in numbers)])
  head = ['learner', 'parameters', 'steps', 'kept step', 'last loss, smoothed']
  return Table([*head, 'steps per second, median'], lines)


def _chips(run: RunFolder, seconds: float) -> list[str]:
  """What the run is, in a few words."""
  config, rows, names = run.config, run.rows, run.modalities
  shown = f': {", ".join(names)}' if 0 < len(names) <= 8 else ''
  said = {
    '{}': config.get('method'),
    'preset {}': config.get('preset'),
    '{} modalities' + shown: len(names),
    'seed {}': run.record.get('seed'),
    '{} split': next(iter(rows.split.dropna()), None),
    'step {:,}': next(iter(rows.step.dropna()), None),
  }
  chips = [form.format(x) for form, x in said.items() if x not in (None, '')]
  return chips + ([formats.format_seconds(seconds)] if seconds else [])


def _facts(run: RunFolder) -> dict[str, str]:
  """What was run, where, and at which price."""
  record = run.record
  sample, parameters = record.get('seconds_per_sample'), record.get('parameters')
  if sample:
    number = formats.format_number(1e3 * sample['value'], 1e3 * sample['stderr'])
    sample = f'{number} ms, in chunks of {sample["of"]["chunk_size"]}'
  facts = {
    'Command': record.get('command'),
    'Data': record.get('data_source'),
    'Data hash': record.get('data_hash'),
    'Classes': record.get('num_classes'),
    'Parameters': parameters and f'{sum(parameters.values()):,}',
    'Time per sample': sample,
    'Devices': record.get('devices'),
    'CPUs': record.get('num_cpus'),
    'Versions': record.get('versions'),
    'Git commit': record.get('git_commit'),
    'Runs so far': len(record.get('history', ())),
  }
  return {name: formats.describe(value) for name, value in facts.items() if value}


def _context(run: RunFolder) -> dict[str, Any]:
  """Everything that run.html.j2 shows."""
  total, settings = len(run.modalities), results.samplings(run.rows)
  main = next(iter(settings), None)
  every = results.make_panels(run.rows, run.about, run.modalities, main)
  plain = [p for p in every if not p.is_generated]
  panels = [p for p in every if not references.is_reference(p.metric)]
  timings = run.record.get('timings') or {}
  seconds = sum(timings.values())
  parts = [*timings.items(), ('together', seconds)] if timings else []
  return {
    'name': run.path.resolve().name,
    'subtitle': run.record.get('data_source') or '',
    'chips': _chips(run, seconds),
    'problems': run.problems,
    'generated': _summary([p for p in panels if p.is_generated], total, plain),
    'networks': _summary([p for p in panels if not p.is_generated], total),
    'settings': Table(
      ['sampling', 'sampler', 'conditioning', 'guidance', 'network evaluations'],
      [[k, *(x or '–' for x in words.values())] for k, words in settings.items()],
    ),
    'panels': [_panel(panel, total) for panel in panels],
    'comparison': _comparison(run, settings),
    'samples': run.samples,
    'training': _training(run),
    'learners': _learners(run),
    'timings': Table(
      ['part', 'time', 'share'],
      [[k, formats.format_seconds(s), f'{s / (seconds or 1):.0%}'] for k, s in parts],
    ),
    'facts': _facts(run),
    'config': json.dumps(run.config, indent=2) if run.config else '',
    'numbers': _every_number(run.rows),
    'num_rows': len(run.rows),
  }
