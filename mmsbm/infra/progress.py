"""One line that is rewritten on a terminal, plain lines in a log."""

import sys
import time
from typing import TextIO


def duration(seconds: float) -> str:
  """'42 s', '3 min 05 s' or '2 h 10 min'."""
  seconds = int(round(seconds))
  if seconds < 60:
    return f'{seconds} s'
  if seconds < 3600:
    return f'{seconds // 60} min {seconds % 60:02d} s'
  return f'{seconds // 3600} h {seconds % 3600 // 60:02d} min'


class Progress:
  """Steps done, their rate and the time left.

  Args:
    label: what is going on.
    total: number of steps.
    first: steps that an earlier run has done.
    stream: where to write; standard error by default.
    every: least seconds between two lines of a log.
  """

  def __init__(
    self,
    label: str,
    total: int,
    first: int = 0,
    stream: TextIO | None = None,
    every: float = 10.0,
  ):
    self._label, self._total, self._first = label, total, first
    self._stream = sys.stderr if stream is None else stream
    self._terminal = self._stream.isatty()
    self._every = 0.2 if self._terminal else every
    self._start = time.monotonic()
    self._shown = -float('inf')
    self._width = 0

  def __enter__(self):
    self.update(self._first, 'resumed' if self._first else 'compiling', force=True)
    # The first line must not keep the first news waiting.
    self._shown = -float('inf')
    return self

  def __exit__(self, kind, error, trace):
    del kind, trace
    elapsed = time.monotonic() - self._start
    self._write(
      f'{self._label}: {"stopped after" if error else "done in"} {duration(elapsed)}',
      end='\n',
    )

  def update(self, step: int, note: str = '', *, force: bool = False) -> None:
    """Shows that `step` of the steps are done."""
    now = time.monotonic()
    if not force and now - self._shown < self._every:
      return
    self._shown = now
    parts = [f'{self._label}: {step}/{self._total}']
    if step > self._first:
      rate = (step - self._first) / max(now - self._start, 1e-9)
      parts += [f'{rate:.3g}/s', f'{duration((self._total - step) / rate)} left']
    self._write('  '.join([*parts, note]), end='' if self._terminal else '\n')

  def _write(self, text: str, end: str) -> None:
    if self._terminal:
      text, self._width = text.ljust(self._width), len(text)
      text = '\r' + text
    self._stream.write(text + end)
    self._stream.flush()
