"""The files of a run, finished or not, as the page needs them."""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import markupsafe
import pandas as pd

from mmsbm.infra import errors, metric_writer
from mmsbm.report import results

KINDS_OF_SAMPLES = ('conditional', 'unconditional', 'reconstruction')
# The side in pixels of pictures that are enlarged, with sharp pixels.
SMALL = 64


@dataclasses.dataclass(frozen=True)
class RunFolder:
  """Everything that a run has left so far; absent files are empty.

  Attributes:
    path: the folder.
    record: run.json.
    rows: results.jsonl.
    curves: metrics.jsonl, with the columns `step` and `learner`.
    about: evaluation/metrics.json.
    samples: samples/*.json, those given something first.
    problems: what is wrong with the files, one sentence each.
  """

  path: pathlib.Path
  record: Mapping[str, Any]
  rows: pd.DataFrame
  curves: pd.DataFrame
  about: Mapping[str, Mapping[str, str]]
  samples: Sequence[Mapping[str, Any]]
  problems: Sequence[str]

  @property
  def config(self) -> Mapping[str, Any]:
    return self.record.get('config') or {}

  @property
  def modalities(self) -> tuple[str, ...]:
    targets = [
      t for t in self.rows.target.dropna().unique() if t not in ('mean', 'all')
    ]
    return tuple(self.config.get('modalities') or targets)


def read_run(workdir: str | os.PathLike) -> RunFolder:
  """Reads a run's files; what cannot be read becomes a problem that the page states."""
  path = pathlib.Path(workdir)
  if not path.is_dir():
    raise errors.UserError(f'{path} is not a folder; give the --workdir of a run.')
  problems: list[str] = []

  def read(name: str, function: Callable, default: Any):
    try:
      return function(path / name) if (path / name).exists() else default
    except errors.UserError as error:
      problems.append(str(error))
    except (ValueError, OSError) as error:
      problems.append(
        f'{name} is not readable ({error}); repeat the run to rewrite it.'
      )
    return default

  if not (path / 'run.json').exists():
    problems.append('run.json is missing, so the settings are not known.')
  samples = [
    {**content, 'file': file.name}
    for file in sorted((path / 'samples').glob('*.json'))
    if (content := read(f'samples/{file.name}', _read_samples, None))
  ]
  return RunFolder(
    path=path,
    record=read('run.json', _read_mapping, {}),
    rows=read('results.jsonl', results.read_rows, results.read_rows(os.devnull)),
    curves=read('metrics.jsonl', _read_curves, _read_curves(os.devnull)),
    about=read('evaluation/metrics.json', _read_mapping, {}),
    samples=sorted(
      samples, key=lambda s: (KINDS_OF_SAMPLES.index(s['kind']), not s['aligned'])
    ),
    problems=problems,
  )


def _read_mapping(path) -> dict[str, Any]:
  content = json.loads(pathlib.Path(path).read_bytes())
  if not isinstance(content, dict):
    raise ValueError('not an object')
  return content


def _read_samples(path) -> dict[str, Any]:
  content = _read_mapping(path)
  if content.get('kind') not in KINDS_OF_SAMPLES:
    raise ValueError(f'kind {content.get("kind")!r} is none of {KINDS_OF_SAMPLES}')
  try:
    content['rows'] = [_example(row) for row in content['rows']]
  except (KeyError, TypeError, AttributeError) as error:
    raise ValueError(f'rows of another form: {error!r}') from error
  # Examples whose tiles mean the same stand below each other.
  layouts = [
    [(g['role'], g['words']) for g in row['groups']] for row in content['rows']
  ]
  content['aligned'] = all(layout == layouts[0] for layout in layouts)
  return content


def _example(row: Mapping[str, Any]) -> dict[str, Any]:
  """Consecutive tiles of one role are a group; their HTML is that of our own kinds."""
  groups: list[dict[str, Any]] = []
  for tile in row['tiles']:
    if not groups or groups[-1]['role'] != tile['role']:
      groups.append({'role': tile['role'], 'tiles': [], 'words': []})
    caption = tile.get('caption') or tile.get('modality', '')
    groups[-1]['words'].append(caption)
    groups[-1]['tiles'].append(
      {
        'html': markupsafe.Markup(tile['html']),
        'caption': caption,
        'look': _look(tile['html']),
      }
    )
  return {'caption': row.get('caption', ''), 'groups': groups}


def _look(tile: str) -> str:
  """The class of a tile: a small or a large picture, or a drawing or words."""
  picture = re.match(r'\s*<img\b[^>]*?(?:\bwidth="(\d+)"|>)', tile)
  if not picture:
    return 'free'
  return 'large' if int(picture[1] or 0) > SMALL else 'small'


def _read_curves(path) -> pd.DataFrame:
  rows = pd.DataFrame(metric_writer.read_jsonl(path))
  rows = rows.reindex(columns=list(dict.fromkeys(['step', 'learner', *rows])))
  rows['step'] = pd.to_numeric(rows.step, errors='coerce')
  return rows.dropna(subset=['step', 'learner'])
