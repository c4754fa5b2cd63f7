"""The page of a run: what its files hold, arranged for the template."""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
import markupsafe
import numpy as np
import pandas as pd

from mmsbm.infra import files
from mmsbm.report import figures, formats, results
from mmsbm.report.folder import RunFolder, read_run
from mmsbm.report.results import Number, Panel

# The full table of numbers stops here; results.jsonl holds the rest.
MAX_ROWS = 1500
# Numbers of given modalities that a summary has room for.
MAX_COUNTS = 8
# Panels of one step of the training: the loss and its largest parts.
MAX_TERMS = 6
# Lines of a summary that need no name.
UNNAMED = (results.MEAN, 'value')


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
    loader=jinja2.PackageLoader('mmsbm.report'),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )


# --- numbers -------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Grid:
  """A table of numbers.

  Attributes:
    head: captions of the columns.
    lines: (caption, numbers) of each line.
    n: the number of examples behind every number, or None if it varies.
  """

  head: Sequence[str]
  lines: Sequence[tuple[str, Sequence[Number | None]]]

  @property
  def n(self) -> int | None:
    sizes = {number.n for _, line in self.lines for number in line if number}
    return sizes.pop() if len(sizes) == 1 else None


def _grid(lines: Mapping[str, Mapping[Any, Number]], num_modalities: int) -> Grid:
  keys = sorted(
    {key for line in lines.values() for key in line}, key=lambda k: (k is None, k)
  )
  body = [(name, [line.get(key) for key in keys]) for name, line in lines.items()]
  return Grid([results.given_label(key, num_modalities) for key in keys], body)


def _summary(panels: Sequence[Panel], num_modalities: int) -> dict[str, Any] | None:
  """The main lines of all panels, in few columns."""
  lines = [
    (panel, '' if name in UNNAMED else name, line)
    for panel in panels
    for name, line in panel.main.items()
  ]
  if not lines:
    return None
  counts = sorted({c for *_, line in lines for c in line if c is not None})
  if len(counts) > MAX_COUNTS:
    at = np.linspace(0, len(counts) - 1, MAX_COUNTS).round().astype(int)
    counts = [counts[i] for i in at]
  counts += [None] if any(None in line for *_, line in lines) else []
  body = []
  for panel, name, line in lines:
    sizes = sorted({number.n for number in line.values() if number.n is not None})
    n = ' to '.join(dict.fromkeys(f'{size:,}' for size in (sizes[:1] + sizes[-1:])))
    body.append((panel, name, [line.get(count) for count in counts], n))
  head = [results.given_label(count, num_modalities) for count in counts]
  return {'head': head, 'lines': body}


def _panel(panel: Panel, num_modalities: int) -> dict[str, Any]:
  """The card of one metric: figure, table, and sources against targets."""
  lines, levels = panel.lines, panel.levels
  counted = {
    name: {count: x for count, x in line.items() if count is not None}
    for name, line in lines.items()
  }
  figure = ''
  if len(levels) > 2:
    figure = figures.curves(
      {panel.title: levels}, xlabel='modalities that agree, at least',
      ylabel='share of samples',
    )  # fmt: skip
  elif any(len(line) > 1 for line in counted.values()):
    counted = {name: line for name, line in counted.items() if line}
    figure = figures.curves(
      counted, xlabel='number of given modalities', ylabel=results.title(panel.metric)
    )
  pairs = panel.pairs
  targets = [m for m in panel.modalities if any(m in line for line in pairs.values())]
  # Some metrics are measured for one source of each target only.
  shown = sum(map(len, pairs.values())) > len(targets)
  return {
    'panel': panel,
    'figure': markupsafe.Markup(figure),
    'grid': _grid(lines, num_modalities),
    'pairs': [
      (s, [line.get(t) for t in targets]) for s, line in pairs.items() if shown
    ],
    'targets': targets,
    'averaged': any(x.averaged > 1 for line in lines.values() for x in line.values()),
    'heat': _heat(pairs, panel.better),
  }


def _heat(pairs: Mapping[str, Mapping[str, Number]], better: str | None) -> Callable:
  """Per cent of colour for a number: the better, the more."""
  values = [
    x.value for line in pairs.values() for x in line.values() if x.value is not None
  ]
  low, high = min([0.0, *values]), max([*values, 1.0 if better != 'low' else 0.0])

  def heat(number: Number | None) -> int:
    if number is None or number.value is None or high == low:
      return 0
    share = (number.value - low) / (high - low)
    return round(60 * (1 - share if better == 'low' else share))

  return heat


def _comparison(run: RunFolder, settings: Mapping) -> dict[str, Any] | None:
  """All samplings: their averages, and curves over network evaluations."""
  compared = results.compare_samplings(run.rows, run.about, run.modalities)
  if not compared:
    return None
  lines, curves = [], {}
  for panel, line, count, numbers in compared:
    words = [] if line in UNNAMED or panel.levels else [line]
    if count is not None:
      words.append(f'given {results.given_label(count, len(run.modalities))}')
    lines.append((panel, ', '.join(words), list(numbers.values())))
    points: dict[str, dict] = {}
    for name, number in numbers.items():
      if number and number.nfe is not None:
        points.setdefault(results.family(settings[name]), {})[number.nfe] = number
    points = {n: dict(sorted(p.items())) for n, p in points.items() if len(p) > 1}
    if points and len(curves) < MAX_TERMS:
      curves[f'{panel.title} {" ".join(words)}'] = points
  figure = ''
  if curves:
    figure = figures.against_cost(curves, xlabel='network evaluations per sample')
  return {
    'names': list(settings), 'lines': lines, 'figure': markupsafe.Markup(figure),
    'n': Grid([], [('', line) for *_, line in lines]).n,
  }  # fmt: skip


def _every_number(rows: pd.DataFrame) -> dict[str, Any]:
  """The folded table of all rows; what all of them share is said once."""
  hidden = ('count', 'value', 'stderr', 'n', 'metric', *results.SETTINGS)
  names = [name for name in rows if name not in hidden and rows[name].notna().any()]
  shared = [
    name for name in names if len(rows) > 1 and rows[name].map(repr).nunique() == 1
  ]
  names = [name for name in names if name not in shared]
  body = []
  for row in rows.head(MAX_ROWS).itertuples():
    words = [_words(getattr(row, name)) for name in names]
    body.append((row.metric, results.number(row), words))
  return {
    'names': names, 'lines': body, 'total': len(rows), 'most': MAX_ROWS,
    'shared': ', '.join(f'{name} {_words(rows[name].iloc[0])}' for name in shared),
  }  # fmt: skip


def _words(value: Any) -> str:
  if value is None or value == '':
    return '–'
  if isinstance(value, tuple):
    return ', '.join(map(str, value)) or 'nothing'
  return f'{value:.6g}' if isinstance(value, float) else str(value)


# --- training and facts --------------------------------------------------------


def _training(run: RunFolder) -> list[markupsafe.Markup]:
  """Figures of each step: the loss first, then its parts."""
  skip = ('step', 'learner', 'time', 'steps_per_second')
  out = []
  step = run.curves.learner.map(_step)
  for name, part in run.curves.groupby(step, sort=False):
    terms = [t for t in part if t not in skip and part[t].notna().any()]
    for term in sorted(terms, key=lambda term: term != 'loss')[:MAX_TERMS]:
      series = {}
      for learner, rows in part.dropna(subset=term).groupby('learner', sort=False):
        # A repeated step of a resumed run counts once.
        rows = rows.drop_duplicates('step', keep='last').sort_values('step')
        values = pd.to_numeric(rows[term], errors='coerce').to_numpy(float)
        series[learner.partition('/')[2] or learner] = rows.step.to_numpy(), values
      out.append(markupsafe.Markup(figures.training(f'{name}: {term}', series)))
  return out


def _step(learner: str) -> str:
  """unimodal/m0 -> unimodal: learners of one step of the training."""
  return learner.partition('/')[0]


def _learners(run: RunFolder) -> list[list[str]]:
  """Name, parameters, steps, last loss (smoothed), steps per second (median)."""
  parameters = run.record.get('parameters') or {}
  curves = dict(iter(run.curves.groupby('learner', sort=False)))
  out = []
  for learner in dict.fromkeys([*parameters, *curves]):
    rows = curves.get(learner, run.curves.head(0))
    losses, rates = (
      pd.to_numeric(rows[name], errors='coerce').dropna() if name in rows else []
      for name in ('loss', 'steps_per_second')
    )
    loss = float(figures.smooth(np.asarray(losses))[-1]) if len(losses) else None
    rate = float(np.median(rates)) if len(rates) else None
    numbers = parameters.get(learner), int(rows.step.max()) if len(rows) else None
    out.append(
      [learner]
      + [f'{x:,}' if x is not None else '–' for x in numbers]
      + ['–' if x is None else formats.format_number(x) for x in (loss, rate)]
    )
  return out


def _timings(run: RunFolder) -> dict[str, float]:
  timings = run.record.get('timings') or {}
  return {name: s for name, s in timings.items() if formats.is_finite(s)}


def _chips(run: RunFolder) -> list[str]:
  """What the run is, in a few words."""
  record, config, rows = run.record, run.config, run.rows
  seconds = sum(_timings(run).values())
  words = [
    config.get('method', ''),
    f'preset {config["preset"]}' if config.get('preset') else '',
    f'{len(run.modalities)} modalities: {", ".join(run.modalities)}'
    if 0 < len(run.modalities) <= 8 else f'{len(run.modalities)} modalities',
  ]  # fmt: skip
  seed = record.get('seed', config.get('seed'))
  words += [f'seed {seed}'] if seed is not None else []
  for name, form in (('split', '{} split'), ('step', 'step {:,}')):
    values = list(rows[name].dropna().unique()) if name in rows else []
    words += [form.format(values[0])] if len(values) == 1 else []
  return words + ([formats.format_seconds(seconds)] if seconds else [])


def _facts(run: RunFolder) -> dict[str, str]:
  """What was run, where, and at which price."""
  record, config = run.record, run.config
  sample = record.get('seconds_per_sample')
  if sample:
    number = formats.format_number(1e3 * sample['value'], 1e3 * sample['stderr'])
    sample = f'{number} ms, in chunks of {sample["of"]["chunk_size"]}'
  parameters = record.get('parameters') or {}
  command = record.get('command')
  facts = {
    'Command': command if isinstance(command, str) else ' '.join(command or ()),
    'Data': record.get('data_source') or formats.describe(config.get('data')),
    'Data hash': record.get('data_hash'),
    'Classes': formats.describe(record.get('num_classes')),
    'Parameters': f'{sum(parameters.values()):,}' if parameters else None,
    'Time per sample': sample,
    'Devices': formats.describe(record.get('devices')),
    'CPUs': record.get('num_cpus'),
    'Versions': formats.describe(record.get('versions')),
    'Git commit': record.get('git_commit'),
    'Runs so far': len(record.get('history') or ()) or None,
  }
  return {name: str(value) for name, value in facts.items() if value}


def _context(run: RunFolder) -> dict[str, Any]:
  """Everything that run.html.j2 shows."""
  total = len(run.modalities)
  settings = results.samplings(run.rows)
  main = next(iter(settings), None)
  panels = results.make_panels(run.rows, run.about, run.modalities, main)
  timings = _timings(run)
  seconds = sum(timings.values())
  return {
    'name': run.path.resolve().name,
    'subtitle': run.record.get('data_source') or '',
    'chips': _chips(run),
    'problems': run.problems,
    'main': main,
    'settings': settings,
    'generated': _summary([p for p in panels if p.is_generated], total),
    'networks': _summary([p for p in panels if not p.is_generated], total),
    'panels': [_panel(panel, total) for panel in panels],
    'comparison': _comparison(run, settings),
    'samples': run.samples,
    'training': _training(run),
    'learners': _learners(run),
    'timings': [
      (name, formats.format_seconds(s), f'{s / max(seconds, 1e-12):.0%}')
      for name, s in [*timings.items(), ('together', seconds)]
    ] if timings else [],
    'facts': _facts(run),
    'config': json.dumps(run.config, indent=2) if run.config else '',
    'numbers': _every_number(run.rows),
  }  # fmt: skip
