"""Assembles the page: sections in order, each from what the run has left."""

import base64
import dataclasses
import functools
import html
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmsbm.infra import errors, files, images, metric_writer
from mmsbm.report import figures, numbers
from mmsbm.report import samples as sample_panels

# The full table of numbers stops here; results.jsonl holds the rest.
MAX_ROWS = 1500

CSS = """
:root { color-scheme: light dark; --ink: #262a33; --muted: #667080; --rule: #e1e4ea;
  --paper: #fbfbfc; --card: #ffffff; --accent: #2f6fba; --stripe: #f5f6f9; }
@media (prefers-color-scheme: dark) { :root { --ink: #dfe3ea; --muted: #98a1b0;
  --rule: #343a45; --paper: #16191f; --card: #1d2129; --accent: #7fb0e8;
  --stripe: #222731; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans',
  sans-serif; }
main, header, footer { max-width: 1180px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 40px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 44px 0 10px; padding-top: 14px;
  border-top: 1px solid var(--rule); }
h3 { font-size: 15px; margin: 22px 0 8px; }
p { margin: 6px 0 12px; max-width: 78ch; }
.muted, .missing, figcaption, footer { color: var(--muted); }
.missing { font-style: italic; }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 14px 0 0;
  font-size: 14px; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  background: var(--card); border: 1px solid var(--rule); font-size: 14px; }
th, td { padding: 6px 12px; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--rule); }
thead th { font-weight: 600; color: var(--muted); font-size: 13px;
  background: var(--stripe); vertical-align: bottom; }
tbody th { font-weight: 500; }
td.number { text-align: right; white-space: nowrap; }
th.number { text-align: right; }
.headline { width: 100%; } .headline td.number { font-size: 17px; font-weight: 600; }
td.size { text-align: right; } .headline th.number { white-space: nowrap; }
.headline td.number .error { font-size: 14px; font-weight: 400; }
.n { color: var(--muted); font-size: 12px; font-weight: 400; }
.error { color: var(--muted); }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr);
  gap: 4px 20px; margin: 0; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 14px 0; }
figure img { display: block; max-width: 100%; height: auto; background: #fff;
  border: 1px solid var(--rule); border-radius: 6px; }
figcaption { font-size: 13px; margin-top: 6px; max-width: 90ch; }
.pair figure { min-width: 300px; } .pair figcaption { contain: inline-size; }
.pair table { margin: 14px 0; }
.pair { display: flex; flex-wrap: wrap; gap: 8px 28px; align-items: flex-start; }
.pair > * { min-width: 0; }
details { margin: 12px 0; } summary { cursor: pointer; color: var(--accent); }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 6px;
  padding: 12px 14px; overflow: auto; font-size: 12.5px; line-height: 1.45;
  max-height: 640px; }
code { font-size: 0.92em; }
footer { margin-top: 48px; padding-bottom: 40px; font-size: 13px; }
@media print { details { display: none; } h2 { break-after: avoid; } }
"""


@dataclasses.dataclass(frozen=True)
class RunFolder:
  """Everything that a run has left so far; absent files are empty."""

  path: pathlib.Path
  record: Mapping[str, Any]
  metrics: Sequence[numbers.Row]
  results: numbers.Results
  samples: Sequence[pathlib.Path]

  @property
  def config(self) -> Mapping[str, Any]:
    return self.record.get('config') or {}

  @property
  def modalities(self) -> tuple[str, ...]:
    return self.results.modalities


def write_report(workdir: str | os.PathLike) -> pathlib.Path:
  """Writes report/index.html from the files of a run, finished or not.

  Args:
    workdir: folder with run.json, metrics.jsonl, results.jsonl, samples/*.npz; each
      may be missing.

  Returns:
    Path of the page. It refers to nothing outside itself.
  """
  run = read_run(workdir)
  sections = [(title, make(run)) for title, make in SECTIONS]
  path = run.path / 'report' / 'index.html'
  files.write_atomic(path, _page(run, sections))
  return path


def read_run(workdir: str | os.PathLike) -> RunFolder:
  """Reads a run's files."""
  path = pathlib.Path(workdir)
  if not path.is_dir():
    raise errors.UserError(f'{path} is not a folder; give the --workdir of a run.')
  record = {}
  if (path / 'run.json').exists():
    try:
      record = json.loads((path / 'run.json').read_bytes())
    except ValueError as error:
      raise errors.UserError(
        f'{path / "run.json"} is not JSON ({error}); repeat the run to rewrite it.'
      ) from error
  rows = metric_writer.read_results(path / 'results.jsonl')
  config = record.get('config') or {}
  return RunFolder(
    path=path,
    record=record,
    metrics=metric_writer.read_jsonl(path / 'metrics.jsonl'),
    results=numbers.Results(
      rows=[row for row in rows if isinstance(row.get('metric'), str)],
      modalities=_modality_names(config, rows),
      sampler=_component_name(config.get('sampler')),
    ),
    samples=sorted((path / 'samples').glob('*.npz')),
  )


def _modality_names(config, rows) -> tuple[str, ...]:
  if config.get('modalities'):
    # A mapping name -> settings, or a list of names or of records with a name.
    return tuple(
      str(entry.get('name')) if isinstance(entry, Mapping) else str(entry)
      for entry in config['modalities']
    )
  targets = dict.fromkeys(str(row.get('target')) for row in rows)
  return tuple(name for name in targets if name not in ('mean', 'None'))


def _component_name(spec) -> str | None:
  return spec.get('name') if isinstance(spec, Mapping) else spec


# Fragments of HTML. Whatever came from a file passes through `_text`.


def _text(value: Any) -> str:
  return html.escape(str(value))


def _missing(what: str) -> str:
  return f'<p class="missing">{_text(what)}</p>'


def _number_cell(row: numbers.Row | None, *, with_n: bool = True) -> str:
  """A value with its error and count; a dash where nothing was measured."""
  if row is None:
    return '<td class="number muted">–</td>'
  value = _text(numbers.format_number(row.get('value'), row.get('stderr')))
  value, plus_minus, error = value.partition(' ± ')
  if plus_minus:
    value += f' <span class="error">± {error}</span>'
  size = ''
  if with_n and numbers.is_finite(row.get('n')):
    size = f'<br><span class="n">n = {row["n"]:,}</span>'
  return f'<td class="number">{value}{size}</td>'


def _table(head: Sequence[str], body: Sequence[Sequence[str]], css: str = '') -> str:
  """A table; cells of the body that are not yet <td> are escaped text."""
  columns = ''.join(
    f'<th class="number">{_text(cell[1:])}</th>'
    if cell.startswith('#')
    else f'<th>{_text(cell)}</th>'
    for cell in head
  )
  lines = []
  for first, *rest in body:
    cells = ''.join(c if c.startswith('<td') else f'<td>{_text(c)}</td>' for c in rest)
    lines.append(f'<tr><th scope="row">{_text(first)}</th>{cells}</tr>')
  return (
    f'<div class="scroll"><table class="{css}"><thead><tr>{columns}</tr></thead>'
    f'<tbody>{"".join(lines)}</tbody></table></div>'
  )


def _number_table(head: Sequence[str], body: Sequence[Sequence], note: str = '') -> str:
  """A table of rows of results; a count that all share is said once, below.

  Args:
    head: captions of the columns; '#' in front aligns to the right.
    body: lines of cells: a row of results or None for a number, a string for text.
    note: what else to say below.
  """
  rows = [cell for line in body for cell in line if isinstance(cell, dict)]
  sizes = {row.get('n') for row in rows}
  is_shared = len(sizes) == 1 and numbers.is_finite(next(iter(sizes)))
  cells = [
    [
      cell if isinstance(cell, str) else _number_cell(cell, with_n=not is_shared)
      for cell in line
    ]
    for line in body
  ]
  note = _sentence(_size_note(rows) if is_shared else '', note)
  return _table(head, cells) + (f'<p class="n">{_text(note)}</p>' if note else '')


def _figure(png: bytes, caption: str, scale: float = 1.0) -> str:
  """An embedded picture; `scale` is its size in CSS pixels over its own."""
  width, height = (
    round(int.from_bytes(png[at : at + 4], 'big') * scale) for at in (16, 20)
  )
  data = base64.b64encode(png).decode()
  return (
    f'<figure><img width="{width}" height="{height}" alt="{_text(caption)}" '
    f'src="data:image/png;base64,{data}">'
    f'<figcaption>{_text(caption)}</figcaption></figure>'
  )


# Figures have 180 dots per inch, and a CSS inch has 96 pixels.
_plot = functools.partial(_figure, scale=96 / 180)


def _setting(fields: numbers.Row) -> str:
  """One line that says what was measured: split, sampler, checkpoint, seed."""
  fields = dict(zip(numbers.SETTING, numbers.setting_of(fields), strict=True))
  parts = []
  if fields['split'] is not None:
    parts.append(f'{fields["split"]} split')
  if fields['sampler'] is not None:
    parts.append(str(fields['sampler']))
  if fields['nfe'] is not None:
    parts.append(f'{fields["nfe"]} network evaluations')
  if fields['step'] is not None:
    parts.append(f'step {numbers.format_number(fields["step"])}')
  if fields['checkpoint'] is not None:
    parts.append(f'checkpoint {fields["checkpoint"]}')
  if fields['seed'] is not None:
    parts.append(f'seed {fields["seed"]}')
  return ', '.join(parts)


def _measured(rows: Sequence[numbers.Row]) -> str:
  """The setting that `rows` share, as a sentence."""
  setting = _setting(rows[0])
  return f'Measured on: {setting}.' if setting else ''


def _size_note(rows: Sequence[numbers.Row]) -> str:
  """How many examples the numbers of a figure rest on."""
  sizes = sorted({row['n'] for row in rows if numbers.is_finite(row.get('n'))})
  if not sizes:
    return ''
  if len(sizes) == 1:
    return f'n = {sizes[0]:,} for every number.'
  return f'Between {sizes[0]:,} and {sizes[-1]:,} examples.'


def _sentence(*parts: str) -> str:
  return ' '.join(part if part.endswith('.') else part + '.' for part in parts if part)


# Sections. Each takes the run and returns HTML.


def _headline(run: RunFolder) -> str:
  results, total = run.results, len(run.modalities)
  coherence = results.of('coherence')
  mean = numbers.curve(coherence, 'mean')
  joint = results.of('joint_coherence')
  # Of the weaker forms "at least k agree", all M agreeing is the strict one.
  strict = [row for row in joint if row.get('at_least') in (None, total)]
  lines = [
    ('Reconstruction, mean over modalities', numbers.mean_row(
      results.of('reconstruction'))),
    ('Coherence given one modality', mean.get(1)),
    ('Coherence given all the others', mean.get(total - 1) if total != 2 else None),
    ('Joint coherence: all modalities of an unconditional sample agree',
     numbers.latest(strict)),
    ('Classifier accuracy: the judge, on real examples', numbers.mean_row(
      results.of('classifier_accuracy'))),
  ]  # fmt: skip
  if total == 2:
    lines.pop(2)
  for features in _frechet_features(results):
    rows = numbers.curve(results.of('frechet', features=features), 'mean')
    if 0 in rows:
      name = _frechet_name(features)
      lines.append((f'{name}, unconditional, mean over modalities', rows[0]))
  body = []
  for title, row in lines:
    if row is None:
      body.append([title, '<td class="number muted">–</td>', '', 'not evaluated'])
      continue
    n = f'{row["n"]:,}' if numbers.is_finite(row.get('n')) else '–'
    details = _setting(row)
    if row.get('averaged'):
      details = f'average of {row["averaged"]} numbers; {details}'
    if row.get('note'):
      details = f'{row["note"]}; {details}' if details else row['note']
    size = f'<td class="size">{n}</td>'
    body.append([title, _number_cell(row, with_n=False), size, details])
  return _table(['', '#value ± standard error', '#n', 'measured on'], body, 'headline')


def _what_was_run(run: RunFolder) -> str:
  record, config = run.record, run.config
  if not record:
    return _missing('run.json is missing, so the settings are not known.')
  timings = _timings(record)
  steps = _last_steps(run)
  parameters = record.get('parameters') or {}
  main = run.results.main_setting()
  nfe = main[numbers.SETTING.index('nfe')] if main else None
  sampler = _describe(config.get('sampler'))
  if sampler and numbers.is_finite(nfe):
    sampler += f', {nfe:,} network evaluations per sample'
  entries = [
    ('Data', record.get('data_source') or _describe(config.get('data'))),
    ('Modalities', f'{len(run.modalities)}: {", ".join(run.modalities)}'),
    ('Method', config.get('method') or _describe(config.get('stages'))),
    ('Preset', config.get('preset')),
    ('Sampler', sampler),
    ('Seed', record.get('seed', config.get('seed'))),
    ('Parameters', _count_list(_by_group(parameters, sum), total=True)),
    ('Steps trained', _count_list(_by_group(steps, max))),
    ('Total time', numbers.format_seconds(sum(timings.values())) if timings else None),
    ('Devices', _describe(record.get('devices'))),
    ('Versions', _describe(record.get('versions'))),
    ('Git commit', record.get('git_commit')),
  ]
  command = record.get('command')
  if command:
    command = command if isinstance(command, str) else ' '.join(map(str, command))
  lines = [
    f'<dt>{name}</dt><dd>{_text(value)}</dd>'
    for name, value in entries
    if value not in (None, '')
  ]
  if command:
    lines.append(f'<dt>Command</dt><dd><code>{_text(command)}</code></dd>')
  return f'<dl>{"".join(lines)}</dl>'


def _describe(value: Any) -> str | None:
  """One line for a setting: {'name': 'heun', 'num_steps': 9} -> heun(num_steps=9)."""
  if value is None or isinstance(value, str):
    return value
  if isinstance(value, Mapping):
    rest = ', '.join(
      f'{key}={_describe(child)}' for key, child in value.items() if key != 'name'
    )
    if 'name' in value:
      return f'{value["name"]}({rest})' if rest else str(value['name'])
    return rest.replace('=', ' ')
  if isinstance(value, (list, tuple)):
    return ', '.join(str(_describe(child)) for child in value)
  return str(value)


def _timings(record) -> dict[str, float]:
  timings = record.get('timings') or {}
  return {name: s for name, s in timings.items() if numbers.is_finite(s)}


def _group(learner: str) -> str:
  """unimodal/m0 -> unimodal: learners that differ only in their modality."""
  return learner.partition('/')[0]


def _by_group(values: Mapping[str, float], merge) -> dict[str, float]:
  groups = {}
  for learner, value in values.items():
    if numbers.is_finite(value):
      groups.setdefault(_group(learner), []).append(value)
  return {name: merge(group) for name, group in groups.items()}


def _count_list(counts: Mapping[str, float], total: bool = False) -> str:
  text = ', '.join(f'{name} {round(count):,}' for name, count in counts.items())
  if total and len(counts) > 1:
    text += f' (together {round(sum(counts.values())):,})'
  return text


def _last_steps(run: RunFolder) -> dict[str, int]:
  steps = {}
  for row in run.metrics:
    if numbers.is_finite(row.get('step')) and row.get('learner'):
      learner = str(row['learner'])
      steps[learner] = max(steps.get(learner, 0), row['step'])
  return steps


def _coherence(run: RunFolder) -> str:
  results = run.results
  rows = [r for r in results.of('coherence') if r.get('num_given') != 0]
  if not rows:
    return _missing('Coherence was not evaluated.')
  targets = results.targets(rows)
  mean = numbers.curve(rows, 'mean')
  per_target = {name: numbers.curve(rows, name) for name in targets}
  added = next(
    (c for t in ('mean', *targets) if (c := numbers.incremental(rows, t))), {}
  )
  classes = run.record.get('num_classes')
  parts = [
    '<p>Share of generated examples whose class, as a classifier of real examples '
    'judges it, is the class of the observed ones.</p>'
  ]
  caption = _sentence(
    'Coherence against the number of observed modalities; bars are standard errors',
    'Faint: single targets' if per_target else '',
    f'Chance is {1 / classes:.3g}' if numbers.is_finite(classes) and classes else '',
    _measured(rows),
    _size_note(rows),
  )
  png = figures.against_observed(mean, per_target, added, ylabel='coherence')
  plot = _plot(png, caption)
  pairs = _pair_matrix(rows, targets)
  parts.append(f'<div class="pair">{plot}{pairs}</div>')
  parts.append(_curve_table(mean, per_target, added))
  return ''.join(parts)


def _pair_matrix(rows, targets) -> str:
  """Given exactly one modality: every source against every target."""
  single = {
    (row['given'][0], row['target']): row
    for row in rows
    if isinstance(row.get('given'), list)
    and len(row['given']) == 1
    and row.get('target') in targets
  }
  sources = [s for s in targets if any(source == s for source, _ in single)]
  if len(sources) < 2:
    return ''
  values = np.full((len(targets), len(targets)), np.nan)
  for (source, target), row in single.items():
    if source in targets and numbers.is_finite(row.get('value')):
      values[targets.index(source), targets.index(target)] = row['value']
  caption = _sentence(
    'Coherence given exactly one modality', _size_note(list(single.values()))
  )
  return _plot(figures.matrix(targets, values), caption)


def _curve_table(mean, per_target, added=None) -> str:
  """Targets down, number of observed modalities across."""
  lines = {'mean over targets': mean, **per_target}
  if added:
    lines['adding one by one'] = added
  lines = {name: line for name, line in lines.items() if line}
  counts = sorted({count for line in lines.values() for count in line})
  body = [[name, *map(line.get, counts)] for name, line in lines.items()]
  table = _number_table(['observed', *(f'#{count}' for count in counts)], body)
  if len(body) <= 4:
    return table
  return f'<details><summary>All numbers</summary>{table}</details>'


def _joint_coherence(run: RunFolder) -> str:
  total = len(run.modalities)
  rows = run.results.of('joint_coherence')
  if not rows:
    return _missing('Joint coherence was not evaluated.')
  by_count = {row.get('at_least') or total: row for row in rows}
  counts = sorted(by_count)
  labels = [f'≥ {count}' if count < total else f'all {total}' for count in counts]
  ordered = [by_count[count] for count in counts]
  caption = _sentence(
    'Share of unconditional samples in which at least so many modalities show the '
    'same class',
    _measured(rows),
  )
  table = _number_table(
    ['modalities that agree', '#share of samples'],
    list(zip(labels, ordered, strict=True)),
  )
  if len(ordered) == 1:
    return table + f'<p class="muted">{_text(caption)}</p>'
  plot = _plot(figures.bars(labels, ordered, 'share of samples'), caption)
  return f'<div class="pair">{plot}<div>{table}</div></div>'


def _frechet_features(results: numbers.Results) -> list[str | None]:
  rows = [row for row in results.rows if row['metric'] == 'frechet']
  return list(dict.fromkeys(row.get('features') for row in rows))


def _frechet_name(features: str | None) -> str:
  # FID is only ever the distance on the Inception features of the original paper.
  if features == 'inception':
    return 'FID (Inception features)'
  return f'Fréchet distance ({features or "unnamed"} features)'


def _frechet(run: RunFolder) -> str:
  parts = []
  for features in _frechet_features(run.results):
    rows = run.results.of('frechet', features=features)
    name = _frechet_name(features)
    per_target = {t: numbers.curve(rows, t) for t in run.results.targets(rows)}
    mean = numbers.curve(rows, 'mean')
    parts.append(f'<h3>{_text(name)}</h3>')
    if len({count for line in (mean, *per_target.values()) for count in line}) > 1:
      caption = _sentence(
        f'{name} between generated and real examples; lower is better; 0 observed '
        'modalities means unconditional samples',
        _measured(rows),
        _size_note(rows),
      )
      png = figures.against_observed(mean, per_target, {}, ylabel='distance')
      parts.append(_plot(png, caption))
    else:
      parts.append(f'<p class="muted">{_text(_measured(rows))}</p>')
    parts.append(_curve_table(mean, per_target))
  if not parts:
    return _missing('The Fréchet distance was not evaluated.')
  return ''.join(parts)


def _precision_recall(run: RunFolder) -> str:
  rows = {name: run.results.of(name) for name in ('precision', 'recall')}
  measured = rows['precision'] + rows['recall']
  if not measured:
    return _missing('Precision and recall were not evaluated.')
  targets = [*run.results.targets(measured), 'mean']
  curves = {
    (name, target): numbers.curve(rows[name], target)
    for name in rows
    for target in targets
  }
  counts = sorted({count for line in curves.values() for count in line})
  head, body = ['modality'], [[target] for target in targets]
  for count in counts:
    for name in rows:
      head.append(f'#{name}, {count} observed' if count else f'#{name}, unconditional')
      for line, target in zip(body, targets, strict=True):
        line.append(curves[name, target].get(count))
  note = _sentence(
    'Precision: share of generated examples that lie within the real ones; recall: '
    'share of real examples that lie within the generated ones',
    _measured(measured),
  )
  return f'<p class="muted">{_text(note)}</p>' + _number_table(head, body)


def _samplers(run: RunFolder) -> str:
  settings = numbers.distinct_settings(run.results.rows)
  if len(settings) < 2:
    return ''
  total = len(run.modalities)
  varying = [
    field
    for field, values in zip(numbers.SETTING, zip(*settings, strict=True), strict=True)
    if len(set(values)) > 1
  ]
  # The sampler and its cost lead the table even if only one of them varies.
  names = ['sampler', 'nfe']
  names += [field for field in varying if field not in names]
  features = _frechet_features(run.results)
  head = [*names, '#coherence given one', '#given the rest', '#joint coherence']
  head += [f'#{_frechet_name(f)}, unconditional' for f in features]
  body, speed = [], {}
  main = run.results.main_setting()
  for setting in sorted(settings, key=_sort_key):
    results = run.results.in_setting(setting)
    fields = dict(zip(numbers.SETTING, setting, strict=True))
    mean = numbers.curve(results.of('coherence'), 'mean')
    joint = [
      row for row in results.of('joint_coherence')
      if row.get('at_least') in (None, total)
    ]  # fmt: skip
    cells = [mean.get(1), mean.get(total - 1), numbers.latest(joint)]
    for feature in features:
      rows = results.of('frechet', features=feature)
      cells.append(numbers.curve(rows, 'mean').get(0))
    values = ['–' if fields[name] is None else str(fields[name]) for name in names]
    values[0] += ' *' if setting == main else ''
    body.append([*values, *cells])
    rest = mean.get(total - 1) or mean.get(1)
    if rest and numbers.is_finite(rest['value']) and numbers.is_finite(fields['nfe']):
      speed.setdefault(str(fields['sampler']), {})[fields['nfe']] = rest['value']
  labels = {'nfe': 'network evaluations'}
  head = [labels.get(name, name) for name in head]
  parts = [_number_table(head, body, '* The setting of the sections above')]
  if any(len(points) > 1 for points in speed.values()):
    series = {
      name: tuple(zip(*sorted(points.items()), strict=True))
      for name, points in speed.items()
    }
    png = figures.lines(
      series, xlabel='network evaluations per sample',
      ylabel='coherence given the rest', log_x=True,
    )  # fmt: skip
    parts.append(_plot(png, 'Coherence against the cost of a sample.'))
  return ''.join(parts)


def _sort_key(setting: tuple) -> list[tuple]:
  """Orders settings whose fields may be words, numbers or missing."""
  return [
    (1, value, '') if numbers.is_finite(value) else (0, 0, str(value or ''))
    for value in setting
  ]


def _sample_section(kind: str, missing: str, intro: str):
  def make(run: RunFolder) -> str:
    parts = []
    for path in run.samples:
      try:
        samples = sample_panels.load_samples(path)
        if samples.kind != kind:
          continue
        panel = sample_panels.render_samples(path)
      except errors.UserError as error:
        # Said once, where the first kind of samples stands.
        if kind == 'conditional':
          parts.append(_missing(str(error)))
        continue
      caption = f'{samples.title} ({path.name})'
      parts.append(_figure(images.encode_png(panel), caption))
    if not parts:
      return _missing(missing)
    return f'<p>{_text(intro)}</p>' + ''.join(parts)

  return make


def _training(run: RunFolder) -> str:
  panels = _training_panels(run.metrics)
  if not panels:
    return _missing('metrics.jsonl holds no curves.')
  caption = (
    'Every learner: raw values faintly, their exponential moving average strongly.'
  )
  return _plot(figures.training(panels), caption) + _learner_table(run)


def _training_panels(metrics):
  """Title -> learner -> (steps, values); the loss first, at most 6 per group."""
  skip = {'step', 'learner', 'time', 'steps_per_second'}
  curves = {}
  for row in metrics:
    learner = str(row.get('learner'))
    for name, value in row.items():
      if name in skip or not numbers.is_finite(row.get('step')):
        continue
      if value is not None and not numbers.is_finite(value):
        continue
      value = np.nan if value is None else value
      group = curves.setdefault(_group(learner), {}).setdefault(name, {})
      group.setdefault(learner, {})[row['step']] = value
  panels = {}
  for group, terms in curves.items():
    for name in sorted(terms, key=lambda name: name != 'loss')[:6]:
      panels[f'{group}: {name}'] = {
        learner.partition('/')[2] or learner: (
          np.asarray(sorted(points)),
          np.asarray([points[step] for step in sorted(points)], float),
        )
        for learner, points in terms[name].items()
      }
  return panels


def _learner_table(run: RunFolder) -> str:
  parameters = run.record.get('parameters') or {}
  steps = _last_steps(run)
  body = []
  for learner, step in steps.items():
    rows = [row for row in run.metrics if row.get('learner') == learner]
    losses = [row['loss'] for row in rows if numbers.is_finite(row.get('loss'))]
    rates = [
      row['steps_per_second']
      for row in rows
      if numbers.is_finite(row.get('steps_per_second'))
    ]
    cells = [
      f'{parameters[learner]:,}' if numbers.is_finite(parameters.get(learner)) else '–',
      f'{step:,}',
      numbers.format_number(float(figures.smooth(np.asarray(losses))[-1]))
      if losses
      else '–',
      numbers.format_number(float(np.median(rates))) if rates else '–',
    ]
    body.append([learner, *(f'<td class="number">{cell}</td>' for cell in cells)])
  head = [
    'learner', '#parameters', '#steps', '#last loss (smoothed)',
    '#steps per second (median)',
  ]  # fmt: skip
  return _table(head, body)


def _timing_table(run: RunFolder) -> str:
  timings = _timings(run.record)
  if not timings:
    return _missing('No timings were recorded.')
  total = sum(timings.values())
  body = [
    [
      stage,
      f'<td class="number">{numbers.format_seconds(seconds)}</td>',
      f'<td class="number">{seconds / max(total, 1e-12):.1%}</td>',
    ]
    for stage, seconds in timings.items()
  ]
  total_cell = f'<td class="number">{numbers.format_seconds(total)}</td>'
  body.append(['together', total_cell, '<td></td>'])
  return _table(['stage', '#time', '#share'], body)


def _all_numbers(run: RunFolder) -> str:
  rows = run.results.rows
  if not rows:
    return _missing('results.jsonl holds no numbers: not evaluated yet.')
  extra = [
    name
    for name in ('at_least', 'features', 'note')
    if any(row.get(name) is not None for row in rows)
  ]
  setting = [
    name for name in numbers.SETTING if any(row.get(name) is not None for row in rows)
  ]
  body = []
  for row in rows[:MAX_ROWS]:
    given = row.get('given')
    given = ', '.join(map(str, given)) if isinstance(given, list) else given
    given = 'nothing' if given == '' else given
    texts = [row.get('target'), given, *(row.get(name) for name in extra + setting)]
    body.append(
      [
        row['metric'],
        _number_cell(row),
        *('–' if text is None else str(text) for text in texts),
      ]
    )
  head = ['metric', '#value', 'target', 'given', *extra, *setting]
  more = ''
  if len(rows) > MAX_ROWS:
    more = f'<p>The first {MAX_ROWS:,} of {len(rows):,} rows of results.jsonl.</p>'
  summary = f'<summary>{len(rows):,} rows of results.jsonl</summary>'
  return f'<details>{summary}{more}{_table(head, body)}</details>'


def _config(run: RunFolder) -> str:
  if not run.config:
    return _missing('The config was not recorded.')
  dump = _text(json.dumps(run.config, indent=2))
  return f'<details><summary>Resolved config</summary><pre>{dump}</pre></details>'


SECTIONS = (
  ('Results', _headline),
  ('What was run', _what_was_run),
  ('Coherence', _coherence),
  ('Joint coherence', _joint_coherence),
  ('Fréchet distance', _frechet),
  ('Precision and recall', _precision_recall),
  ('Samplers compared', _samplers),
  ('Conditional samples', _sample_section(
    'conditional', 'No conditional samples were drawn.',
    'Each row is one test example: what the model was shown, what it generated, and '
    'the training example closest to its first sample.')),
  ('Unconditional samples', _sample_section(
    'unconditional', 'No unconditional samples were drawn.',
    'Each column is one sample of all modalities, generated from nothing.')),
  ('Reconstructions', _sample_section(
    'reconstruction', 'No reconstructions were drawn.',
    'Test examples above what the decoder makes of their latents.')),
  ('Training', _training),
  ('Time', _timing_table),
  ('Every number', _all_numbers),
  ('Config', _config),
)  # fmt: skip


def _page(run: RunFolder, sections: Sequence[tuple[str, str]]) -> str:
  name = run.path.resolve().name
  shown = [(f's{i}', *section) for i, section in enumerate(sections) if section[1]]
  nav = ''.join(f'<a href="#{key}">{_text(title)}</a>' for key, title, _ in shown)
  body = ''.join(
    f'<section id="{key}"><h2>{_text(title)}</h2>{content}</section>'
    for key, title, content in shown
  )
  source = run.record.get('data_source') or _describe(run.config.get('data')) or ''
  # The policy makes a browser refuse what this page must not need: the network.
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{_text(name)} · mmsbm report</title>
<style>{CSS}</style>
</head>
<body>
<header>
<h1>{_text(name)}</h1>
<p class="muted">{_text(source)}</p>
<nav>{nav}</nav>
</header>
<main>{body}</main>
<footer>Written by mmsbm from run.json, metrics.jsonl, results.jsonl and samples/ of
this run. ± is one standard error; n is the number of examples judged.</footer>
</body>
</html>
"""
