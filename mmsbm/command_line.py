"""The flags that all commands with a config share."""

import os
import re
import traceback
from collections.abc import Mapping, Sequence

import ml_collections
from absl import flags
from ml_collections import config_flags

from mmsbm.config import nearest
from mmsbm.infra.errors import UserError, one_line
from mmsbm.infra.files import local_path

# What ml_collections puts around the names of fields.
QUOTES = '\'"\\ '

MODES = ('run', 'train', 'evaluate', 'sample', 'report')

CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'File:arguments, e.g. configs/digits.py:smoke.', lock_config=True
)
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.')
MODE = flags.DEFINE_string('mode', 'run', f'One of {MODES}.')


# Where launchers of several processes say how many there are; the first counts.
LAUNCHERS = (
  'SLURM_STEP_NUM_TASKS',
  'SLURM_NTASKS',
  'OMPI_COMM_WORLD_SIZE',
  'PMI_SIZE',
  'WORLD_SIZE',
)


def refuse_processes(environment: Mapping[str, str]) -> None:
  """Raises UserError if a launcher has started several processes for one command."""
  name = next((name for name in LAUNCHERS if environment.get(name)), None)
  if name and environment[name].isdigit() and int(environment[name]) > 1:
    raise UserError(
      f'{name}={environment[name]}: a run is trained by one process, on all its '
      f'devices; start one, or unset {name} if there is only one.'
    )


def _is_in_file(error: BaseException, path: str) -> bool:
  """Returns whether an error was raised in a file, or what that calls."""
  while error is not None:
    frames = traceback.extract_tb(error.__traceback__)
    if any(os.path.abspath(f.filename) == os.path.abspath(path) for f in frames):
      return True
    error = error.__cause__ or error.__context__
  return False


def _named(argv: Sequence[str]) -> str:
  """Returns the config file that arguments name; the flag itself may not be set yet."""
  named = re.search(r'(?:^|\n)--?config[=\n]([^\n:]+)', '\n'.join(argv))
  return named[1] if named else ''


def _config_path() -> str:
  return config_flags.get_config_filename(flags.FLAGS['config']).split(':')[0]


def parse_flags(argv: Sequence[str]) -> None:
  """Parses flags; any mistake in them becomes a UserError."""
  try:
    rest = flags.FLAGS(list(argv))
  except (Exception, SystemExit) as e:
    # --help ends the program so, too.
    if isinstance(e, SystemExit) and not _is_in_file(e, _named(argv)):
      raise
    raise _refusal(e, argv) from e
  if len(rest) > 1:
    raise UserError(f'unexpected argument {rest[1]!r}.')
  for flag, example in (('config', 'configs/digits.py'), ('workdir', 'runs/digits')):
    if not flags.FLAGS[flag].value:
      if flag == 'config' and flags.FLAGS['config'].present:
        path = _config_path()
        if os.path.isfile(path):
          raise UserError(f'the config file {path}: get_config returns no config.')
        raise UserError(f'--config: there is no file {path}.')
      raise UserError(f'--{flag} is missing, e.g. --{flag}={example}.')
  # ml_collections keeps a file that it cannot read to itself until it is used.
  path = _config_path()
  if not os.path.isfile(path):
    raise UserError(f'--config: there is no file {path}.')
  if not isinstance(CONFIG.value, ml_collections.ConfigDict):
    raise UserError(f'the config file {path}: get_config returns no config.')
  if MODE.value not in MODES:
    raise UserError(
      f'--mode={MODE.value} is not one of {MODES}.' + nearest(MODE.value, MODES)
    )
  # Those that train different learners may share the folder.
  if MODE.value != 'report' and not CONFIG.value.get('train_only'):
    refuse_processes(os.environ)


def _refusal(error: BaseException, argv: Sequence[str]) -> UserError:
  """Returns what to say of an error of the flags, or of the config file."""
  path = _named(argv)
  text = one_line(error)
  is_theirs = path and _is_in_file(error, path)
  if isinstance(error, flags.Error | ValueError | TypeError):
    return UserError(f'the config file {path}: {text}' if is_theirs else text)
  if is_theirs or not isinstance(error, LookupError | AttributeError):
    return UserError(
      f'the config file {path} cannot be used: {type(error).__name__}: {text}'
    )
  # The name of the field, quoted once or twice, and perhaps a better one.
  field, _, hint = text.replace('\\n', ' ').strip('"').partition(' Did you')
  hint = f' Did you{hint}'.rstrip(QUOTES) if hint else ''
  return UserError(f"the config has no field '{field.strip(QUOTES)}'.{hint}")


def get_workdir() -> str:
  """Returns --workdir as a path of this machine."""
  return str(local_path(WORKDIR.value))
