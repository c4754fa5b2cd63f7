"""What a study is: its rows, what they borrow from each other, what identifies them.

A study is a Python file, in any folder, whose `get_study(arg)` returns a list of `Row`.
"""

import copy
import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import pathlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmsbm.config import nearest
from mmsbm.infra.errors import UserError

FINISHED = 'finished.json'
# What a file that a user wrote may raise while it is imported and called.
_FILE_ERRORS = (SyntaxError, ImportError, LookupError, AttributeError, TypeError,
                ValueError)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """One run of a study.

  Attributes:
    name: of its folder.
    config: 'file:arguments', as in --config.
    columns: what the table says of it, by default its name; text without '|' and ':'.
      Runs that differ by their seed have the same columns, and no other rows have;
      'group', 'paired', 'unpaired' and 'modalities' are known to the figures.
    overrides: {dotted key of the config: value}. A dictionary replaces the whole
      section, so {'energy': {}} leaves that step out.
    sampling_columns: {name in config.samplings: columns that differ for it}.
    seed: of the training.
    borrow: {step: name of the row whose run has it}, as config.borrow with names of
      rows in place of folders.
    mode: of mmsbm.main; 'train' for a row that other rows only borrow steps from.
  """

  name: str
  config: str
  columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  sampling_columns: Mapping[str, Mapping[str, str]] = dataclasses.field(
    default_factory=dict
  )
  seed: int = 0
  borrow: Mapping[str, str] = dataclasses.field(default_factory=dict)
  mode: str = 'run'

  def __post_init__(self):
    if not re.fullmatch(r'[\w.-]+', self.name):
      raise UserError(f'the name {self.name!r} of a row is not fit for a folder.')
    if not self.columns:
      object.__setattr__(self, 'columns', {'method': self.name})
    for columns in (self.columns, *self.sampling_columns.values()):
      for key, value in columns.items():
        if not isinstance(value, str) or re.search(r'[|:\n]', key + value):
          raise UserError(
            f"row {self.name}: the column {key!r} must be text without '|' and ':', "
            f'not {value!r}.'
          )

  @property
  def needs(self) -> tuple[str, ...]:
    """Names of the rows that it borrows from."""
    return tuple(dict.fromkeys(self.borrow.values()))


def load_file(path_and_argument: str, function: str) -> Any:
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
  except _FILE_ERRORS as e:
    reason = ' '.join(str(e).split())
    raise UserError(f'{path_and_argument} cannot be used: {reason}') from e


@functools.cache
def _load_config(config: str) -> Mapping[str, Any]:
  return load_file(config, 'get_config').to_dict()


def load_study(study: str) -> list[Row]:
  """Rows of 'file:argument', each after the rows that it borrows from."""
  rows = load_file(study, 'get_study')
  if not all(isinstance(row, Row) for row in rows):
    raise UserError(f'{study}: get_study must return a list of mmsbm.studies.Row.')
  by_name = {row.name: row for row in rows}
  if len(by_name) < len(rows):
    raise UserError(f'{study} has two rows of one name.')
  for row in rows:
    for step, name in row.borrow.items():
      mistake = f'row {row.name} borrows the step {step!r} from {name!r}, which'
      if name not in by_name:
        raise UserError(f'{mistake} is no row.' + nearest(name, by_name))
      if step in by_name[name].borrow:
        lender = by_name[name].borrow[step]
        raise UserError(f'{mistake} borrows it itself: borrow it from {lender!r}.')
  ordered: dict[str, Row] = {}

  def append(row: Row, borrowers: tuple[str, ...]) -> None:
    if row.name in borrowers:
      raise UserError(f'{study}: row {row.name} borrows from itself, by way of others.')
    for name in row.needs:
      append(by_name[name], (*borrowers, row.name))
    ordered[row.name] = row

  for row in rows:
    append(row, ())
  return list(ordered.values())


def select(rows: Sequence[Row], only: str, task: int, num_tasks: int) -> list[Row]:
  """The rows of one task: every num_tasks-th that fits, and what these borrow from.

  Rows are in the order of `load_study`; `only` is a regular expression for names.
  """
  try:
    pattern = re.compile(only)
  except re.error as e:
    raise UserError(f'--only={only} is no regular expression: {e}.') from e
  if not 0 <= task < num_tasks:
    raise UserError(f'--task={task} is not one of 0 .. {num_tasks - 1}.')
  by_name = {row.name: row for row in rows}
  fitting = [row.name for row in rows if pattern.search(row.name)]
  if not fitting:
    raise UserError(f'--only={only} fits no row.' + nearest(only, by_name))
  # Rows that are needed anyway are no work to share out.
  lenders = _lenders(fitting, by_name)
  shared_out = [name for name in fitting if name not in lenders][task::num_tasks]
  chosen = {*shared_out, *_lenders(shared_out, by_name)}
  return [row for row in rows if row.name in chosen]


def _lenders(names: Iterable[str], by_name: Mapping[str, Row]) -> set[str]:
  """Names of all rows that `names` borrow from, directly or not."""
  direct = {lender for name in names for lender in by_name[name].needs}
  return direct | _lenders(direct, by_name) if direct else direct


@dataclasses.dataclass(frozen=True)
class Study:
  """All rows of `load_study`, and where and how they are run."""

  definition: str  # 'file:argument'
  workdir: pathlib.Path  # of all runs
  settings: tuple[str, ...]  # 'config.a.b=value' for all rows
  rows: tuple[Row, ...]

  def folder(self, row: Row) -> pathlib.Path:
    return self.workdir / row.name

  def log(self, name: str) -> pathlib.Path:
    """A file beside the logs of all rows, in a folder that exists."""
    path = self.workdir / 'logs' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path

  def arguments(self, row: Row) -> list[str]:
    """What mmsbm.main is called with, but for the workdir."""
    values = {'seed': row.seed, **row.overrides}
    if row.borrow:
      # Seen from the folder of the row: the whole study can be moved.
      values['borrow'] = {step: f'../{name}' for step, name in row.borrow.items()}
    flags = [f'config.{key}={value}' for key, value in values.items()]
    flags = [f'config={row.config}', f'mode={row.mode}', *flags, *self.settings]
    return [f'--{flag}' for flag in flags]

  def command(self, row: Row) -> str:
    """The command that makes the numbers of a row again, without machine's paths."""
    workdir = self.workdir
    if workdir.is_absolute() or '..' in workdir.parts:
      workdir = pathlib.Path('runs/studies', workdir.name)
    flags = [f'study={self.definition}', f'workdir={workdir}', f'only=^{row.name}$']
    flags += [f'set={setting}' for setting in self.public_settings]
    return shlex.join(['python', '-m', 'mmsbm.studies', *(f'--{f}' for f in flags)])

  @property
  def public_settings(self) -> list[str]:
    """The settings, with DIR for the folders of a machine."""
    pairs = (setting.split('=', 1) for setting in self.settings)
    return [f'{key}={without_folders(value)}' for key, value in pairs]

  def fingerprint(self, row: Row) -> str:
    """Identifies what a row is: its resolved config, wherever its files lie."""
    by_name = {row.name: row for row in self.rows}
    borrowed = {s: self.fingerprint(by_name[name]) for s, name in row.borrow.items()}
    return self._hash(row, seed=row.seed, borrow=borrowed, mode=row.mode)

  def program(self, row: Row) -> str:
    """Identifies what a row computes, whatever its seed and whatever it borrows."""
    return self._hash(row)

  def _hash(self, row: Row, **more: Any) -> str:
    # Imports JAX, which the other questions do without.
    from mmsbm.evaluators import VERSION

    config = copy.deepcopy(_load_config(row.config))
    for key, value in row.overrides.items():
      _override(config, key, value, row.name)
    config = {k: v for k, v in config.items() if k not in ('seed', 'borrow')} | more
    config['data'] = {k: v for k, v in config['data'].items() if k != 'cache_dir'}
    return digest([VERSION, without_folders(config), self.public_settings])

  def finished(self, row: Row) -> bool:
    """Whether the row has been run to its end as it is defined now."""
    try:
      stored = json.loads((self.folder(row) / FINISHED).read_text('utf-8'))
    except (OSError, ValueError):
      return False
    return stored.get('fingerprint') == self.fingerprint(row)


def digest(parts: Any) -> str:
  """Hexadecimal digest of what JSON can write down."""
  text = json.dumps(parts, sort_keys=True, default=str)
  return hashlib.sha1(text.encode()).hexdigest()[:16]


def without_folders(value: Any) -> Any:
  """A config, or a value of it, with DIR for texts that are folders of a machine."""
  if isinstance(value, Mapping):
    return {key: without_folders(child) for key, child in value.items()}
  if isinstance(value, (list, tuple)):
    return [without_folders(child) for child in value]
  return 'DIR' if isinstance(value, str) and re.match(r'[~./].*/|/', value) else value


def _override(config: dict[str, Any], key: str, value: Any, name: str) -> None:
  """Sets a value under a dotted key, as a flag of mmsbm.main does."""
  node: Any = config
  *_, last = parts = key.split('.')
  for part in parts:
    known = node if isinstance(node, dict) else ()
    if part not in known:
      raise UserError(f'row {name}: its config has no {key!r}.' + nearest(part, known))
    parent, node = node, node[part]
  parent[last] = value
