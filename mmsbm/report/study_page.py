"""The page of a study: its tables and curves."""

import os
import pathlib
from collections.abc import Sequence

from mmsbm.infra import files
from mmsbm.report import figures, markup, numbers, tables
from mmsbm.report.tables import Entry, Table


def write_study_report(
  path: str | os.PathLike, name: str, lines: Sequence[numbers.Row]
) -> pathlib.Path:
  """Writes the page of a study; returns its path.

  Args:
    path: of the page, which refers to nothing outside itself.
    name: of the study.
    lines: of its results file.
  """
  found = tables.entries(lines)
  default = [e for e in found if e.first.get('setup') == 'default']
  sections = [
    ('Quality', _table(tables.generation_table(lines)) if found else _NOTHING),
    (
      'Quality against network evaluations',
      _curves(
        [(f'{e.run()}, {numbers.family(e.first)}', e.nfe, e) for e in found if e.nfe],
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


_NOTHING = markup.missing('No row is finished yet.')


def _paired_points(found: Sequence[Entry]) -> list[tuple[str, float, Entry]]:
  """Points of the curves; one with all pairs known begins all curves of its name."""
  points = []
  for entry in found:
    name, fraction = entry.run('paired'), entry.first['paired_fraction']
    if fraction < 1:
      alone = entry.run('paired', 'unpaired')
      points.append((name, fraction, entry))
      points += [(name, 1.0, e) for e in found if e.run() == alone]
  return points


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
