"""The launch scripts, with an interpreter that only writes down what it is asked."""

import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# Stands in for python3: knows -c (nothing, or the version check), venv, pip, the rest.
_PYTHON = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >> "$LOG"
case "$*" in
  *version_info*) exit "${OLD:-0}" ;;
  *"-m venv"*) mkdir -p "${@: -1}/bin"; cp "$0" "${@: -1}/bin/python" ;;
  *"-m pip"*) exit "${PIP:-0}" ;;
esac
"""


@pytest.fixture
def clone(tmp_path):
  """A copy of what the scripts read, and a way to run one of them."""
  root = tmp_path / 'a clone'
  root.mkdir()
  shutil.copytree(ROOT / 'launch', root / 'launch')
  for name in ('requirements.txt', 'requirements-test.txt'):
    shutil.copy(ROOT / name, root)
  python = tmp_path / 'python3'
  python.write_text(_PYTHON)
  python.chmod(0o755)
  log = tmp_path / 'log'

  def run(script='local', *arguments, **variables):
    log.write_text('')
    environment = {'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'LOG': str(log)}
    result = subprocess.run(
      ['bash', root / 'launch' / f'{script}.sh', *arguments],
      cwd=tmp_path,
      env=environment | variables,
      capture_output=True,
      text=True,
    )
    return result, log.read_text().splitlines()

  run.root = root
  return run


def _installs(lines):
  return [line for line in lines if '-m pip install' in line]


def test_installs_once_and_runs_the_program(clone):
  result, lines = clone('local', '--config=configs/a b.py', '--workdir=runs/x')
  assert result.returncode == 0, result.stderr
  assert 'python3 -m venv --clear .venv' in lines
  assert len(_installs(lines)) == 1 and 'requirements.txt' in _installs(lines)[0]
  assert lines[-1] == 'python -m mmsbm.main --config=configs/a b.py --workdir=runs/x'
  assert (clone.root / '.venv' / 'bin' / 'python').exists()
  result, lines = clone('local', '--config=x')
  assert lines == ['python -c ', 'python -m mmsbm.main --config=x']
  assert result.stderr == ''


def test_new_requirements_are_installed_into_the_same_environment(clone):
  clone()
  with open(clone.root / 'requirements.txt', 'a') as f:
    f.write('another-package\n')
  _, lines = clone()
  assert len(_installs(lines)) == 1
  assert not any('-m venv' in line for line in lines)
  assert not _installs(clone()[1])


def test_interrupted_installation_starts_again(clone):
  result, lines = clone(PIP='1')
  assert result.returncode == 1
  assert not any('mmsbm.main' in line for line in lines)
  result, lines = clone()
  assert result.returncode == 0
  assert len(_installs(lines)) == 1 and 'mmsbm.main' in lines[-1]


def test_broken_environment_is_made_again(clone):
  clone()
  (clone.root / '.venv' / 'bin' / 'python').unlink()
  result, lines = clone()
  assert result.returncode == 0
  assert 'python3 -m venv --clear .venv' in lines and len(_installs(lines)) == 1


def test_old_python_ends_with_one_line(clone):
  result, lines = clone(OLD='1')
  assert result.returncode == 2
  assert result.stderr.count('\n') == 1 and 'Python 3.11 or newer' in result.stderr
  assert not _installs(lines)


def test_place_and_interpreter_can_be_chosen(clone, tmp_path):
  shutil.copy(tmp_path / 'python3', tmp_path / 'python9')
  _, lines = clone(MMSBM_VENV=str(tmp_path / 'else where'), PYTHON='python9')
  assert f'python9 -m venv --clear {tmp_path / "else where"}' in lines
  assert not (clone.root / '.venv').exists()


def test_an_array_of_slurm_shares_the_rows_of_a_study_out(clone, tmp_path):
  copy = tmp_path / 'slurm_script'
  shutil.copy(clone.root / 'launch' / 'slurm_study.sh', copy)
  # --array=1-8
  slurm = {
    'SLURM_ARRAY_TASK_ID': '3',
    'SLURM_ARRAY_TASK_MIN': '1',
    'SLURM_ARRAY_TASK_COUNT': '8',
  }
  environment = {
    'PATH': f'{tmp_path}:{os.environ["PATH"]}',
    'LOG': str(tmp_path / 'log'),
  }
  result = subprocess.run(
    ['bash', copy, '--study=s.py', '--workdir=w'],
    env=environment | slurm | {'SLURM_SUBMIT_DIR': str(clone.root)},
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr
  assert (tmp_path / 'log').read_text().splitlines()[-1] == (
    'python -m mmsbm.studies --task=2 --num_tasks=8 --study=s.py --workdir=w'
  )


def test_test_script_checks_the_style_and_passes_arguments_on(clone):
  clone()
  result, lines = clone('test', '-m', 'slow')
  assert result.returncode == 0, result.stderr
  assert 'requirements-test.txt' in _installs(lines)[0]
  assert lines[-3:-1] == ['python -m ruff check .', 'python -m ruff format --check .']
  assert lines[-1].startswith('python -m pytest') and lines[-1].endswith('-m slow')


@pytest.mark.parametrize(
  'script',
  [
    'launch/local.sh',
    'launch/study.sh',
    'launch/slurm_study.sh',
    'launch/test.sh',
    '.ci/run',
  ],
)
def test_scripts_are_executable_and_parse(script):
  assert os.access(ROOT / script, os.X_OK)
  subprocess.run(['bash', '-n', ROOT / script], check=True)
