"""Studies: many runs, one table.

  python -m mmsbm.study --study=configs/studies/any_to_any.py:data=digits \
    --workdir=runs/studies/digits --results=launch/results/digits.jsonl

A study is a Python file whose `get_study(arg)` returns rows (configs/studies/Row).
Each row is a run of mmsbm.main in WORKDIR/NAME, in a process of its own, with its
output in WORKDIR/logs/NAME.log. The same command again resumes; what is finished is
skipped by its finished.json (delete it to run a row again). Several processes may
work on one folder at the same time, with or without --task.

--mode:
  run    runs the rows; after each one, and at the end, as `table`.
  table  gathers the averages of the finished rows into the results file, writes
         WORKDIR/report/index.html and, with --readme, the table in that file, between
         the lines <!-- study:NAME --> and <!-- /study -->, where NAME is the name of
         the results file; with --figure, coherence against quality as a PNG, and with
         --samples what the methods make of the same examples. Without --study and
         --workdir: from the results file alone, but no samples.
  list   prints the rows and their commands.
  time   measures what the rows with results cost, one after the other, with `python
         -m mmsbm.benchmark --what=cost`; those that differ by their seed once, and
         also those whose results came from other machines. They stay in
         WORKDIR/costs.json. Without that the costs are those of the runs, which may
         have had other company each.
"""

import argparse
import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import importlib.util
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from mmsbm.build import nearest
from mmsbm.evaluators import VERSION
from mmsbm.infra.errors import UserError
from mmsbm.infra.files import write_atomic
from mmsbm.infra.images import save_png
from mmsbm.infra.metric_writer import read_results, write_results
from mmsbm.report import (
  compare_samples,
  numbers,
  tables,
  trade_off_figure,
  write_study_report,
)

MODES = ('run', 'table', 'list', 'time')
FINISHED = 'finished.json'
COSTS = 'costs.json'
_POLL_SECONDS = 2.0
_PROGRAM = (sys.executable, '-m', 'mmsbm.main')
_BENCHMARK = (sys.executable, '-m', 'mmsbm.benchmark', '--what=cost')
# Steps whose rate is that of all: two blocks after one that compiles.
_TIMED = ('--config.loop.block_steps=50', '--blocks=3')

# What a line of the results keeps of a row of results.jsonl.
FIELDS = (
  'setup',
  'sampler',
  'conditioning',
  'guidance',
  'nfe',
  'metric',
  'num_given',
  'features',
  'value',
  'stderr',
  'n',
  'split',
  'seed',
  'step',
)


# --- definition ---------------------------------------------------------------


def _load(path_and_argument: str, function: str) -> Any:
  """Calls `function` of a Python file with what stands after the colon, or None."""
  path, _, argument = path_and_argument.partition(':')
  if not os.path.isfile(path):
    raise UserError(f'there is no file {path}.')
  name = re.sub(r'\W', '_', os.path.splitext(path)[0])
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    return getattr(module, function)(argument or None)
  except (
    SyntaxError,
    ImportError,
    LookupError,
    AttributeError,
    TypeError,
    ValueError,
  ) as e:
    raise UserError(
      f'{path_and_argument} cannot be used: {" ".join(str(e).split())}'
    ) from e


@functools.cache
def _load_config(config: str) -> Mapping[str, Any]:
  return _load(config, 'get_config').to_dict()


def load_study(study: str) -> list[Any]:
  """Rows of 'file:argument', each after the row whose autoencoders it uses.

  Raises:
    UserError: the file cannot be used, or its rows do not fit together.
  """
  rows = _load(study, 'get_study')
  by_name = {row.name: row for row in rows}
  if len(by_name) < len(rows):
    raise UserError(f'{study} has two rows of one name.')
  for row in rows:
    if not re.fullmatch(r'[\w.-]+', row.name):
      raise UserError(f'{study}: the name {row.name!r} is not fit for a folder.')
    if row.pretrained and row.pretrained not in by_name:
      raise UserError(
        f'{study}: row {row.name} wants the autoencoders of {row.pretrained!r}, which '
        'is no row.' + nearest(row.pretrained, by_name)
      )
    if row.pretrained and by_name[row.pretrained].pretrained:
      raise UserError(f'{study}: {row.pretrained} has no autoencoders of its own.')
  ordered = {}
  for row in rows:
    if row.pretrained:
      ordered.setdefault(row.pretrained, by_name[row.pretrained])
    ordered.setdefault(row.name, row)
  return list(ordered.values())


def select(rows: Sequence[Any], only: str, task: int, num_tasks: int) -> list[Any]:
  """The rows of one task: every num_tasks-th that fits, and what these need."""
  try:
    pattern = re.compile(only)
  except re.error as e:
    raise UserError(f'--only={only} is no regular expression: {e}.') from e
  if not 0 <= task < num_tasks:
    raise UserError(f'--task={task} is not one of 0 .. {num_tasks - 1}.')
  fitting = [row for row in rows if pattern.search(row.name)]
  # Rows that are needed anyway are no work to share out.
  needed = {row.pretrained for row in fitting}
  wanted = [row for row in fitting if row.name not in needed]
  names = {row.name for row in wanted[task::num_tasks]}
  names |= {row.pretrained for row in wanted if row.name in names}
  chosen = [row for row in rows if row.name in names]
  if not fitting:
    raise UserError(
      f'--only={only} fits no row.' + nearest(only, [r.name for r in rows])
    )
  return chosen


def _as_text(value: Any) -> str:
  """A value as config_flags reads it."""
  return value if isinstance(value, str) else repr(value)


@dataclasses.dataclass(frozen=True)
class Study:
  """Rows, and where and how they are run.

  Attributes:
    definition: 'file:argument'.
    workdir: folder of all runs.
    settings: 'config.a.b=value' for all rows.
    rows: all of them, see `load_study`.
  """

  definition: str
  workdir: pathlib.Path
  settings: tuple[str, ...]
  rows: tuple[Any, ...]

  def folder(self, row) -> pathlib.Path:
    return self.workdir / row.name

  def arguments(self, row) -> list[str]:
    """What mmsbm.main is called with, but for the workdir."""
    values = {'seed': row.seed, **row.overrides}
    if row.pretrained:
      # Seen from the folder of the row: the whole study can be moved.
      values['pretrained'] = os.path.join('..', row.pretrained)
    out = [f'--config={row.config}', f'--mode={row.mode}']
    out += [f'--config.{key}={_as_text(value)}' for key, value in values.items()]
    return out + [f'--{setting}' for setting in self.settings]

  def command(self, row) -> str:
    """The command that makes the numbers of a row again, without machine's paths."""
    workdir = self.workdir
    if workdir.is_absolute() or '..' in workdir.parts:
      workdir = pathlib.Path('runs/studies', workdir.name)
    words = ['python', '-m', 'mmsbm.study', f'--study={self.definition}']
    words += [f'--workdir={workdir}', f'--only=^{row.name}$']
    return shlex.join([*words, *(f'--set={s}' for s in self.public_settings)])

  @property
  def public_settings(self) -> list[str]:
    """The settings, with DIR for the folders of a machine."""
    pairs = (setting.split('=', 1) for setting in self.settings)
    return [
      f'{key}={"DIR" if re.match(r"[~./]", value) and os.sep in value else value}'
      for key, value in pairs
    ]

  def fingerprint(self, row) -> str:
    """Identifies what a row is: its resolved config, wherever its files lie."""
    return self._hash(row, seed=row.seed, pretrained=row.pretrained)

  def program(self, row) -> str:
    """Identifies what a row computes, whatever its seed."""
    return self._hash(row)

  def _hash(self, row, **more) -> str:
    config = dict(_load_config(row.config))
    for key in row.overrides:
      _check_key(config, key, row.name)
    config['data'] = {k: v for k, v in config['data'].items() if k != 'cache_dir'}
    if not config['evaluate'].get('linear_probe'):
      # A measurement that is not asked for; rows that are older than it stay valid.
      config['evaluate'] = {
        k: v for k, v in config['evaluate'].items() if k != 'linear_probe'
      }
    if not config.get('decoder_guidance', True):
      # An option without effect, for the same reason.
      del config['decoder_guidance']
    overrides = {**more, **row.overrides}
    parts = [VERSION, config, overrides, self.public_settings]
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha1(text.encode()).hexdigest()[:16]

  def finished(self, row) -> bool:
    """Whether the row has been run to its end as it is defined now."""
    try:
      stored = json.loads((self.folder(row) / FINISHED).read_text())
    except (OSError, ValueError):
      return False
    return stored.get('fingerprint') == self.fingerprint(row)


def _check_key(config: Mapping[str, Any], key: str, name: str) -> None:
  node = config
  for part in key.split('.'):
    if not isinstance(node, Mapping) or part not in node:
      known = node if isinstance(node, Mapping) else ()
      raise UserError(f'row {name}: its config has no {key!r}.' + nearest(part, known))
    node = node[part]


# --- running ------------------------------------------------------------------


@contextlib.contextmanager
def _locked(path: pathlib.Path, wait: bool) -> Iterator[bool]:
  """Holds a lock that goes with the process; yields whether it was to be had."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path, 'w') as f:
    try:
      fcntl.flock(f, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
      yield False
      return
    yield True


def _log(text: str) -> None:
  print(f'{time.strftime("%H:%M:%S")} {text}', file=sys.stderr, flush=True)


def run_row(study: Study, row) -> str:
  """Runs one row; returns what went wrong, or nothing."""
  log = study.workdir / 'logs' / f'{row.name}.log'
  workdir = study.folder(row)
  command = [*_PROGRAM, *study.arguments(row), f'--workdir={workdir}']
  start = time.monotonic()
  _log(f'{row.name} ...')
  with open(log, 'a') as f:
    done = subprocess.run(command, stdout=f, stderr=f)
  seconds = time.monotonic() - start
  if done.returncode:
    lines = log.read_text(errors='replace').strip().splitlines() or ['']
    return f'exit code {done.returncode}: {lines[-1]} ({log})'
  marker = {'fingerprint': study.fingerprint(row), 'seconds': round(seconds, 1)}
  write_atomic(workdir / FINISHED, json.dumps(marker) + '\n')
  _log(f'{row.name} finished in {seconds:.0f} s')
  return ''


def run(study: Study, rows: Sequence[Any], publish) -> dict[str, str]:
  """Runs the rows that are not finished, as soon as nobody else is at them.

  Args:
    study: the whole.
    rows: those to run, every one after its pretrained row.
    publish: called without arguments after each row that was run.

  Returns:
    {name: what went wrong} of the rows that failed.
  """
  failed: dict[str, str] = {}
  by_name = {row.name: row for row in study.rows}
  pending = list(rows)
  while pending:
    waiting = []
    for row in pending:
      needed = by_name.get(row.pretrained)
      if needed and needed.name in failed:
        failed[row.name] = f'its autoencoders, {needed.name}, failed'
      elif needed and not study.finished(needed):
        waiting.append(row)
      else:
        lock = study.workdir / 'logs' / f'{row.name}.lock'
        with _locked(lock, wait=False) as mine:
          if not mine:
            waiting.append(row)
          elif not study.finished(row):
            problem = run_row(study, row)
            if problem:
              failed[row.name] = problem
              _log(f'{row.name} failed: {problem}')
            else:
              publish()
    if len(waiting) == len(pending):
      # Others are at work; what they leave undone is done here.
      time.sleep(_POLL_SECONDS)
    pending = waiting
  return failed


def measure_costs(study: Study, rows: Sequence[Any]) -> dict[str, str]:
  """Writes COSTS: what the programs of rows cost, unless it is known.

  Returns:
    {name: what went wrong} of the rows that failed.
  """
  failed, known = {}, read_costs(study)
  for row in rows:
    key = study.program(row)
    if row.mode != 'run' or key in known:
      continue
    folder, log = study.folder(row), study.workdir / 'logs' / f'{row.name}.cost.log'
    command = [*_BENCHMARK, *study.arguments(row), *_TIMED, f'--workdir={folder}']
    _log(f'{row.name} ...')
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, 'w') as f:
      done = subprocess.run(command, stdout=subprocess.PIPE, stderr=f, text=True)
    if done.returncode:
      lines = log.read_text(errors='replace').strip().splitlines() or ['']
      failed[row.name] = f'exit code {done.returncode}: {lines[-1]} ({log})'
      continue
    measured = [json.loads(line) for line in done.stdout.splitlines()]
    known[key] = {
      'row': row.name,
      'seconds': {m['stage']: m['seconds'] for m in measured if 'stage' in m},
      'seconds_per_sample': measured[-1]['seconds_per_sample'],
      'matmul_gflops': [m['matmul_gflops'] for m in measured],
      'where': {'jax': version('jax'), 'device': measured[-1]['device']},
    }
    write_atomic(study.workdir / COSTS, json.dumps(known, indent=1) + '\n')
    _log(json.dumps(known[key]))
  return failed


def read_costs(study: Study) -> dict[str, dict[str, Any]]:
  """{program: what it costs}, as far as it has been measured."""
  try:
    return json.loads((study.workdir / COSTS).read_text())
  except FileNotFoundError:
    return {}
  except ValueError as e:
    raise UserError(f'{study.workdir / COSTS} is damaged; delete it.') from e


# --- results ------------------------------------------------------------------

# What all lines of a run have in common, but for what they were computed with.
_OF_RUN = ('modalities', 'paired_fraction', 'pretrained_seed', 'definition', 'command')
# What a line of the file holds for itself.
_OWN = ('metric', 'num_given', 'features', 'value', 'stderr')


def write_lines(path: pathlib.Path, lines: Sequence[dict[str, Any]]) -> None:
  """Writes a results file: what lines share is said once, before them.

  A line without `metric` holds what all lines of its row have in common or, with
  `setup`, all lines of its row with that setup.
  """
  out = []
  for row, of_row in _grouped(lines, 'row'):
    common = _shared(of_row, ('row', 'setup', *_OWN))
    out.append({'row': row, **common})
    for setup, of_setup in _grouped(of_row, 'setup'):
      names = {'row': row} | ({'setup': setup} if setup else {})
      special = _shared(of_setup, (*names, *common, *_OWN))
      if setup:
        out.append(names | special)
      else:
        special = {}
      said = common | special
      out += [names | {k: v for k, v in x.items() if k not in said} for x in of_setup]
  write_results(path, out)


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """The lines that `write_lines` was given."""
  said: dict[tuple, dict[str, Any]] = {}
  out = []
  for line in read_results(path):
    row, setup = line.get('row'), line.get('setup')
    if 'metric' in line:
      out.append(said.get((row, None), {}) | said.get((row, setup), {}) | line)
    else:
      said[row, setup] = line
  return out


def _grouped(lines: Sequence[dict[str, Any]], key: str):
  """(value of `key`, lines) in the order of first appearance."""
  groups: dict[Any, list] = {}
  for line in lines:
    groups.setdefault(line.get(key), []).append(line)
  return groups.items()


def _shared(lines: Sequence[dict[str, Any]], without: Sequence[str]) -> dict[str, Any]:
  """What is the same in all lines, but for the keys in `without`."""
  return {
    key: value
    for key, value in lines[0].items()
    if key not in without and all(key in line and line[key] == value for line in lines)
  }


def gather(study: Study) -> dict[str, list[dict[str, Any]]]:
  """{name: lines for the results file} of every finished row."""
  costs = read_costs(study)
  return {
    row.name: _lines(study, row, costs.get(study.program(row)))
    for row in study.rows
    if study.finished(row)
  }


def _lines(study: Study, row, cost: Mapping[str, Any] | None) -> list[dict[str, Any]]:
  folder = study.folder(row)
  measured = read_results(folder / 'results.jsonl')
  if not measured:
    return []
  record = json.loads((folder / 'run.json').read_text())
  config = record['config']
  total = len(config['modalities'])
  common = {
    'modalities': total,
    'paired_fraction': config['score'].get('paired_fraction', 1.0),
    'pretrained_seed': record.get('pretrained_seed', config['seed']),
    'definition': study.fingerprint(row),
    'command': study.command(row),
    'jax': record['versions']['jax'],
    'device': ', '.join(sorted(set(record['devices']))),
  }
  out = []
  for each in measured:
    if not numbers.is_average(each, total):
      continue
    kept = {key: each[key] for key in FIELDS if each.get(key) is not None}
    # What is not finite stays, as null.
    kept['value'] = each['value']
    columns = {**row.columns, **row.setup_columns.get(each.get('setup'), {})}
    out.append({'row': row.name, 'columns': columns, **kept, **common})
  for metric, value in _costs(folder, record).items():
    fields = {'metric': metric, 'value': value, 'seed': config['seed']}
    out.append({'row': row.name, 'columns': dict(row.columns), **fields, **common})
  return _with_timed(out, row, cost)


def _with_timed(
  lines: list[dict[str, Any]], row, timed: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
  """Lines of a row, with the costs of `measure_costs` in place of those of its run."""
  if not lines or not timed:
    return lines
  costs = {'seconds_per_sample': timed['seconds_per_sample']}
  for part, stages in _PARTS.items():
    seconds = [timed['seconds'][stage] for stage in stages if stage in timed['seconds']]
    if seconds:
      costs[f'{part}_seconds'] = round(sum(seconds), 2)
  common = {key: lines[0][key] for key in _OF_RUN} | timed['where']
  return [line for line in lines if line['metric'] not in costs] + [
    {
      'row': row.name, 'columns': dict(row.columns), 'metric': metric, 'value': value,
      'seed': row.seed, **common,
    }
    for metric, value in costs.items()
  ]  # fmt: skip


# What is trained to make latents and examples, and what is trained on latents.
_PARTS = {
  'autoencoder': ('unimodal', 'joint', 'refiner'),
  'latent_model': ('score', 'energy'),
}


def _costs(folder: pathlib.Path, record: Mapping[str, Any]) -> dict[str, float]:
  """Parameters and seconds of training of a run, those of autoencoders included.

  Nothing is said of what the run of the autoencoders does not tell: of the time, if
  that run has other modalities.
  """
  config, other = record['config'], None
  if config.get('pretrained'):
    path = pathlib.Path(os.path.expanduser(config['pretrained']))
    # As seen from here or from the folder of the run, see `Experiment.pretrained`.
    path = path if path.exists() else folder / path
    with contextlib.suppress(OSError, ValueError):
      other = json.loads((path / 'run.json').read_text())
  names = {f'unimodal/{name}' for name in config['modalities']}
  out: dict[str, float] = {}
  for part, stages in _PARTS.items():
    seconds, parameters = [], []
    for stage in config['stages']:
      if stage not in stages:
        continue
      taken = config.get('pretrained') and stage in config['pretrained_stages']
      source = (other if taken else record) or {'timings': {}, 'parameters': {}}
      same = not taken or (
        other and other['config']['modalities'].keys() == config['modalities'].keys()
      )
      seconds.append(source['timings'].get(f'train {stage}') if same else None)
      parameters += [
        count
        for name, count in source['parameters'].items()
        if (name in names if stage == 'unimodal' else name.split('/')[0] == stage)
      ]
    if parameters:
      out[f'{part}_parameters'] = sum(parameters)
    if seconds and None not in seconds:
      out[f'{part}_seconds'] = round(sum(seconds), 2)
  if 'seconds_per_sample' in record:
    out['seconds_per_sample'] = record['seconds_per_sample']['value']
  return out


def collect(study: Study, path: pathlib.Path) -> list[dict[str, Any]]:
  """Brings the results file up to date and returns its lines.

  Rows that are finished here replace what the file says of them; those of other
  machines stay, as long as the study has them as they were then, but for costs that
  were measured here.
  """
  with _locked(study.workdir / 'logs' / 'results.lock', wait=True):
    lines = _from_elsewhere(study, path) | gather(study)
    every = [line for part in lines.values() for line in part]
    write_lines(path, every)
  return every


def _from_elsewhere(study: Study, path: pathlib.Path) -> dict[str, list]:
  """{name: lines of the results file that are of the row as it is defined now}."""
  stored = dict(_grouped(read_lines(path), 'row'))
  out, costs = {}, read_costs(study)
  for row in study.rows:
    definition = study.fingerprint(row)
    lines = [x for x in stored.get(row.name, ()) if x.get('definition') == definition]
    out[row.name] = _with_timed(lines, row, costs.get(study.program(row)))
  return out


def sample_files(study: Study) -> dict[str, pathlib.Path]:
  """{method: samples given the first modality} of the first finished row of each."""
  out: dict[str, pathlib.Path] = {}
  for row in study.rows:
    path = study.folder(row) / 'samples' / 'given_first_1.npz'
    if row.columns.get('group') == 'methods' and study.finished(row) and path.exists():
      out.setdefault(row.columns['method'], path)
  return out


def _marked(name: str) -> re.Pattern:
  begin, end = f'<!-- study:{re.escape(name)} -->\n', '<!-- /study -->'
  return re.compile(f'(?<=^{begin})(.*?)(?=^{end})', flags=re.M | re.S)


def read_table(readme: pathlib.Path, name: str) -> str | None:
  """What stands between the marks of study `name`; None if there are none."""
  match = _marked(name).search(readme.read_text())
  return match and match.group()


def insert_table(readme: pathlib.Path, name: str, table: str) -> None:
  """Replaces what stands between the marks of study `name`, which must be there."""
  text, count = _marked(name).subn(lambda _: table, readme.read_text(), count=1)
  assert count
  write_atomic(readme, text)


# --- the command --------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
  def error(self, message):
    raise UserError(message)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
  parser = _Parser(
    prog='python -m mmsbm.study',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument('--study', help='file:argument of the definition')
  parser.add_argument('--workdir', type=pathlib.Path, help='folder of all its runs')
  parser.add_argument('--results', type=pathlib.Path, help='WORKDIR/results.jsonl')
  parser.add_argument('--readme', type=pathlib.Path, help='file to put the table in')
  parser.add_argument('--figure', type=pathlib.Path, help='PNG of the trade-offs')
  parser.add_argument('--samples', type=pathlib.Path, help='PNG of samples of methods')
  parser.add_argument('--only', default='', help='regular expression for names of rows')
  parser.add_argument('--task', type=int, default=0, help='this one of --num_tasks')
  parser.add_argument('--num_tasks', type=int, default=1)
  parser.add_argument('--mode', default='run', choices=MODES)
  parser.add_argument(
    '--set', action='append', default=[], metavar='config.KEY=VALUE', dest='settings'
  )
  args = parser.parse_args(argv)
  for setting in args.settings:
    if not re.match(r'config\.[\w.]+=', setting):
      raise UserError(f'--set {setting} is not of the form config.a.b=value.')
  alone = args.mode == 'table' and args.results and not args.study
  if not alone and not (args.study and args.workdir):
    raise UserError('--study and --workdir are needed; see --help.')
  if alone and not (args.readme or args.figure):
    raise UserError(
      '--readme says where the table of --results is to be written, --figure where the '
      'picture.'
    )
  if alone and args.samples:
    raise UserError('--samples needs the runs: --study and --workdir.')
  if args.mode == 'time' and args.num_tasks > 1:
    raise UserError('--mode=time measures one row after the other: no --num_tasks.')
  if args.readme and not args.readme.is_file():
    raise UserError(f'--readme={args.readme}: there is no such file.')
  if args.readme and read_table(args.readme, _name(args)) is None:
    raise UserError(
      f'{args.readme} lacks the lines <!-- study:{_name(args)} --> and '
      '<!-- /study --> to write between.'
    )
  return args


def _name(args: argparse.Namespace) -> str:
  """What the study is called: its results file, or else its folder."""
  return args.results.stem if args.results else args.workdir.name


def _write_tables(
  args: argparse.Namespace,
  lines: Sequence[dict[str, Any]],
  samples: Mapping[str, pathlib.Path] | None = None,
) -> None:
  name = _name(args)
  if args.workdir:
    path = args.workdir / 'report' / 'index.html'
    _log(f'Report: {write_study_report(path, name, lines, samples)}')
  if args.samples:
    if samples:
      save_png(args.samples, compare_samples(samples))
    else:
      _log('no --samples: no method has samples yet')
  if args.readme:
    insert_table(args.readme, name, tables.markdown(lines))
  if args.figure:
    picture = trade_off_figure(lines)
    if picture:
      write_atomic(args.figure, picture)
    else:
      _log('no --figure: there are no two methods yet to set against each other')


def execute(args: argparse.Namespace) -> int:
  """Does what the command says; returns the exit code."""
  if not args.study:
    lines = read_lines(args.results)
    if not lines or not all('columns' in line for line in lines):
      raise UserError(f'{args.results} holds no results of a study.')
    _write_tables(args, lines)
    return 0
  study = Study(
    args.study, args.workdir, tuple(args.settings), tuple(load_study(args.study))
  )
  results = args.results or args.workdir / 'results.jsonl'
  chosen = select(study.rows, args.only, args.task, args.num_tasks)
  # Mistakes in all definitions, before hours go into the first of them.
  for row in chosen:
    study.fingerprint(row)
  if args.mode == 'list':
    for row in chosen:
      words = [*study.arguments(row), f'--workdir={study.folder(row)}']
      print(f'{row.name}: {shlex.join(["python", "-m", "mmsbm.main", *words])}')
    return 0
  failed: dict[str, str] = {}

  def publish():
    _write_tables(args, collect(study, results), sample_files(study))

  if args.mode == 'run':
    todo = [row for row in chosen if not study.finished(row)]
    _log(f'{len(chosen)} rows, {len(chosen) - len(todo)} of them finished')
    failed = run(study, chosen, publish)
  if args.mode == 'time':
    results_of = _from_elsewhere(study, results)
    made = [row for row in chosen if study.finished(row) or results_of[row.name]]
    if not made:
      raise UserError(
        f'--mode=time measures rows with results: {results} has none of these rows as '
        'they are defined now, with these --set.'
      )
    failed = measure_costs(study, made)
  publish()
  for name, problem in failed.items():
    print(f'failed: {name}: {problem}', file=sys.stderr)
  return 1 if failed else 0


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns the exit code."""
  try:
    return execute(_parse(argv[1:]))
  except UserError as e:
    print(f'error: {e}', file=sys.stderr)
    return 2
  except OSError as e:
    print(f'error: {e.filename or ""}: {e.strerror or e}', file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print('\nstopped; the same command resumes.', file=sys.stderr)
    return 130


if __name__ == '__main__':
  sys.exit(main(sys.argv))
