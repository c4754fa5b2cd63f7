"""The page of a study: its tables and curves."""

import os
import pathlib
from collections.abc import Mapping, Sequence

from mmsbm.infra import errors, files, images
from mmsbm.report import figures, markup, numbers, tables
from mmsbm.report.samples import compare_samples
from mmsbm.report.tables import Entry, Table


def write_study_report(
  path: str | os.PathLike,
  name: str,
  lines: Sequence[numbers.Row],
  samples: Mapping[str, str | os.PathLike] | None = None,
) -> pathlib.Path:
  """Writes the page of a study; returns its path.

  Args:
    path: of the page, which refers to nothing outside itself.
    name: of the study.
    lines: of its results file.
    samples: {method: its file of samples}, all of the same examples.
  """
  found = tables.entries(lines)
  default = [e for e in found if e.first.get('setup') == 'default']
  sections = [
    ('Quality', _table(tables.generation_table(lines)) if found else _NOTHING),
    ('Coherence against quality', _trade_offs(found)),
    ('Samples given one modality', _samples(samples or {})),
    (
      'Quality against network evaluations',
      _curves(
        [(f'{e.run()}, {_way(e)}', e.nfe, e) for e in found if e.nfe],
        'network evaluations per sample',
      ),
    ),
    (
      'Paired tuples',
      _curves(
        _paired_points(default), 'share of training tuples whose pairing is known'
      ),
    ),
    (
      'Number of modalities',
      _curves([(e.run('modalities'), e.modalities, e) for e in default], 'modalities'),
    ),
    ('Trained networks', _networks(lines)),
    ('Commands', _commands(lines)),
  ]
  path = pathlib.Path(path)
  subtitle = f'{len({line["row"] for line in lines})} finished runs'
  footer = 'Written by mmsbm.study from the results of its runs.'
  files.write_atomic(path, markup.page(name, subtitle, sections, footer, wide=True))
  return path


# The group whose entries are compared with each other.
METHODS = 'methods'
_NOTHING = markup.missing('No row is finished yet.')


def _paired_points(found: Sequence[Entry]) -> list[tuple[str, float, Entry]]:
  """Points of the curves; one with all pairs known ends all curves of its name.

  If the study has none in its column `paired`, which is trained as the others are, it
  is the one that says nothing of pairs.
  """
  whole: dict[str, Entry] = {}
  for entry in sorted(found, key=lambda e: 'paired' not in e.columns):
    if entry.first['paired_fraction'] == 1:
      whole.setdefault(entry.run('paired', 'unpaired'), entry)
  points, ended = [], set()
  for entry in found:
    name, fraction = entry.run('paired'), entry.first['paired_fraction']
    if fraction == 1:
      continue
    points.append((name, fraction, entry))
    end = whole.get(entry.run('paired', 'unpaired'))
    if end and name not in ended:
      points.append((name, 1.0, end))
      ended.add(name)
  return points


def trade_off_figure(lines: Sequence[numbers.Row]) -> bytes:
  """Coherence against quality of the methods as a PNG; empty if there is only one."""
  panels = _trade_off_panels(tables.entries(lines))
  return figures.trade_offs(panels) if panels else b''


def _trade_off_panels(found: Sequence[Entry]) -> dict[str, dict]:
  """What `figures.trade_offs` draws: each method as it is sampled from."""
  methods = [e for e in found if e.columns.get('group', METHODS) == METHODS]
  panels = {}
  for title, measures in numbers.TRADE_OFFS.items():
    features = next(
      (m[2] for e in methods for m in e.cells if m[:2] == measures[1]), None
    )
    points = {}
    for entry in methods:
      cells = [
        entry.cell((*measure, kind))
        for measure, kind in zip(measures, (None, features), strict=True)
      ]
      if all(cell and numbers.is_finite(cell['value']) for cell in cells):
        points[entry.run(), entry.sampling()] = tuple(cells)
    if len(points) > 1:
      panels[title] = points
  return panels


def _trade_offs(found: Sequence[Entry]) -> str:
  panels = _trade_off_panels(found)
  if not panels:
    return ''
  caption = (
    'Better is to the right and below; bars are standard errors. Along the line '
    'nothing is better in both. Given nothing the coherence is the joint one.'
  )
  return markup.plot(figures.trade_offs(panels), caption)


def _samples(paths: Mapping[str, str | os.PathLike]) -> str:
  if len(paths) < 2:
    return ''
  try:
    panel = compare_samples(paths)
  except errors.UserError as error:
    return markup.missing(str(error))
  caption = 'The first sample of the first test examples of each class, unselected.'
  return markup.figure(images.encode_png(panel), caption)


def _curves(points: Sequence[tuple[str, float, Entry]], xlabel: str) -> str:
  """Panels of curves through entries; nothing if no line has two points."""
  panels = numbers.quality_curves(
    [
      (name, x, cell, e.modalities)
      for name, x, e in points
      for cell in e.cells.values()
    ]
  )
  if not panels:
    return ''
  caption = (
    f'Against the {xlabel}; bars are standard errors. Given the rest: all modalities '
    'but one are observed. Of the Fréchet distance, low is good.'
  )
  return markup.plot(figures.panels_of_curves(panels, xlabel=xlabel), caption)


def _way(entry: Entry) -> str:
  """How samples were drawn, but for the number of steps."""
  sampler = entry.first['columns'].get('sampler')
  if sampler is None:
    return numbers.family(entry.first)
  rest = (entry.columns.get(key) for key in ('conditioning', 'guidance'))
  return ', '.join(filter(None, [sampler, *rest]))


def _table(table: Table) -> str:
  said, words = table.words()
  body = [
    line
    + [
      markup.number_cell(
        entry.cell(measure), with_n=False, bold=table.is_best(entry, measure)
      )
      for _, measure in table.measured
    ]
    for entry, line in zip(table.entries, words, strict=True)
  ]
  head = [*said, *(f'#{caption}' for caption, _ in table.measured)]
  bold = ' Bold is the best of its group.' if table.generated else ''
  return markup.table(head, body, 'dense') + markup.note(tables.note(table) + bold)


def _networks(lines: Sequence[numbers.Row]) -> str:
  table = tables.network_table(lines)
  return _table(table) if table.entries else ''


def _commands(lines: Sequence[numbers.Row]) -> str:
  commands = {line['row']: line['command'] for line in lines}
  return markup.folded('The command of every row', '\n'.join(commands.values()))
