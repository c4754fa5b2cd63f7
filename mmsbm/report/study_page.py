"""The page of a study, and its pictures for documents."""

import base64
import os
import pathlib
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mmsbm.infra import errors, files
from mmsbm.report import figures, grid, tables
from mmsbm.report.page import render
from mmsbm.report.results import Number, family
from mmsbm.report.tables import Entry

# Frames of the trade-off: title -> coherence and quality, but for the features.
TRADE_OFFS = {
  'given one modality': (('coherence', 1), ('frechet', 1)),
  'given the rest': (('coherence', 'rest'), ('frechet', 'rest')),
  'given nothing': (('joint_coherence', 0), ('frechet', 0)),
}
# Frames of the curves over entries.
QUALITY = {
  'joint coherence': ('joint_coherence', 0),
  'coherence given the rest': ('coherence', 'rest'),
  'Fréchet distance, unconditional': ('frechet', 0),
}


def write_study_report(
  path: str | os.PathLike,
  name: str,
  lines: Sequence[Mapping[str, Any]],
  samples: Mapping[str, str | os.PathLike] | None = None,
) -> pathlib.Path:
  """Writes the page of a study.

  Args:
    path: of the page, which refers to nothing outside itself.
    name: of the study.
    lines: of its results file.
    samples: {method: its file of samples, NAME.npz}, all of the same examples.

  Returns:
    The path.
  """
  listed, problems, pictures = tables.entries(lines), [], b''
  default = [e for e in listed if e.first['sampling'] == 'default']
  try:
    pictures = compare_samples(samples) if len(samples or ()) > 1 else b''
  except errors.UserError as error:
    problems.append(str(error))
  frames = _trade_offs(listed)
  curves = {
    'Quality against network evaluations': _curves(
      [(f'{e.run()}, {_way(e)}', e.first['nfe'], e) for e in listed if e.first['nfe']],
      'network evaluations per sample',
    ),
    'Paired tuples': _curves(
      _paired_points(default), 'share of training tuples whose pairing is known'
    ),
    'Number of modalities': _curves(
      [(e.run('modalities'), e.first['modalities'], e) for e in default], 'modalities'
    ),
  }
  groups: dict[str, list] = {entry.group: [] for entry in listed}
  for line in lines:
    groups.setdefault(line['columns'].get('group', ''), []).append(line)
  commands = {line['row']: line['command'] for line in lines}
  html = render(
    'study.html.j2',
    name=name,
    subtitle='',
    chips=[f'{len(commands)} finished runs', f'{len(listed)} lines'],
    problems=problems,
    groups={k: t for k, x in groups.items() if (t := tables.generation_table(x)).lines},
    trade_offs=figures.svg(figures.trade_offs(frames), 'trade-offs') if frames else '',
    samples=base64.b64encode(pictures).decode(),
    curves={title: svg for title, svg in curves.items() if svg},
    networks=tables.network_table(lines),
    commands='\n'.join(commands.values()),
  )
  files.write_atomic(path, html)
  return pathlib.Path(path)


def trade_off_figure(lines: Sequence[Mapping[str, Any]]) -> bytes:
  """Draws coherence against quality of the methods as PNG; empty if there is one."""
  frames = _trade_offs(tables.entries(lines))
  return figures.png(figures.trade_offs(frames)) if frames else b''


def _trade_offs(listed: Sequence[Entry]) -> dict[str, dict]:
  """What `figures.trade_offs` draws: each method as it is sampled from."""
  methods = [e for e in listed if e.group in ('', 'methods')]
  frames = {}
  for title, (coherence, quality) in TRADE_OFFS.items():
    features = _first_features(methods, quality)
    cells = {
      (e.run(), e.sampling()): (e.cell(*coherence), e.cell(*quality, features))
      for e in methods
    }
    points = {
      k: xy for k, xy in cells.items() if all(c and c.value is not None for c in xy)
    }
    if len(points) > 1:
      frames[title] = points
  return frames


def _first_features(listed: Iterable[Entry], measure: tuple) -> str | None:
  return next((m[2] for e in listed for m in e.cells if m[:2] == measure), None)


def _curves(points: Sequence[tuple[str, float, Entry]], xlabel: str) -> str:
  """Curves through entries (line, x, entry); nothing if no line has two points."""
  frames = {}
  for title, measure in QUALITY.items():
    features = _first_features((entry for *_, entry in points), measure)
    lines: dict[str, dict[float, Number]] = {}
    for name, x, entry in points:
      cell = entry.cells.get((*measure, features))
      if cell:
        lines.setdefault(name, {})[x] = cell
    frames[title] = {n: line for n, line in lines.items() if len(line) > 1}
  frames = {title: lines for title, lines in frames.items() if lines}
  return figures.curves(frames, xlabel=xlabel, is_log=True) if frames else ''


def _paired_points(listed: Sequence[Entry]) -> list[tuple[str, float, Entry]]:
  """Points of the curves; one with all pairs known ends all curves of its name.

  If the study has none in its column `paired`, which is trained as the others are, it
  is the one that says nothing of pairs.
  """
  whole: dict[str, Entry] = {}
  for entry in sorted(listed, key=lambda e: 'paired' not in e.columns):
    if entry.first['paired_fraction'] == 1:
      whole.setdefault(entry.run('paired', 'unpaired'), entry)
  partial = [e for e in listed if e.first['paired_fraction'] != 1]
  ends = {e.run('paired'): whole.get(e.run('paired', 'unpaired')) for e in partial}
  points = [(e.run('paired'), e.first['paired_fraction'], e) for e in partial]
  return points + [(name, 1.0, end) for name, end in ends.items() if end]


def _way(entry: Entry) -> str:
  """How samples were drawn, but for the number of steps."""
  sampler = entry.first['columns'].get('sampler')
  words = filter(None, [sampler, entry.sampling('sampler')])
  return ', '.join(words) if sampler else family(entry.first)


def compare_samples(
  paths: Mapping[str, str | os.PathLike], max_examples: int = 10, max_targets: int = 3
) -> bytes:
  """Draws what several runs make of the same examples: a row for each run.

  A row holds the first sample of every example, for one modality after another. Above
  stand what was given and the true examples. Only pictures are drawn.

  Args:
    paths: {caption of the row: conditional file, samples/NAME.npz}. Files of other
      examples than the first one, or of other modalities, are left out.
    max_examples: shown of each file.
    max_targets: generated modalities shown.

  Returns:
    PNG; empty if no generated modality is a picture.

  Raises:
    UserError: a file is damaged.
  """
  loaded = {caption: _load(path) for caption, path in paths.items()}
  first = next(iter(loaded.values()))
  observed = dict(zip(first['modalities'], first['observed'].all(0), strict=True))
  pictures = [m for m in observed if _is_picture(first[f'given/{m}'])]
  targets = [m for m in pictures if not observed[m]][:max_targets]
  count = min(max_examples, len(first['observed']))
  if not targets:
    return b''

  def row(blocks):
    # A gap stands between modalities.
    return [tile for block in blocks for tile in (*block[:count], None)][:-1]

  rows = {
    f'given {m}': row([first[f'given/{m}']] * len(targets))
    for m in pictures
    if observed[m]
  }
  rows['test examples'] = row(first[f'given/{m}'] for m in targets)
  same = ['modalities', 'observed', *(name for name in first if 'given/' in name)]
  for caption, content in loaded.items():
    if all(np.array_equal(first[name], content.get(name)) for name in same):
      rows[caption] = row(content[f'generated/{m}'][:, 0] for m in targets)
  titles = [m if i == 0 else '' for m in targets for i in range(count + 1)][:-1]
  return grid.draw_grid(list(rows.values()), list(rows), titles)


def _load(path: str | os.PathLike) -> dict[str, np.ndarray]:
  try:
    # NumPy leaves a file open that turns out to be no archive.
    with open(path, 'rb') as f, np.load(f, allow_pickle=False) as archive:
      arrays = dict(archive)
    # Every file of samples has these two.
    arrays['modalities'], arrays['observed']
    return arrays
  except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
    raise errors.UserError(
      f'{path} is not a file of samples ({error}); delete it and sample again.'
    ) from error


def _is_picture(array: np.ndarray) -> bool:
  return array.dtype == np.uint8 and array.ndim == 4 and array.shape[-1] in (1, 3)
