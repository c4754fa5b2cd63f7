"""Runs rows as processes of mmsbm.main, and measures what they cost.

Any number of processes may work on one folder: a row is run under a lock that goes with
the process, and what is finished is known by its finished.json.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from mmsbm.command_line import LAUNCHERS
from mmsbm.infra.errors import UserError
from mmsbm.infra.files import local_path, write_atomic
from mmsbm.record import parse_record, take_lock
from mmsbm.studies.definition import FINISHED, Row, Study

COSTS = 'costs.json'
POLL_SECONDS = 2.0
PROGRAM = (sys.executable, '-m', 'mmsbm.main')
BENCHMARK = (sys.executable, '-m', 'mmsbm.tools.benchmark', '--what=cost')
# Steps whose rate is that of all: two blocks after one that compiles.
_TIMED = ('--config.loop.block_steps=50', '--blocks=3')
# Steps that make latents and examples, and steps that model latents: columns of tables.
_PARTS = {
  'autoencoder': ('unimodal', 'joint', 'refiner'),
  'latent_model': ('score', 'energy'),
}


@contextlib.contextmanager
def locked(path: pathlib.Path, wait: bool) -> Iterator[bool]:
  """Holds a lock that goes with the process; yields whether it was free."""
  with open(path, 'w', encoding='utf-8') as f:
    yield take_lock(f, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def log(text: str) -> None:
  print(f'{time.strftime("%H:%M:%S")} {text}', file=sys.stderr, flush=True)


def _execute(
  study: Study, row: Row, program: Sequence[str], log_name: str, **streams: Any
) -> tuple[str, str | None]:
  """Runs a program on a row; returns what went wrong, or '', and its output."""
  path = study.log(log_name)
  command = [*program, f'--workdir={study.folder(row)}']
  log(f'{row.name} ...')
  # Rows are shared out over the processes of a launcher; each runs its own.
  environment = {k: v for k, v in os.environ.items() if k not in LAUNCHERS}
  with open(path, 'a', encoding='utf-8') as f:
    streams = {'stdout': f, 'stderr': f, 'env': environment, **streams}
    with subprocess.Popen(command, **streams, text=True) as process:
      try:
        output, _ = process.communicate()
      except KeyboardInterrupt:
        # It saves what it has; subprocess would kill it after a moment.
        process.terminate()
        process.wait()
        raise
  if not process.returncode:
    return '', output
  lines = path.read_text('utf-8', 'replace').strip().splitlines() or ['']
  return f'exit code {process.returncode}: {lines[-1]} ({path})', None


def run_row(study: Study, row: Row) -> str:
  """Runs one row; returns what went wrong, or ''."""
  start = time.monotonic()
  program = [*PROGRAM, *study.arguments(row)]
  problem, _ = _execute(study, row, program, f'{row.name}.log')
  if problem:
    log(f'{row.name} failed: {problem}')
    return problem
  seconds = time.monotonic() - start
  marker = {'fingerprint': study.fingerprint(row), 'seconds': round(seconds, 1)}
  write_atomic(study.folder(row) / FINISHED, json.dumps(marker) + '\n')
  log(f'{row.name} finished in {seconds:.0f} s')
  return ''


def run(
  study: Study, rows: Sequence[Row], publish: Callable[[], None]
) -> dict[str, str]:
  """Runs the rows that are not finished and that no other process is running.

  Rows stand after those they borrow from; `publish` is called after each that was run.
  Returns {name: what went wrong} of the rows that failed.
  """
  failed: dict[str, str] = {}
  by_name = {row.name: row for row in study.rows}
  pending = list(rows)
  while pending:
    waiting = []
    for row in pending:
      broken = [name for name in row.needs if name in failed]
      if broken:
        failed[row.name] = f'{broken[0]}, which it borrows from, failed'
      elif not all(study.finished(by_name[name]) for name in row.needs):
        waiting.append(row)
      else:
        with locked(study.log(f'{row.name}.lock'), wait=False) as is_free:
          if not is_free:
            waiting.append(row)
          elif not study.finished(row):
            if problem := run_row(study, row):
              failed[row.name] = problem
            else:
              publish()
    if len(waiting) == len(pending):
      # Other processes are at work; what they leave undone is done here.
      time.sleep(POLL_SECONDS)
    pending = waiting
  return failed


def measure_costs(study: Study, rows: Sequence[Row]) -> dict[str, str]:
  """Writes COSTS, what the programs of rows cost, unless it is known; see `run`."""
  failed, known = {}, read_costs(study)
  for row in rows:
    key = study.program(row)
    if row.mode != 'run' or key in known:
      continue
    program = [*BENCHMARK, *study.arguments(row), *_TIMED]
    problem, output = _execute(
      study, row, program, f'{row.name}.cost.log', stdout=subprocess.PIPE
    )
    if problem:
      failed[row.name] = problem
      continue
    measured = [json.loads(line) for line in output.splitlines()]
    known[key] = {
      'row': row.name,
      'seconds': {m['stage']: m['seconds'] for m in measured if 'stage' in m},
      'seconds_per_sample': measured[-1]['seconds_per_sample'],
      'matmul_gflops': [m['matmul_gflops'] for m in measured],
      'where': {'jax': version('jax'), 'device': measured[-1]['device']},
    }
    write_atomic(study.workdir / COSTS, json.dumps(known, indent=1) + '\n')
    log(json.dumps(known[key]))
  return failed


def read_costs(study: Study) -> dict[str, dict[str, Any]]:
  """{program: what it costs}, as far as it has been measured."""
  try:
    return json.loads((study.workdir / COSTS).read_text('utf-8'))
  except FileNotFoundError:
    return {}
  except ValueError as e:
    raise UserError(f'{study.workdir / COSTS} is damaged; delete it.') from e


def timed_costs(measured: Mapping[str, Any]) -> dict[str, float]:
  """{metric: value} of an entry of `read_costs`."""
  seconds = _by_part(
    'seconds', {s: [value] for s, value in measured['seconds'].items()}
  )
  return {'seconds_per_sample': measured['seconds_per_sample']} | seconds


def _by_part(what: str, values: Mapping[str, list[float | None]]) -> dict[str, float]:
  """Sums of {step: values} by `_PARTS`; none where a value is not known."""
  out = {}
  for part, steps in _PARTS.items():
    numbers = [number for step in steps for number in values.get(step, ())]
    if numbers and None not in numbers:
      out[f'{part}_{what}'] = round(sum(numbers), 2)
  return out


def run_costs(folder: pathlib.Path, record: Mapping[str, Any]) -> dict[str, float]:
  """{metric: value} of the parameters and the seconds of training of a run.

  Those of borrowed steps are included, as far as the run that has them tells: the time
  is left out if that run has other modalities. `record` is the run.json of `folder`.
  """
  config = record['config']
  borrow = config.get('borrow', {})
  lenders = {step: _lender(folder, path) for step, path in borrow.items() if path}
  autoencoders = {f'unimodal/{name}' for name in config['modalities']}
  seconds, parameters = {}, {}
  for step in record['steps']:
    source = lenders.get(step, record)
    is_same = source['config']['modalities'].keys() == config['modalities'].keys()
    seconds[step] = [source['timings'].get(f'train {step}') if is_same else None]
    parameters[step] = [
      count
      for learner, count in source['parameters'].items()
      if learner.split('/')[0] == step
      and (step != 'unimodal' or learner in autoencoders)
    ]
  out = _by_part('parameters', parameters) | _by_part('seconds', seconds)
  if 'seconds_per_sample' in record:
    out['seconds_per_sample'] = record['seconds_per_sample']['value']
  return out


def _lender(folder: pathlib.Path, borrowed: str) -> Mapping[str, Any]:
  """The record of a run that is borrowed from, as seen from here or from `folder`."""
  path = local_path(borrowed)
  path = path if path.exists() else folder / path
  try:
    return parse_record(path / 'run.json')
  except (OSError, UserError):
    return {'config': {'modalities': {}}, 'timings': {}, 'parameters': {}}
