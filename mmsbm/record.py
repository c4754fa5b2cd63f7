"""The record of a run, run.json, and the lock on its folder."""

import contextlib
import datetime
import errno
import fcntl
import importlib.metadata
import os
import pathlib
import platform
import re
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from mmsbm.infra import digests
from mmsbm.infra.errors import UserError
from mmsbm.infra.files import write_atomic

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


# What run.json holds under these names, if it holds them.
_SHAPES = {
  'config': dict,
  'data_hash': str,
  'data_samples': dict,
  'devices': list,
  'history': list,
  'num_classes': dict,
  'parameters': dict,
  'seconds_per_sample': dict,
  'steps': dict,
  'timings': dict,
  'versions': dict,
}
_REMEDY = (
  'Restore it from a copy, or move it away: the command of the run writes it anew.'
)


def parse_record(path: str | os.PathLike) -> dict[str, Any]:
  """Returns the contents of a file run.json of any version.

  Raises:
    FileNotFoundError: there is none.
    UserError: it cannot be read, is damaged, or holds something else.
  """
  record = digests.read_json(path, remedy=_REMEDY, required=False)
  _check_shapes(record, path)
  return record


def _check_shapes(record: Mapping[str, Any], path: str | os.PathLike) -> None:
  for name, kind in _SHAPES.items():
    if not isinstance(record.get(name, kind()), kind):
      what = {dict: 'an object', list: 'a list', str: 'a text'}[kind]
      raise UserError(f'{path}: {name!r} is not {what}. {_REMEDY}')
  for name in ('timings', 'parameters'):
    for value in record.get(name, {}).values():
      if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f'{path}: {name!r} holds what is no number. {_REMEDY}')


def read_record(
  workdir: str | os.PathLike, needs: Sequence[str] = ()
) -> dict[str, Any]:
  """Returns the contents of run.json.

  Args:
    workdir: the run's folder.
    needs: names that must be in it, besides the config.

  Raises:
    UserError: it is missing, damaged, or of an older version of the program.
  """
  path = pathlib.Path(workdir, 'run.json')
  try:
    record = digests.read_json(path, remedy=_REMEDY, required=False)
  except FileNotFoundError as e:
    raise UserError(f'{path} does not exist: {str(workdir)!r} is not a run.') from e
  if not isinstance(record.get('config'), dict):
    raise UserError(f'{path} is not the record of a run: it has no config.')
  if 'samplings' not in record['config']:
    raise UserError(
      f'{workdir} was made by an older version of this program: '
      f'`python -m mmsbm.tools.convert_run {workdir}` brings it up to date.'
    )
  _check_shapes(record, path)
  for name in needs:
    if name not in record:
      raise UserError(f'{path} has no {name!r}: nothing was trained there.')
  return record


def _git_commit() -> str | None:
  folder = os.path.dirname(os.path.abspath(__file__))
  try:
    out = subprocess.run(
      ['git', '-C', folder, 'rev-parse', 'HEAD'],
      capture_output=True,
      text=True,
      timeout=10,
      check=True,
    )
    return out.stdout.strip()
  except (OSError, subprocess.SubprocessError):
    return None


@contextlib.contextmanager
def lock(workdir: str | os.PathLike, only: Sequence[str] = ()) -> Iterator[None]:
  """Keeps two processes from writing the same checkpoints.

  Args:
    workdir: made if it is not there.
    only: names of the steps or learners that are trained, all if empty; processes of
      different ones share the folder.

  Raises:
    UserError: the folder cannot be written, or another process is at work.
  """
  with contextlib.ExitStack() as stack:
    files = {}
    try:
      os.makedirs(workdir, exist_ok=True)
      for name, exclusive in _locks(only).items():
        file = stack.enter_context(open(os.path.join(workdir, name), 'wb'))
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        files[file] = kind | fcntl.LOCK_NB
    except OSError as e:
      raise UserError(
        f'--workdir={workdir} cannot be written ({e.strerror}): choose another folder.'
      ) from e
    for file, kind in files.items():
      if not take_lock(file, kind):
        raise UserError(
          f'another process is working in {workdir}: wait for it or stop it.'
        )
    yield


def take_lock(file: IO, kind: int) -> bool:
  """Locks an open file as long as the process has it open.

  Where the file system knows no locks, as some of networks do, a warning stands for it.

  Args:
    file: the file.
    kind: LOCK_EX or LOCK_SH of `fcntl`; waits if need be.

  Returns:
    Whether no other process has it.
  """
  try:
    fcntl.flock(file, kind)
  except OSError as e:
    if e.errno in (errno.EWOULDBLOCK, errno.EACCES):
      return False
    folder = os.path.dirname(file.name)
    digests.warn(
      f'the file system of {folder} gives no locks ({e.strerror}): see to it that no '
      'other process works there.'
    )
  return True


def _locks(only: Sequence[str]) -> dict[str, bool]:
  """Returns file names, and whether nobody else may hold them.

  Who trains 'unimodal/m0' shares the folder, and the step 'unimodal', with others.
  """
  names = [name for name in only if name]
  out = {'.lock': not names}
  for name in names:
    parts = name.split('/')
    for number in range(1, len(parts) + 1):
      file = '.lock-' + re.sub(r'[^\w.-]', '_', '/'.join(parts[:number]))
      out[file] = out.get(file, False) or number == len(parts)
  return out


class Record:
  """What was run, with what, and how long it took.

  Nothing is written before `save`: a command that is refused leaves no trace.

  Attributes:
    data: the contents of run.json.
  """

  def __init__(self, workdir: str | os.PathLike):
    self._path = os.path.join(workdir, 'run.json')
    self.data: dict[str, Any] = {'timings': {}, 'parameters': {}, 'history': []}
    self._seconds: dict[str, float] = {}
    self._calls: list[dict[str, Any]] = []
    if os.path.exists(self._path):
      self.data |= read_record(workdir)

  def add_call(
    self, config: Mapping[str, Any], mode: str, argv: Sequence[str], devices: list[str]
  ) -> None:
    """Notes a command."""
    call = {
      'command': shlex.join(['python', '-m', 'mmsbm.main', *argv[1:]]),
      'time': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
      'versions': {
        'python': platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
      },
      'devices': devices,
      'num_cpus': os.cpu_count(),
      'git_commit': _git_commit(),
    }
    self._calls.append(call)
    self.data['history'] = [*self.data['history'], call]
    # A report describes what was run, and changes nothing of it.
    if mode != 'report':
      self.data |= {'config': config, 'seed': config['seed']}
    # What trained it stays at the top, wherever it is evaluated later.
    if mode in ('run', 'train') or 'command' not in self.data:
      self.data |= call

  def add_seconds(self, name: str, seconds: float) -> None:
    """Adds to the time that earlier calls took."""
    for timings in (self.data['timings'], self._seconds):
      timings[name] = round(timings.get(name, 0.0) + seconds, 2)

  def save(self) -> None:
    """Writes run.json; what other processes have noted since then is kept.

    Processes that train different learners share it.
    """
    if os.path.exists(self._path):
      stored = read_record(os.path.dirname(self._path))
      timings = stored.get('timings', {})
      for name, seconds in self._seconds.items():
        timings[name] = round(timings.get(name, 0.0) + seconds, 2)
      self.data |= {
        'timings': timings,
        'parameters': stored.get('parameters', {}) | self.data['parameters'],
        'history': [*stored.get('history', ()), *self._calls],
      }
    write_atomic(self._path, digests.to_json(self.data))
    self._seconds, self._calls = {}, []

  @contextlib.contextmanager
  def timed(self, name: str) -> Iterator[None]:
    """Adds the seconds of the body, and saves."""
    start = time.monotonic()
    try:
      yield
    finally:
      self.add_seconds(name, time.monotonic() - start)
      self.save()
