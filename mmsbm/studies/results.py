"""The numbers of a study, as two CSV files that are read by people, diff and pandas.

NAME.csv holds a line for each average of a run: row, sampling, metric, num_given and
features say what it is, value and stderr are the number, n, nfe, jax and device say
what it was measured with. NAME.rows.csv holds a line for each row and way of sampling:
what was run, how, and by which version of the program. launch/results/README.md has a
table of all fields.

In Python a number is a line, a dictionary of the fields of both without the empty ones.
"""

import json
import pathlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from mmsbm.infra.errors import UserError
from mmsbm.infra.files import write_atomic
from mmsbm.infra.metric_writer import read_results
from mmsbm.record import parse_record
from mmsbm.report.results import is_average
from mmsbm.studies.definition import Row, Study, digest
from mmsbm.studies.runner import locked, read_costs, run_costs, timed_costs

Line = dict[str, Any]

KEY = ('row', 'sampling')
NUMBER_FIELDS = (
  *KEY, 'metric', 'num_given', 'features', 'value', 'stderr', 'n', 'nfe', 'jax',
  'device',
)  # fmt: skip
# Fields of a line of a generated example that may be empty, but not absent.
_MAY_BE_EMPTY = ('sampler', 'conditioning', 'guidance')
_OF_RUN = (
  'split', 'seed', 'step', 'modalities', 'paired_fraction', 'version', 'definition',
  'command',
)  # fmt: skip
ROW_FIELDS = (*KEY, 'columns', *_MAY_BE_EMPTY, *_OF_RUN)
# Fields of a row of results.jsonl that a line keeps.
_MEASURED = (
  'sampling', *_MAY_BE_EMPTY, 'nfe', 'metric', 'num_given', 'features', 'stderr', 'n',
  'split', 'seed', 'step',
)  # fmt: skip
# Sections of a config that say how a trained run is measured.
_MEASURING = ('samplings', 'decoder_sampler', 'decoder_guidance', 'evaluate')


_READ: dict[str, Callable[[str], Any]] = {
  **dict.fromkeys(('num_given', 'n', 'nfe', 'seed', 'step', 'modalities'), int),
  **dict.fromkeys(('stderr', 'paired_fraction'), float),
  'value': json.loads,
  'columns': lambda text: dict(part.split(': ', 1) for part in text.split(' | ')),
}


def _as_text(value: Any) -> str:
  if isinstance(value, Mapping):
    return ' | '.join(f'{key}: {text}' for key, text in value.items())
  return '' if value is None else str(value)


def rows_path(path: pathlib.Path) -> pathlib.Path:
  """The file of rows beside a file of numbers: NAME.rows.csv."""
  return path.with_suffix('.rows.csv')


def write_lines(path: pathlib.Path, lines: Sequence[Line]) -> None:
  """Writes the numbers of `lines` to `path` and what was run to `rows_path(path)`."""
  fields = list(dict.fromkeys(NUMBER_FIELDS + ROW_FIELDS))
  texts = [[_as_text(line.get(field)) for field in fields] for line in lines]
  table = pd.DataFrame(texts, columns=fields)
  runs = table[list(ROW_FIELDS)].drop_duplicates(list(KEY))
  write_atomic(rows_path(path), runs.to_csv(index=False))
  write_atomic(path, table[list(NUMBER_FIELDS)].to_csv(index=False))


def read_lines(path: pathlib.Path) -> list[Line]:
  """The lines that `write_lines` was given; none if there are no files."""
  if not path.exists():
    return []
  try:
    numbers, runs = (
      pd.read_csv(file, dtype=str, keep_default_na=False)
      for file in (path, rows_path(path))
    )
    table = numbers.merge(runs, on=list(KEY), how='left', validate='many_to_one')
    if table['columns'].isna().any():
      raise ValueError('a row is missing')
    return [_line(fields) for fields in table.to_dict('records')]
  except (OSError, LookupError, ValueError) as e:
    raise UserError(
      f'{path} and {rows_path(path).name} cannot be read together '
      f'({" ".join(str(e).split())}): restore both, or delete both.'
    ) from e


def _line(fields: Mapping[str, str]) -> Line:
  line: Line = {'columns': {}, 'value': None}
  line |= dict.fromkeys(_MAY_BE_EMPTY, '') if fields['sampling'] else {}
  return line | {k: _READ.get(k, str)(text) for k, text in fields.items() if text}


def _lines_of_run(study: Study, row: Row) -> list[Line]:
  """What a finished run measured, and what it cost."""
  folder = study.folder(row)
  measured = read_results(folder / 'results.jsonl')
  if not measured:
    return []
  record = parse_record(folder / 'run.json')
  config = record['config']
  common = {
    'row': row.name,
    'columns': dict(row.columns),
    'seed': config['seed'],
    'split': measured[0].get('split'),
    'step': measured[0].get('step'),
    'modalities': len(config['modalities']),
    'paired_fraction': float(config.get('score', {}).get('paired_fraction', 1.0)),
    'version': (record.get('git_commit') or record['versions'].get('mmsbm', ''))[:7],
    'definition': definition_of(record),
    'command': study.command(row),
    'jax': record['versions']['jax'],
    'device': ', '.join(sorted(set(record['devices']))),
  }
  lines = []
  for result in measured:
    if is_average(result, common['modalities']):
      columns = {**row.columns, **row.sampling_columns.get(result.get('sampling'), {})}
      kept = {k: result[k] for k in _MEASURED if result.get(k) is not None}
      # A value that is not finite stays, as None.
      lines.append(common | {'columns': columns, 'value': result['value']} | kept)
  return lines + _costs(common, run_costs(folder, record))


def definition_of(record: Mapping[str, Any]) -> str:
  """Identifies what was measured: fingerprints of the steps, and the options."""
  config = record['config']
  return digest([record.get('steps'), {key: config.get(key) for key in _MEASURING}])


def _costs(common: Line, costs: Mapping[str, float]) -> list[Line]:
  return [common | {'metric': key, 'value': value} for key, value in costs.items()]


def collect(study: Study, path: pathlib.Path) -> list[Line]:
  """Brings the files up to date and returns their lines.

  Rows that are finished here replace what the files say of them; rows that were
  measured elsewhere stay while the study has a row of that name, but for costs that
  were measured here.
  """
  all_lines: list[Line] = []
  with locked(study.log('results.lock'), wait=True):
    elsewhere, known_costs = from_elsewhere(study, path), read_costs(study)
    for row in study.rows:
      finished = study.finished(row)
      lines = _lines_of_run(study, row) if finished else elsewhere[row.name]
      measured = known_costs.get(study.program(row))
      if lines and measured:
        costs = timed_costs(measured)
        common = {key: lines[0][key] for key in _OF_RUN if key in lines[0]}
        common |= {'row': row.name, 'columns': dict(row.columns), **measured['where']}
        lines = [line for line in lines if line['metric'] not in costs]
        lines += _costs(common, costs)
      all_lines += lines
    write_lines(path, all_lines)
  return all_lines


def from_elsewhere(study: Study, path: pathlib.Path) -> dict[str, list[Line]]:
  """{name: lines of the files} of every row of the study, all with its settings."""
  lines: dict[str, list[Line]] = {row.name: [] for row in study.rows}
  settings = [f'--set={setting}' for setting in study.public_settings]
  for line in read_lines(path):
    if line['row'] not in lines:
      continue
    words = [w for w in shlex.split(line['command']) if w.startswith('--set=')]
    if words != settings:
      raise UserError(
        f'{path} has row {line["row"]} with {shlex.join(words) or "no --set"}, unlike '
        'this command: choose another --results, or delete that file.'
      )
    lines[line['row']].append(line)
  return lines
