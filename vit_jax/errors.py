"""The two ways a run ends early that are no bug: bad input, and a request to stop."""

from collections.abc import Iterable
import os
import re


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


def reason(e: BaseException) -> str:
  """What the operating system said, wherever in the chain of errors; else what `e` says."""
  cause: BaseException | None = e
  while cause is not None:
    code = re.search(r"os_error_code='(\d+)'", str(cause))  # TensorStore's; its words vary
    if code:
      return os.strerror(int(code[1]))
    cause = cause.__cause__ or cause.__context__
  line = (str(e).strip().splitlines() or [type(e).__name__])[0]
  return line if len(line) <= 200 else f'{line[:60]} ... {line[-140:]}'  # the cause stands last
