"""Numbers on disk: `metrics.jsonl`, `results.jsonl`, TensorBoard event files.

The JSON files are the record; event files are a convenience, written by tensorboardX,
which only this file imports. Every line is JSON in the strict sense: a NaN or an
infinity, for which JSON has no word, is written as null.
"""

import contextlib
import hashlib
import json
import math
import os
import pathlib
import time as time_lib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mmsbm.infra import digests, errors, files

# What a line of metrics.jsonl says of the rest of it.
CHECK = 'check'
RESULTS, ABOUT = 'results.jsonl', 'evaluation/metrics.json'


class MetricWriter:
  """Appends what is logged while learners train.

  A line reads {"step": 100, "learner": "score", "loss": 0.1, ..., "time": 1.7e9}
  with the seconds since 1970 as time. TensorBoard shows each learner as a run.

  Args:
    workdir: the run's folder; `metrics.jsonl` and `tensorboard/` lie in it.
    of: says what is trained, and stands in every line if it is not empty.
  """

  def __init__(self, workdir: str | os.PathLike, of: str = ''):
    self._of = {'of': of} if of else {}
    self.path = pathlib.Path(workdir) / 'metrics.jsonl'
    self.path.parent.mkdir(parents=True, exist_ok=True)
    self._events = {}
    self._purge_steps = {}
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

    Raises:
      UserError: the file cannot be written.
    """
    values = {name: to_plain(value) for name, value in values.items()}
    time = time_lib.time() if time is None else time
    row = {'step': int(step), 'learner': learner, **values, 'time': round(time, 3)}
    row |= self._of
    try:
      # One unbuffered write per line: a killed process tears the last line at most.
      self._file.write(to_line(row | {CHECK: _check_of(row)}))
      if learner not in self._events:
        folder = self.path.parent / 'tensorboard' / learner
        self._events[learner] = _open_events(folder, self._purge_steps.get(learner))
    except OSError as error:
      raise errors.UserError(
        f'Cannot write {self.path}: {error.strerror}; free the disk or make the '
        'folder writable, then repeat the command to resume.'
      ) from error
    for name, value in values.items():
      if isinstance(value, (int, float)):
        self._events[learner].add_scalar(name, value, int(step), walltime=time)

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
      lines = (to_line(row | {CHECK: _check_of(row)}) for row in kept)
      files.write_atomic(self.path, b''.join(lines))
      self._open()
    for learner, step in step_by_learner.items():
      # TensorBoard hides older events from this step on.
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
    while self._events:
      self._events.popitem()[1].close()

  def __enter__(self) -> 'MetricWriter':
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def _open(self):
    self._file = open(self.path, 'ab', buffering=0)  # noqa: SIM115


def _open_events(folder: pathlib.Path, purge_step: int | None):
  """A tensorboardX.SummaryWriter with a new event file in `folder`."""
  from tensorboardX import SummaryWriter, record_writer

  record_writer.register_writer_factory('mmsbm', _EventFiles)
  return SummaryWriter(
    f'mmsbm:{folder.absolute()}',
    purge_step=purge_step,
    max_queue=0,  # No limit: training does not wait for it.
    flush_secs=10,
    # Names have whole seconds, and a second file of one name would replace the first.
    filename_suffix=f'.{os.getpid()}.{time_lib.monotonic_ns()}',
  )


class _EventFiles:
  """A factory of event files that drop what a full disk does not take.

  tensorboardX writes in a thread, where an error ends nothing but the thread, with a
  stack trace. `metrics.jsonl` is on the same disk and reports it.
  """

  def __init__(self, path: str):
    self._file = open(path, 'wb', buffering=0)  # noqa: SIM115
    self.flush, self.close = self._file.flush, self._file.close

  def write(self, data: bytes) -> None:
    with contextlib.suppress(OSError):
      self._file.write(data)

  @classmethod
  def open(cls, path: str) -> '_EventFiles':
    return cls(path.removeprefix('mmsbm:'))

  @staticmethod
  def directory_check(path: str) -> None:
    os.makedirs(path.removeprefix('mmsbm:'), exist_ok=True)


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


def _check_of(row: Mapping[str, Any]) -> str:
  return hashlib.sha256(to_line(row)).hexdigest()[:8]


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
      check = row.pop(CHECK, None)
      if check is not None and check != _check_of(row):
        raise ValueError('changed')
      rows.append(row)
    except (ValueError, RecursionError) as error:
      if number == len(lines):
        break
      raise errors.UserError(
        f'{path}, line {number} is not a JSON object, or not as it was written; delete '
        'that line.'
      ) from error
  return rows


def _mend_torn_end(path: pathlib.Path) -> None:
  """Makes the file end with a whole line, or the next one would be glued to it."""
  if not path.exists():
    return
  data = path.read_bytes()
  if not data or data.endswith(b'\n'):
    return
  whole, _, last = data.rpartition(b'\n')
  try:
    json.loads(last)
    whole = data
  except (ValueError, RecursionError):
    pass
  files.write_atomic(path, whole + b'\n' * bool(whole))


def write_results(
  workdir: str | os.PathLike,
  rows: Iterable[Mapping[str, Any]],
  about: Mapping[str, Any],
  of: str,
) -> None:
  """Replaces results.jsonl, one JSON object per line, and evaluation/metrics.json.

  Args:
    workdir: the run's folder.
    rows: what was measured.
    about: what the report prints of the metrics.
    of: says what the rows are of.
  """
  workdir = pathlib.Path(workdir)
  files.write_atomic(workdir / RESULTS, b''.join(to_line(row) for row in rows))
  files.write_atomic(workdir / ABOUT, json.dumps(about, indent=1) + '\n')
  digests.write_folder(workdir, (RESULTS, ABOUT), of)


def check_results(workdir: str | os.PathLike, name: str) -> str | None:
  """Compares a file that `write_results` wrote with its digest.

  Returns:
    What the results are of, if they have digests.

  Raises:
    UserError: it is not what was written.
  """
  remedy = '--mode=evaluate writes it anew.'
  return digests.check_folder(workdir, under=(name,), remedy=remedy)


def read_results(path: str | os.PathLike) -> list[dict[str, Any]]:
  """Reads the rows of a file results.jsonl; none if there is no file.

  Raises:
    UserError: it is not what was written.
  """
  path = pathlib.Path(path)
  if path.exists():
    check_results(path.parent, path.name)
  return read_jsonl(path)
