"""The one exception that means "your input, not our bug"."""


class InputError(ValueError):
  """Bad input from the user: names the thing and the remedy in one sentence.

  Programs (main, tools) print it without a traceback and exit with 1; library callers
  may catch it as a ValueError.
  """
