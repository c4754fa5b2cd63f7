"""Numbers on disk: `metrics.jsonl`, `results.jsonl`, TensorBoard event files.

The JSON files are the record; event files are a convenience and need the package
tensorboardX, which only this file imports. Every line is JSON in the strict sense:
a NaN or an infinity, for which JSON has no word, is written as null.
"""

import json
import math
import os
import pathlib
import time as time_lib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mmsbm.infra import errors, files


class MetricWriter:
  """Appends what is logged while learners train.

  A line reads {"step": 100, "learner": "score", "loss": 0.1, ..., "time": 1.7e9}
  with the seconds since 1970 as time. TensorBoard shows each learner as a run.
  """

  def __init__(self, workdir: str | os.PathLike, tensorboard: bool = True):
    """Opens `workdir`/metrics.jsonl for appending, after mending a torn end.

    Args:
      workdir: the run's folder.
      tensorboard: whether to write event files too, if tensorboardX is installed.
    """
    self.path = pathlib.Path(workdir) / 'metrics.jsonl'
    self.path.parent.mkdir(parents=True, exist_ok=True)
    self._events_dir = self.path.parent / 'tensorboard'
    self._tensorboard = tensorboard and _has_tensorboard()
    self._events = {}
    self._purge_steps = {}
    self._file = None
    _mend_torn_end(self.path)
    self._open()

  def write(
    self,
    step: int,
    learner: str,
    values: Mapping[str, Any],
    *,
    time: float | None = None,
  ) -> None:
    """Appends one line and hands it to the operating system before returning.

    Args:
      step: updates that the learner has made.
      learner: its name, such as `unimodal/m0`.
      values: name to scalar (Python, NumPy or JAX).
      time: seconds since 1970; now when None.
    """
    values = {name: to_plain(value) for name, value in values.items()}
    time = time_lib.time() if time is None else time
    row = {'step': int(step), 'learner': learner, **values, 'time': round(time, 3)}
    try:
      # One unbuffered write per line: a killed process tears the last line at most.
      self._file.write(to_line(row))
      if self._tensorboard:
        self._events_of(learner).write(int(step), values, time)
    except OSError as error:
      raise self._unwritable(error) from error

  def truncate_after(self, step_by_learner: Mapping[str, int]) -> None:
    """Forgets what a resumed run is about to do again.

    Args:
      step_by_learner: the step to which each learner was restored; 0 for one that
        starts afresh. Lines of other learners stay.
    """

    def is_kept(row):
      last, step = step_by_learner.get(row.get('learner')), row.get('step')
      return last is None or step is None or step <= last

    rows = read_jsonl(self.path)
    kept = [row for row in rows if is_kept(row)]
    if len(kept) < len(rows):
      self._file.close()
      files.write_atomic(self.path, b''.join(to_line(row) for row in kept))
      self._open()
    for learner, step in step_by_learner.items():
      self._purge_steps[learner] = int(step) + 1
      if learner in self._events:
        self._events.pop(learner).close()

  def flush(self) -> None:
    """Brings event files up to date; metrics.jsonl always is."""
    for events in self._events.values():
      events.flush()

  def close(self) -> None:
    """Closes all files. A second call does nothing."""
    self._file.close()
    problems = []
    while self._events:
      try:
        self._events.popitem()[1].close()
      except OSError as error:
        problems.append(error)
    if problems:
      raise self._unwritable(problems[0]) from problems[0]

  def __enter__(self):
    return self

  def __exit__(self, kind, *_):
    try:
      self.close()
    except errors.UserError:
      # What went wrong before says more, and is most often the same full disk.
      if kind is None:
        raise

  def _open(self):
    self._file = open(self.path, 'ab', buffering=0)  # noqa: SIM115

  def _unwritable(self, error):
    return errors.UserError(
      f'Cannot write {self.path}: {error.strerror}; free the disk or make the '
      'folder writable, then repeat the command to resume.'
    )

  def _events_of(self, learner):
    if learner not in self._events:
      self._events[learner] = _EventFile(
        self._events_dir / learner, self._purge_steps.get(learner)
      )
    return self._events[learner]


def _has_tensorboard():
  try:
    import tensorboardX  # noqa: F401
  except ImportError:
    return False
  return True


class _EventFile:
  """An event file, written by the thread that calls.

  The package's own SummaryWriter writes in another thread, where a full disk is
  nobody's to handle, and once more when the process ends.
  """

  _FLUSH_SECONDS = 10.0

  def __init__(self, folder: pathlib.Path, purge_step: int | None):
    """Opens a new file; TensorBoard hides older files' events from `purge_step` on."""
    from tensorboardX.record_writer import RecordWriter

    folder.mkdir(parents=True, exist_ok=True)
    # TensorBoard reads files in the order of their names. Several may be opened within
    # one second.
    name = f'events.out.tfevents.{int(time_lib.time())}.{os.getpid()}'
    self._file = RecordWriter(str(folder / f'{name}.{time_lib.monotonic_ns()}'))
    self._add(0, time_lib.time(), file_version='brain.Event:2')
    self._next_flush = 0.0
    if purge_step is not None:
      self._add(purge_step, time_lib.time(), session_log={'status': 'START'})

  def write(self, step: int, values: Mapping[str, Any], time: float) -> None:
    value = [
      {'tag': name, 'simple_value': value}
      for name, value in values.items()
      if isinstance(value, (int, float))
    ]
    self._add(step, time, summary={'value': value})
    if time_lib.monotonic() >= self._next_flush:
      self.flush()

  def flush(self) -> None:
    self._file.flush()
    self._next_flush = time_lib.monotonic() + self._FLUSH_SECONDS

  def close(self) -> None:
    self._file.close()

  def _add(self, step, time, **content):
    from tensorboardX.proto.event_pb2 import Event

    event = Event(step=step, wall_time=time, **content)
    self._file.write(event.SerializeToString())


def to_plain(value: Any) -> Any:
  """Turns scalars, arrays and containers into what strict JSON can hold."""
  if isinstance(value, Mapping):
    return {str(name): to_plain(child) for name, child in value.items()}
  if isinstance(value, (str, bool, int, type(None))):
    return value
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  if isinstance(value, (np.generic, np.ndarray)) or hasattr(value, '__array__'):
    return to_plain(np.asarray(value, dtype=_wide(value)).tolist())
  if isinstance(value, (Sequence, set, frozenset)):
    return [to_plain(child) for child in value]
  return str(value)


def _wide(value):
  # bfloat16 is no NumPy type: its tolist() gives objects that json does not know.
  return np.float64 if np.asarray(value).dtype.kind == 'V' else None


def to_line(row: Mapping[str, Any]) -> bytes:
  """One row as a line of strict JSON, newline included."""
  return (json.dumps(to_plain(row), allow_nan=False) + '\n').encode()


def read_jsonl(path: str | os.PathLike) -> list[dict[str, Any]]:
  """Reads all whole lines; none if there is no file.

  A last line that was torn by a kill is left out. Damage anywhere else cannot come
  from this program and is reported.
  """
  path = pathlib.Path(path)
  if not path.exists():
    return []
  lines = path.read_bytes().split(b'\n')
  rows = []
  for number, line in enumerate(lines, start=1):
    if not line.strip():
      continue
    try:
      row = json.loads(line, parse_constant=lambda _: None)
      if not isinstance(row, dict):
        raise ValueError('not an object')
      rows.append(row)
    except ValueError as error:
      if number == len(lines):
        break
      raise errors.UserError(
        f'{path}, line {number} is not a JSON object; delete that line.'
      ) from error
  return rows


def _mend_torn_end(path: pathlib.Path) -> None:
  """Makes the file end with a whole line, or the next one would be glued to it."""
  if not path.exists():
    return
  data = path.read_bytes()
  if not data or data.endswith(b'\n'):
    return
  files.write_atomic(path, b''.join(to_line(row) for row in read_jsonl(path)))


def write_results(path: str | os.PathLike, rows: Iterable[Mapping[str, Any]]) -> None:
  """Replaces a results file by `rows`, one JSON object per line."""
  files.write_atomic(path, b''.join(to_line(row) for row in rows))


def read_results(path: str | os.PathLike) -> list[dict[str, Any]]:
  """Reads the rows of a results file; none if there is no file."""
  return read_jsonl(path)
