"""The numbers of a study, as two CSV files that are read by people, diff and pandas.

NAME.csv holds a line for each average of a run: row, sampling, metric, num_given and
features say what it is, value and stderr are the number, n, nfe, jax and device say
what it was measured with. NAME.rows.csv holds a line for each row and way of sampling:
what was run, how, and by which version of the program. launch/results/README.md has a
table of all fields.

In Python a number is a line, a dictionary of the fields of both without the empty ones.
"""

import hashlib
import json
import pathlib
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from mmsbm.infra.errors import UserError
from mmsbm.infra.files import write_atomic
from mmsbm.infra.metric_writer import read_results
from mmsbm.report.results import is_average
from mmsbm.studies.definition import Row, Study
from mmsbm.studies.runner import locked, read_costs, run_costs, timed_costs

Line = dict[str, Any]

KEY = ('row', 'sampling')
NUMBER_FIELDS = (
  *KEY, 'metric', 'num_given', 'features', 'value', 'stderr', 'n', 'nfe', 'jax',
  'device',
)  # fmt: skip
ROW_FIELDS = (
  *KEY, 'columns', 'sampler', 'conditioning', 'guidance', 'split', 'seed', 'step',
  'modalities', 'paired_fraction', 'version', 'definition', 'command',
)  # fmt: skip
# Fields of a row of results.jsonl that a line keeps.
_MEASURED = (
  'sampling', 'sampler', 'conditioning', 'guidance', 'nfe', 'metric', 'num_given',
  'features', 'stderr', 'n', 'split', 'seed', 'step',
)  # fmt: skip
# Fields of a line of a generated example that may be empty, but not absent.
_MAY_BE_EMPTY = ('sampler', 'conditioning', 'guidance')
_OF_SAMPLING = ('sampling', *_MAY_BE_EMPTY)
# Sections of a config that say how a trained run is measured.
_MEASURING = ('samplings', 'decoder_sampler', 'decoder_guidance', 'evaluate')


# --- the files ----------------------------------------------------------------


def _number(text: str) -> int | float:
  return int(text) if re.fullmatch(r'-?\d+', text) else float(text)


def _columns(text: str) -> dict[str, str]:
  return dict(part.split(': ', 1) for part in text.split(' | '))


_READ: dict[str, Callable[[str], Any]] = {
  **dict.fromkeys(('num_given', 'n', 'nfe', 'seed', 'step', 'modalities'), int),
  **dict.fromkeys(('stderr', 'paired_fraction'), float),
  'value': _number,
  'columns': _columns,
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
  table = pd.DataFrame(
    [{field: _as_text(line.get(field)) for field in fields} for line in lines],
    columns=fields,
  )
  runs = table[list(ROW_FIELDS)].drop_duplicates(list(KEY))
  write_atomic(rows_path(path), runs.to_csv(index=False))
  write_atomic(path, table[list(NUMBER_FIELDS)].to_csv(index=False))


def read_lines(path: pathlib.Path) -> list[Line]:
  """The lines that `write_lines` was given; none if there are no files.

  Raises:
    UserError: the files are damaged, or do not belong together.
  """
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


# --- from the runs ------------------------------------------------------------


def gather(study: Study) -> dict[str, list[Line]]:
  """{name: lines} of every finished row."""
  costs = read_costs(study)
  return {
    row.name: _with_timed(_lines_of_run(study, row), row, costs.get(study.program(row)))
    for row in study.rows
    if study.finished(row)
  }


def _lines_of_run(study: Study, row: Row) -> list[Line]:
  folder = study.folder(row)
  measured = read_results(folder / 'results.jsonl')
  if not measured:
    return []
  record = json.loads((folder / 'run.json').read_text())
  config = record['config']
  num_modalities = len(config['modalities'])
  common = {
    'seed': config['seed'],
    'split': measured[0].get('split'),
    'step': measured[0].get('step'),
    'modalities': num_modalities,
    'paired_fraction': float(config.get('score', {}).get('paired_fraction', 1.0)),
    'version': (record.get('git_commit') or record['versions'].get('mmsbm', ''))[:7],
    'definition': definition_of(record),
    'command': study.command(row),
    'jax': record['versions']['jax'],
    'device': ', '.join(sorted(set(record['devices']))),
  }
  lines = []
  for result in measured:
    if is_average(result, num_modalities):
      kept = {k: result[k] for k in _MEASURED if result.get(k) is not None}
      special = row.sampling_columns.get(result.get('sampling'), {})
      columns = {**row.columns, **special}
      # A value that is not finite stays, as None.
      line = {**common, 'row': row.name, 'columns': columns, 'value': result['value']}
      lines.append(line | kept)
  costs = run_costs(folder, record).items()
  return lines + [common | _cost_line(row, *cost) for cost in costs]


def definition_of(record: Mapping[str, Any]) -> str:
  """Identifies what was measured: fingerprints of the steps, and the options."""
  config = record['config']
  parts = [record.get('steps'), {key: config.get(key) for key in _MEASURING}]
  text = json.dumps(parts, sort_keys=True)
  return hashlib.sha1(text.encode()).hexdigest()[:16]


def _cost_line(row: Row, metric: str, value: float) -> Line:
  columns = dict(row.columns)
  return {'row': row.name, 'columns': columns, 'metric': metric, 'value': value}


def _with_timed(
  lines: list[Line], row: Row, measured: Mapping[str, Any] | None
) -> list[Line]:
  """Lines of a row, with the costs of `measure_costs` in place of those of its run."""
  if not lines or not measured:
    return lines
  costs = timed_costs(measured)
  of_row = [field for field in ROW_FIELDS if field not in _OF_SAMPLING]
  common = {k: lines[0][k] for k in of_row if k in lines[0]} | measured['where']
  return [line for line in lines if line['metric'] not in costs] + [
    common | _cost_line(row, *cost) for cost in costs.items()
  ]


# --- both together ------------------------------------------------------------


def collect(study: Study, path: pathlib.Path) -> list[Line]:
  """Brings the files up to date and returns their lines.

  Rows that are finished here replace what the files say of them; rows that were
  measured elsewhere stay while the study has a row of that name, but for costs that
  were measured here.
  """
  with locked(study.workdir / 'logs' / 'results.lock', wait=True):
    lines_by_row = from_elsewhere(study, path) | gather(study)
    lines = [line for part in lines_by_row.values() for line in part]
    write_lines(path, lines)
  return lines


def from_elsewhere(study: Study, path: pathlib.Path) -> dict[str, list[Line]]:
  """{name: lines of the files} of every row of the study.

  Raises:
    UserError: they were measured with other --set, so they are of no row of this study.
  """
  stored: dict[str, list[Line]] = {}
  for line in read_lines(path):
    stored.setdefault(line['row'], []).append(line)
  costs, lines = read_costs(study), {}
  for row in study.rows:
    lines[row.name] = stored.get(row.name, [])
    for command in {line['command'] for line in lines[row.name]}:
      words = [w for w in shlex.split(command) if w.startswith('--set=')]
      if words != [f'--set={setting}' for setting in study.public_settings]:
        raise UserError(
          f'{path} has row {row.name} with '
          f'{shlex.join(words) or "no --set"}, unlike this command: choose another '
          '--results, or delete that file.'
        )
    lines[row.name] = _with_timed(lines[row.name], row, costs.get(study.program(row)))
  return lines
