"""The two ways a run ends early that are no bug: bad input, and a request to stop."""


class InputError(ValueError):
  """Bad input from the user: names the thing and the remedy in one sentence.

  Programs (main, tools) print it without a traceback and exit with 1; library callers
  may catch it as a ValueError.
  """


class Interrupted(Exception):
  """The run was asked to stop and has saved; the same command goes on."""
