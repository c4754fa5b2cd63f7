"""Config files that are no configs, and launchers of several processes."""

import pytest

from mmsbm.command_line import refuse_processes
from mmsbm.infra.errors import UserError


@pytest.mark.parametrize(
  ('body', 'message'),
  [
    ('raise RuntimeError("boom")', 'RuntimeError: boom'),
    ('{}["a"]', 'KeyError: a'),
    ('None.a', "AttributeError: 'NoneType' object has no attribute 'a'"),
    ('1 / 0', 'ZeroDivisionError: division by zero'),
    ('get_config()', 'RecursionError: '),
    ('import sys; sys.exit(3)', 'SystemExit: 3'),
    ('return None', 'get_config returns no config'),
    ('return {"seed": 0}', 'get_config returns no config'),
    ('return 7', 'get_config returns no config'),
  ],
)
def test_config_files_that_are_none(program, tmp_path, capsys, body, message):
  path = tmp_path / 'mine.py'
  path.write_text(f'def get_config(arg=None):\n  {body}\n')
  assert program(f'--config={path}', f'--workdir={tmp_path / "w"}') == 2
  line = capsys.readouterr().err.strip()
  assert line.startswith('error: ') and '\n' not in line
  assert str(path) in line and message in line


def test_a_typo_of_an_override_is_not_the_file_s(program, tmp_path, capsys):
  arguments = '--config=configs/digits.py:smoke', f'--workdir={tmp_path / "w"}'
  assert program(*arguments, '--config.sede=1') == 2
  assert "error: the config has no field 'sede'. Did you" in capsys.readouterr().err


def test_several_processes_are_refused():
  with pytest.raises(
    UserError, match='SLURM_NTASKS=4: a run is trained by one process'
  ):
    refuse_processes({'SLURM_NTASKS': '4'})
  with pytest.raises(UserError, match='WORLD_SIZE=2'):
    refuse_processes({'WORLD_SIZE': '2'})
  refuse_processes({})
  refuse_processes({'SLURM_STEP_NUM_TASKS': '1', 'SLURM_NTASKS': '4'})
