"""What is shown while something runs."""

import io
import sys

import pytest

from mmsbm.infra.progress import Progress, duration


class Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [(0.4, '00:00'), (59, '00:59'), (185, '03:05'), (7800, '2:10:00')],
)
def test_duration_has_hours_only_where_they_are(seconds, text):
  assert duration(seconds) == text


def test_progress_writes_whole_lines_into_a_log_and_counts_from_the_first_step(capsys):
  with Progress('train a', 10, first=4, interval=0.0) as progress:
    progress.update(7, 'loss 1')
  lines = capsys.readouterr().err.split('\n')
  assert ' 4/10 ' in lines[0] and lines[0].endswith('resumed]')
  assert lines[1].startswith('train a:  70%') and lines[1].endswith('loss 1]')
  assert lines[2].startswith('train a: done in 00:0') and lines[3:] == ['']


def test_progress_does_not_flood_a_log(capsys):
  with Progress('x', 1000, interval=60.0) as progress:
    for step in range(1000):
      progress.update(step, f'note {step}')
  start, news, end = capsys.readouterr().err.splitlines()
  assert 'compiling' in start and 'note 0' in news and 'done' in end


def test_progress_says_stopped_after_an_error(capsys):
  with pytest.raises(ValueError), Progress('x', 2):
    raise ValueError
  assert capsys.readouterr().err.splitlines()[-1] == 'x: stopped after 00:00'


def test_progress_clears_its_bar_on_a_terminal(monkeypatch):
  monkeypatch.setattr(sys, 'stderr', Terminal())
  with Progress('x', 5) as progress:
    progress.update(3, 'a long note')
  *bars, blank, end = sys.stderr.getvalue().split('\r')
  assert ' 3/5 ' in bars[-1] and 'a long note' in bars[-1]
  assert len(blank) >= len(bars[-1]) and not blank.strip()
  assert end == 'x: done in 00:00\n'
