"""A bar that is rewritten on a terminal, plain lines in a log."""

import sys
from typing import TextIO

from tqdm import tqdm

from mmsbm.infra import interrupts


def duration(seconds: float) -> str:
  """'00:42', '03:05' or '2:10:00'."""
  return tqdm.format_interval(seconds)


class Progress:
  """Shows steps done, their rate and the time left on standard error.

  Args:
    title: what is going on.
    total: number of steps.
    first: steps that an earlier run has done.
    interval: least seconds between two lines of a log.
  """

  def __init__(self, title: str, total: int, first: int = 0, interval: float = 10.0):
    is_terminal = sys.stderr.isatty()
    self._bar = tqdm(
      desc=title,
      total=total,
      initial=first,
      file=sys.stderr if is_terminal else _Lines(sys.stderr),
      mininterval=0.2 if is_terminal else interval,
      miniters=1,
      dynamic_ncols=is_terminal,
      leave=False,
      postfix='resumed' if first else 'compiling',
    )
    # The first line must not keep the first news waiting.
    self._is_news = True

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, kind, error, trace) -> None:
    elapsed = duration(self._bar.format_dict['elapsed'])
    self._bar.close()
    verb = 'stopped after' if error else 'done in'
    print(f'{self._bar.desc}: {verb} {elapsed}', file=sys.stderr, flush=True)

  def update(self, step: int, note: str = '') -> None:
    """Shows that `step` of the steps are done.

    Raises:
      KeyboardInterrupt: the program was asked to stop.
    """
    interrupts.check()
    self._bar.set_postfix_str(note, refresh=False)
    if not self._bar.update(step - self._bar.n) and self._is_news:
      self._bar.refresh()
    self._is_news = False


class _Lines:
  """Makes a line of each text that tqdm would overwrite the last one with."""

  def __init__(self, stream: TextIO):
    self._stream = stream

  def write(self, text: str) -> None:
    if text.strip():
      self._stream.write(text.strip() + '\n')

  def flush(self) -> None:
    self._stream.flush()
