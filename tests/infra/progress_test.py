"""What is shown while something runs."""

import io

import pytest

from mmsbm.infra.progress import Progress, duration


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [
    (0.4, '0 s'),
    (59.4, '59 s'),
    (59.6, '1 min 00 s'),
    (3599.4, '59 min 59 s'),
    (3599.6, '1 h 00 min'),
    (90061, '25 h 01 min'),
  ],
)
def test_durations(seconds, text):
  assert duration(seconds) == text


def test_a_log_has_whole_lines_and_counts_from_the_resumed_step():
  out = io.StringIO()
  with Progress('train a', 10, first=4, stream=out, every=0.0) as progress:
    progress.update(7, 'loss 1')
  lines = out.getvalue().splitlines()
  assert lines[0] == 'train a: 4/10  resumed'
  assert lines[1].startswith('train a: 7/10  ') and 's left  loss 1' in lines[1]
  assert lines[2].startswith('train a: done in ')


def test_a_log_is_not_flooded():
  out = io.StringIO()
  with Progress('x', 1000, stream=out, every=60.0) as progress:
    for step in range(1000):
      progress.update(step)
  assert len(out.getvalue().splitlines()) == 3


def test_an_error_is_not_reported_as_success():
  out = io.StringIO()
  with pytest.raises(ValueError), Progress('x', 2, stream=out):
    raise ValueError
  assert 'stopped after' in out.getvalue()


def test_a_terminal_line_is_rewritten_without_rests_of_a_longer_one():
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  out = Terminal()
  with Progress('x', 5, stream=out) as progress:
    progress.update(3, 'a long note', force=True)
    progress.update(4, '', force=True)
  *_, long, short, end = out.getvalue().split('\r')
  assert len(short) >= len(long.rstrip())
  assert end.strip().startswith('x: done') and end.endswith('\n')
