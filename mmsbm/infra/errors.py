"""The one exception that users are meant to see, and how errors become one line."""

import errno

# What the operating system calls a place where nothing can be written.
UNWRITABLE = (
  errno.EACCES,
  errno.EDQUOT,
  errno.EEXIST,
  errno.EFBIG,
  errno.EMFILE,
  errno.ENFILE,
  errno.ENOSPC,
  errno.ENOTDIR,
  errno.EPERM,
  errno.EROFS,
)


class UserError(Exception):
  """A mistake that the user can mend; the message is one line that says how.

  `mmsbm.main` prints the message and exits with code 2. Anything else that
  escapes is a defect of the program and keeps its stack trace.
  """


def one_line(error: BaseException) -> str:
  """Returns the message of an error in one line."""
  text = str(error.args[0] if error.args and isinstance(error, KeyError) else error)
  if 'Traceback (most recent call last)' in text:
    # ml_collections puts the trace of an error in a config into its message.
    text = text.strip().splitlines()[-1].partition('Error: ')[2] or text
  return ' '.join(text.split())


# What a limit of the machine is called, by the system and by libraries without error
# numbers, and what helps.
_LIMITS = (
  (('RESOURCE_EXHAUSTED', 'No space left'), 'the disk is full: free some space'),
  (('Disk quota exceeded',), 'the disk quota is used up: free some space'),
  (('Too many open files',), 'too many files are open: raise the limit (`ulimit -n`)'),
  (
    ('File too large',),
    'the file is larger than allowed: raise the limit (`ulimit -f`)',
  ),
)


def machine_limit(error: BaseException) -> str | None:
  """Says which limit of the machine an error means, and what to do; or None."""
  text = str(error)
  return next((s for words, s in _LIMITS if any(w in text for w in words)), None)
