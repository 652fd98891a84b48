"""The two ways a run ends early that are no bug: bad input, and a request to stop."""

from collections.abc import Iterable


class InputError(ValueError):
  """Bad input from the user: names the thing and the remedy in one sentence.

  Programs (main, tools) print it without a traceback and exit with 1; library callers
  may catch it as a ValueError.
  """


class Interrupted(Exception):
  """The run was asked to stop and has saved; the same command goes on."""


def some(items: Iterable[str], most: int = 10) -> str:
  """For an error: the items, or the first of many and how many more."""
  items = list(items)
  return '; '.join(items[:most]) + (f' and {len(items) - most} more' if len(items) > most else '')
