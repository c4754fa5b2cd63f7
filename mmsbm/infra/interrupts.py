"""Ctrl-C and a scheduler's SIGTERM stop the program where nothing is lost.

An exception out of a signal handler can vanish: compiled code that calls back into
Python drops it. What was asked is therefore remembered, and every loop that shows its
progress asks again, see `infra.progress`.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_state = {'asked': False, 'deferred': False}


def asked() -> bool:
  """Whether the program was asked to stop."""
  return _state['asked']


def check() -> None:
  """Raises KeyboardInterrupt if the program was asked to stop."""
  if asked():
    raise KeyboardInterrupt


def _handle(number, frame) -> None:
  is_first, _state['asked'] = not _state['asked'], True
  if not (is_first and _state['deferred']):
    raise KeyboardInterrupt
  print('\nstopping after this block of steps; once more: at once.', file=sys.stderr)


@contextlib.contextmanager
def listening() -> Iterator[None]:
  """Makes SIGINT and SIGTERM a KeyboardInterrupt; does nothing outside the main thread.

  A signal that the parent has this process ignore stays ignored.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = {s: signal.getsignal(s) for s in _SIGNALS}
  _state.update(asked=False, deferred=False)
  for number, handler in before.items():
    if handler is not signal.SIG_IGN:
      signal.signal(number, _handle)
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
    _state.update(asked=False, deferred=False)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
  """Lets the first signal wait for `check`; a second one does not wait."""
  _state['deferred'] = True
  try:
    yield
  finally:
    _state['deferred'] = False
