"""The flags that all commands with a config share."""

import os
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from mmsbm.config import nearest
from mmsbm.infra.errors import UserError, one_line

# What ml_collections puts around the names of fields.
QUOTES = '\'"\\ '

MODES = ('run', 'train', 'evaluate', 'sample', 'report')

CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'File:arguments, e.g. configs/digits.py:smoke.', lock_config=True
)
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.')
MODE = flags.DEFINE_string('mode', 'run', f'One of {MODES}.')


def parse_flags(argv: Sequence[str]) -> None:
  """Parses flags; any mistake in them becomes a UserError."""
  try:
    rest = flags.FLAGS(list(argv))
  # Configs are Python files, and ml_collections reports a bad override as any of
  # these.
  except (LookupError, AttributeError) as e:
    # The name of the field, quoted once or twice, and perhaps a better one.
    field, _, hint = one_line(e).replace('\\n', ' ').strip('"').partition(' Did you')
    hint = f' Did you{hint}'.rstrip(QUOTES) if hint else ''
    raise UserError(f"the config has no field '{field.strip(QUOTES)}'.{hint}") from e
  except (flags.Error, TypeError, ValueError) as e:
    raise UserError(one_line(e)) from e
  except (SyntaxError, ImportError) as e:
    raise UserError(f'the config file cannot be used: {one_line(e)}') from e
  if len(rest) > 1:
    raise UserError(f'unexpected argument {rest[1]!r}.')
  for flag, example in (('config', 'configs/digits.py'), ('workdir', 'runs/digits')):
    if not flags.FLAGS[flag].value:
      raise UserError(f'--{flag} is missing, e.g. --{flag}={example}.')
  # ml_collections keeps a file that it cannot read to itself until it is used.
  path = config_flags.get_config_filename(flags.FLAGS['config']).split(':')[0]
  if not os.path.isfile(path):
    raise UserError(f'--config: there is no file {path}.')
  if MODE.value not in MODES:
    raise UserError(
      f'--mode={MODE.value} is not one of {MODES}.' + nearest(MODE.value, MODES)
    )
