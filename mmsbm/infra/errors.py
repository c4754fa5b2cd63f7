"""The one exception that users are meant to see."""


class UserError(Exception):
  """A mistake that the user can mend; the message is one line that says how.

  `mmsbm.main` prints the message and exits with code 2. Anything else that
  escapes is a defect of the program and keeps its stack trace.
  """
