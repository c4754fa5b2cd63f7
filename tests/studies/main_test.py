"""The command: its mistakes, its modes, and that it works in any folder."""

import os
import pathlib
import shlex
import subprocess
import sys

import pytest

import mmsbm
from mmsbm.studies import main, results

ROOT = pathlib.Path(mmsbm.__file__).parents[1]


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--only=zz'], '--only=zz fits no row'),
    (['--set=score.num_steps=3'], 'not of the form config.a.b=value'),
    (['--wrong'], 'unrecognized arguments: --wrong'),
    (['--mode=fly'], "invalid choice: 'fly'"),
    (['--mode=time', '--num_tasks=2'], 'no --num_tasks'),
    (['--results=x.jsonl'], '--results=x.jsonl must be a file NAME.csv'),
    (['--readme=none.md'], 'there is no such file'),
    (['--study=none.py'], 'there is no file none.py'),
    (['--study='], '--study and --workdir are needed'),
    (['--study=', '--mode=table', '--results=x.csv'], '--readme says where'),
  ],
)
def test_main_refuses_a_mistake_in_one_line(folder, capsys, arguments, message):
  command = folder.define("name='a'")
  assert main.main([*command, *arguments]) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ') and message in error and error.count('\n') == 1
  assert not folder.work.exists()


def test_main_checks_all_rows_before_the_first_runs(folder, capsys):
  command = folder.define("name='a'", "name='b', overrides={'score.num_step': 3}")
  assert main.main(command) == 2
  assert "no 'score.num_step'" in capsys.readouterr().err
  assert not folder.work.exists()


def test_main_lists_rows_and_their_commands(folder, capsys):
  command = folder.define("name='ae'", "name='a', seed=3, borrow={'unimodal': 'ae'}")
  assert main.main([*command, '--mode=list']) == 0
  first, second = capsys.readouterr().out.splitlines()
  assert first.startswith('ae: python -m mmsbm.main --config=')
  assert second.startswith('a: ') and shlex.split(second)[1:] == [
    'python', '-m', 'mmsbm.main', f'--config={folder.path / "small.py"}', '--mode=run',
    '--config.seed=3', "--config.borrow={'unimodal': '../ae'}",
    f'--workdir={folder.work / "a"}',
  ]  # fmt: skip
  assert not folder.work.exists()


def test_main_shares_the_rows_over_tasks(folder):
  rows = [f"name='r{i}', borrow={{'unimodal': 'ae'}}" for i in range(4)]
  command = folder.define("name='ae'", *rows)
  assert main.main([*command, '--task=1', '--num_tasks=2']) == 0
  assert folder.calls() == {'ae': 1, 'r1': 1, 'r3': 1}
  assert main.main([*command, '--task=0', '--num_tasks=2']) == 0
  assert folder.calls() == dict.fromkeys(('ae', 'r0', 'r1', 'r2', 'r3'), 1)


def test_main_changes_only_its_results_when_all_is_finished(folder, capsys):
  command = folder.define("name='a'", "name='b', columns={'method': 'b'}")
  assert main.main(command) == 0
  page = folder.work / 'report' / 'index.html'
  assert 'finished' in page.read_text()

  def snapshot():
    return {
      path.relative_to(folder.work): (path.stat().st_mtime_ns, path.read_bytes())
      for path in folder.work.rglob('*')
      if path.is_file()
    }

  before = snapshot()
  capsys.readouterr()
  assert main.main(command) == 0
  assert '2 rows, 2 of them finished' in capsys.readouterr().err
  changed = {
    path.parts[0] for path, state in snapshot().items() if before[path] != state
  }
  assert changed <= {'results.csv', 'results.rows.csv', 'report', 'logs'}


def test_main_is_a_module_that_runs_in_any_folder(folder):
  """A definition outside the repository; --mode=table needs no run."""
  command = folder.define("name='a'")
  environment = os.environ | {'PYTHONPATH': str(ROOT)}
  process = subprocess.run(
    [sys.executable, '-m', 'mmsbm.studies', *command[1:], '--mode=table'],
    cwd=folder.path, env=environment, capture_output=True, text=True,
  )  # fmt: skip
  assert process.returncode == 0, process.stderr
  assert results.read_lines(folder.work / 'results.csv') == []
  process = subprocess.run(
    [sys.executable, '-m', 'mmsbm.studies', '--help'],
    cwd=folder.path, env=environment, capture_output=True, text=True,
  )  # fmt: skip
  assert '--num_tasks' in process.stdout and 'NAME.rows.csv' in process.stdout
