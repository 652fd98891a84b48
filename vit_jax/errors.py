"""The two ways a run ends early that are no bug: bad input, and a request to stop."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import difflib
import functools
import os
import re
import sys

Main = Callable[[Sequence[str] | None], int]

_INTERRUPTED = 130  # the shell's exit code for Ctrl-C


class InputError(ValueError):
  """Bad input from the user: names the thing and the remedy in one sentence.

  Programs (main, tools) print it without a traceback and exit with 1; library callers
  may catch it as a ValueError.
  """


class NotFinite(InputError):
  """Training diverged: the loss, a gradient or a parameter is not finite."""


class Interrupted(Exception):
  """The run was asked to stop and has saved; the same command goes on."""


def some(items: Iterable[str], most: int = 10) -> str:
  """For an error: the items, or the first of many and how many more."""
  items = list(items)
  return '; '.join(items[:most]) + (f' and {len(items) - most} more' if len(items) > most else '')


def reason(e: BaseException) -> str:
  """What the operating system or TensorStore said, if anywhere in the chain; else what `e` says."""
  for cause in _chain(e):
    if code := _tensorstore_code(cause):
      return os.strerror(code)
    if re.match('[A-Z_]+: ', str(cause)):  # TensorStore's, in front of all it was told to do
      e = cause
  line = (str(e).strip().splitlines() or [type(e).__name__])[0].split(' [tensorstore_spec=')[0]
  return line if len(line) <= 200 else f'{line[:60]} ... {line[-140:]}'  # the cause stands last


def last_line(e: BaseException) -> str:
  """Return the last line of an error's message, or its type when it has none."""
  return (str(e).strip().splitlines() or [type(e).__name__])[-1]


def os_error(e: BaseException) -> int | None:
  """The errno of what the operating system said, if anywhere in the chain of errors."""
  codes = (
    (isinstance(cause, OSError) and cause.errno) or _tensorstore_code(cause) for cause in _chain(e)
  )
  return next(filter(None, codes), None)


def _chain(e: BaseException | None) -> Iterator[BaseException]:
  while e is not None:
    yield e
    e = e.__cause__ or e.__context__


def _tensorstore_code(e: BaseException) -> int | None:
  code = re.search(r"os_error_code='(\d+)'", str(e))  # its words vary
  return int(code[1]) if code else None


def exit_on_error(main: Main) -> Main:
  """Decorate the `main` of a tool: bad input and Ctrl-C end it with one line and an exit code."""

  @functools.wraps(main)
  def run(argv: Sequence[str] | None = None) -> int:
    try:
      return main(argv)
    except InputError as e:
      print(f'error: {e}', file=sys.stderr)
      return 1
    except KeyboardInterrupt:
      print('error: stopped before the end', file=sys.stderr)
      return _INTERRUPTED

  return run


def unknown(what: str, value: object, choices: Iterable[object]) -> InputError:
  """Return the error for a value that is none of the choices.

  Args:
    what: the kind of value, such as 'loss'.
    value: what was given.
    choices: the values there are.
  """
  names = [str(choice) for choice in choices]
  near = difflib.get_close_matches(str(value), names, 1)
  hint = f' Did you mean {near[0]!r}?' if near else ''
  return InputError(f'Unknown {what} {value!r}.{hint} Available: {", ".join(names)}.')
