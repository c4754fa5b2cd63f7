"""Assembles the page: sections in order, each from what the run has left."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmsbm.infra import errors, files, images, metric_writer
from mmsbm.report import figures, markup, numbers
from mmsbm.report import samples as sample_panels

# The full table of numbers stops here; results.jsonl holds the rest.
MAX_ROWS = 1500


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
      cell if isinstance(cell, str) else markup.number_cell(cell, with_n=not is_shared)
      for cell in line
    ]
    for line in body
  ]
  note = markup.sentence(_size_note(rows) if is_shared else '', note)
  return markup.table(head, cells) + markup.note(note)


def _setting(fields: numbers.Row) -> str:
  """One line that says what was measured: split, setup, checkpoint, seed."""
  fields = dict(zip(numbers.SETTING, numbers.setting_of(fields), strict=True))
  parts = []
  if fields['split'] is not None:
    parts.append(f'{fields["split"]} split')
  parts += [
    str(fields[x]) for x in ('sampler', 'conditioning', 'guidance') if fields[x]
  ]
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
  probed = numbers.latest(results.of('latent_accuracy', num_given=total), given='mean')
  if probed:
    lines.append(('Linear classifier of the latents of all modalities', probed))
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
    body.append([title, markup.number_cell(row, with_n=False), size, details])
  return markup.table(
    ['', '#value ± standard error', '#n', 'measured on'], body, 'headline'
  )


def _what_was_run(run: RunFolder) -> str:
  record, config = run.record, run.config
  if not record:
    return markup.missing('run.json is missing, so the settings are not known.')
  timings = _timings(record)
  steps = _last_steps(run)
  parameters = record.get('parameters') or {}
  main = run.results.main_setting()
  nfe = main[numbers.SETTING.index('nfe')] if main else None
  sampler = numbers.describe(config.get('sampler'))
  if sampler and numbers.is_finite(nfe):
    sampler += f', {nfe:,} network evaluations per sample'
  entries = [
    ('Data', record.get('data_source') or numbers.describe(config.get('data'))),
    ('Modalities', f'{len(run.modalities)}: {", ".join(run.modalities)}'),
    ('Method', config.get('method') or numbers.describe(config.get('stages'))),
    ('Preset', config.get('preset')),
    ('Sampler', sampler),
    ('Seed', record.get('seed', config.get('seed'))),
    ('Parameters', _count_list(_by_group(parameters, sum), total=True)),
    ('Steps trained', _count_list(_by_group(steps, max))),
    ('Total time', numbers.format_seconds(sum(timings.values())) if timings else None),
    ('Time per sample', _milliseconds(record.get('seconds_per_sample'))),
    ('Devices', numbers.describe(record.get('devices'))),
    ('Versions', numbers.describe(record.get('versions'))),
    ('Git commit', record.get('git_commit')),
  ]
  command = record.get('command')
  if command:
    command = command if isinstance(command, str) else ' '.join(map(str, command))
  lines = [
    f'<dt>{name}</dt><dd>{markup.escape(value)}</dd>'
    for name, value in entries
    if value not in (None, '')
  ]
  if command:
    lines.append(f'<dt>Command</dt><dd><code>{markup.escape(command)}</code></dd>')
  return f'<dl>{"".join(lines)}</dl>'


def _milliseconds(measured: Mapping[str, Any] | None) -> str | None:
  if not measured:
    return None
  value, stderr = (1e3 * measured[key] for key in ('value', 'stderr'))
  chunk = measured['of']['chunk_size']
  return f'{numbers.format_number(value, stderr)} ms, in chunks of {chunk}'


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
    return markup.missing('Coherence was not evaluated.')
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
  caption = markup.sentence(
    'Coherence against the number of observed modalities; bars are standard errors',
    'Faint: single targets' if per_target else '',
    f'Chance is {1 / classes:.3g}' if numbers.is_finite(classes) and classes else '',
    _measured(rows),
    _size_note(rows),
  )
  png = figures.against_observed(mean, per_target, added, ylabel='coherence')
  plot = markup.plot(png, caption)
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
  caption = markup.sentence(
    'Coherence given exactly one modality', _size_note(list(single.values()))
  )
  return markup.plot(figures.matrix(targets, values), caption)


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
    return markup.missing('Joint coherence was not evaluated.')
  by_count = {row.get('at_least') or total: row for row in rows}
  counts = sorted(by_count)
  labels = [f'≥ {count}' if count < total else f'all {total}' for count in counts]
  ordered = [by_count[count] for count in counts]
  caption = markup.sentence(
    'Share of unconditional samples in which at least so many modalities show the '
    'same class',
    _measured(rows),
  )
  table = _number_table(
    ['modalities that agree', '#share of samples'],
    list(zip(labels, ordered, strict=True)),
  )
  if len(ordered) == 1:
    return table + f'<p class="muted">{markup.escape(caption)}</p>'
  plot = markup.plot(figures.bars(labels, ordered, 'share of samples'), caption)
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
    parts.append(f'<h3>{markup.escape(name)}</h3>')
    if len({count for line in (mean, *per_target.values()) for count in line}) > 1:
      caption = markup.sentence(
        f'{name} between generated and real examples; lower is better; 0 observed '
        'modalities means unconditional samples',
        _measured(rows),
        _size_note(rows),
      )
      png = figures.against_observed(mean, per_target, {}, ylabel='distance')
      parts.append(markup.plot(png, caption))
    else:
      parts.append(f'<p class="muted">{markup.escape(_measured(rows))}</p>')
    parts.append(_curve_table(mean, per_target))
  if not parts:
    return markup.missing('The Fréchet distance was not evaluated.')
  return ''.join(parts)


def _precision_recall(run: RunFolder) -> str:
  rows = {name: run.results.of(name) for name in ('precision', 'recall')}
  measured = rows['precision'] + rows['recall']
  if not measured:
    return markup.missing('Precision and recall were not evaluated.')
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
  note = markup.sentence(
    'Precision: share of generated examples that lie within the real ones; recall: '
    'share of real examples that lie within the generated ones',
    _measured(measured),
  )
  return f'<p class="muted">{markup.escape(note)}</p>' + _number_table(head, body)


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
  body = []
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
    values = [str(fields[name] or '–') for name in names]
    values[0] += ' *' if setting == main else ''
    body.append([*values, *cells])
  labels = {'nfe': 'network evaluations'}
  head = [labels.get(name, name) for name in head]
  return _number_table(head, body, '* The setting of the sections above')


def _quality_against_cost(run: RunFolder) -> str:
  """Where one kind of sampler was measured with several numbers of steps."""
  total = len(run.modalities)
  points = [
    (numbers.family(row), row['nfe'], row, total)
    for row in run.results.rows
    if numbers.is_finite(row.get('nfe'))
  ]
  panels = numbers.quality_curves(points)
  if not panels:
    return ''
  rows = [row for p in panels.values() for line in p.values() for row in line.values()]
  caption = markup.sentence(
    'Each sampler with several numbers of steps; bars are standard errors; of the '
    'Fréchet distance, low is good',
    _size_note(rows),
  )
  png = figures.panels_of_curves(panels, xlabel='network evaluations per sample')
  return markup.plot(png, caption)


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
          parts.append(markup.missing(str(error)))
        continue
      caption = f'{samples.title} ({path.name})'
      parts.append(markup.figure(images.encode_png(panel), caption))
    if not parts:
      return markup.missing(missing)
    return f'<p>{markup.escape(intro)}</p>' + ''.join(parts)

  return make


def _training(run: RunFolder) -> str:
  panels = _training_panels(run.metrics)
  if not panels:
    return markup.missing('metrics.jsonl holds no curves.')
  caption = (
    'Every learner: raw values faintly, their exponential moving average strongly.'
  )
  return markup.plot(figures.training(panels), caption) + _learner_table(run)


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
  return markup.table(head, body)


def _timing_table(run: RunFolder) -> str:
  timings = _timings(run.record)
  if not timings:
    return markup.missing('No timings were recorded.')
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
  return markup.table(['stage', '#time', '#share'], body)


def _all_numbers(run: RunFolder) -> str:
  rows = run.results.rows
  if not rows:
    return markup.missing('results.jsonl holds no numbers: not evaluated yet.')
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
        markup.number_cell(row),
        *('–' if text is None else str(text) for text in texts),
      ]
    )
  head = ['metric', '#value', 'target', 'given', *extra, *setting]
  more = ''
  if len(rows) > MAX_ROWS:
    more = f'<p>The first {MAX_ROWS:,} of {len(rows):,} rows of results.jsonl.</p>'
  summary = f'<summary>{len(rows):,} rows of results.jsonl</summary>'
  return f'<details>{summary}{more}{markup.table(head, body)}</details>'


def _config(run: RunFolder) -> str:
  if not run.config:
    return markup.missing('The config was not recorded.')
  return markup.folded('Resolved config', json.dumps(run.config, indent=2))


SECTIONS = (
  ('Results', _headline),
  ('What was run', _what_was_run),
  ('Coherence', _coherence),
  ('Joint coherence', _joint_coherence),
  ('Fréchet distance', _frechet),
  ('Precision and recall', _precision_recall),
  ('Samplers compared', _samplers),
  ('Quality against network evaluations', _quality_against_cost),
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
  source = run.record.get('data_source') or numbers.describe(run.config.get('data'))
  footer = (
    'Written by mmsbm from run.json, metrics.jsonl, results.jsonl and samples/ of this '
    'run. ± is one standard error; n is the number of examples judged.'
  )
  return markup.page(run.path.resolve().name, source or '', sections, footer)
