"""Errors that a user can meet, and how a failure is put into words."""

from collections.abc import Callable, Iterable, Iterator
import difflib
import functools
import io
import os
import re
import sys
from typing import ParamSpec

_Parameters = ParamSpec('_Parameters')

_INTERRUPTED = 130  # the shell's exit code for Ctrl-C
_LINE = 200  # characters of another program's message that still read as one line


class InputError(ValueError):
  """Bad input from the user. The message says what happened, where, and what to do.

  Programs (main, tools) print the message without a traceback and exit with code 1. Library
  callers may catch it as a ValueError.
  """


class NotFinite(InputError):
  """Training diverged: the loss, a gradient or a parameter is not finite."""


class Interrupted(Exception):
  """The run was asked to stop and has saved a checkpoint. The same command continues it."""


def unknown(kind: str, value: object, choices: Iterable[object]) -> InputError:
  """Return the error for a value that is not among the choices.

  Args:
    kind: the kind of value, such as 'loss'.
    value: the value that was given.
    choices: the values that exist.
  """
  names = [str(choice) for choice in choices]
  near = difflib.get_close_matches(str(value), names, 1)
  hint = f' Did you mean {near[0]!r}?' if near else ''
  return InputError(f'Unknown {kind} {value!r}.{hint} Available: {", ".join(names)}.')


def shortlist(items: Iterable[str], most: int = 10) -> str:
  """Join items for an error message. After the first `most` items, give a count of the rest."""
  items = list(items)
  rest = f' and {len(items) - most} more' if len(items) > most else ''
  return '; '.join(items[:most]) + rest


def first_line(error: BaseException) -> str:
  """Return the first line of an error's message, or its type's name if it has no message."""
  return _lines(error)[0]


def last_line(error: BaseException) -> str:
  """Return the last line of an error's message, or its type's name if it has no message."""
  return _lines(error)[-1]


def reason(error: BaseException) -> str:
  """Return in one line why an operation on a file failed.

  The reason is the operating system's own message, such as 'No space left on device', if `error`
  has it or if TensorStore reports its errno somewhere in the chain of causes. Otherwise it is the
  first line of TensorStore's message in the chain, or of `error` itself. A long line is cut in the
  middle, because its end names the cause.
  """
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  for cause in _chain(error):
    if code := _tensorstore_code(cause):
      return os.strerror(code)
    if re.match('[A-Z_]+: ', str(cause)):  # TensorStore's own message, not a caller's
      error = cause
  line = first_line(error).split(' [tensorstore_spec=')[0]
  return line if len(line) <= _LINE else f'{line[:60]} ... {line[-140:]}'


def os_error_code(error: BaseException) -> int | None:
  """Return the operating system's errno from the chain of causes, or None if there is none."""
  codes = (
    (isinstance(cause, OSError) and cause.errno) or _tensorstore_code(cause)
    for cause in _chain(error)
  )
  return next(filter(None, codes), None)


def print_any_text() -> None:
  """Let stdout escape characters that its encoding lacks. By default, they would be an error.

  Names of files and classes may hold any character, and also bytes that are no character at all.
  """
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors='backslashreplace')


def exit_on_error(main: Callable[_Parameters, int]) -> Callable[_Parameters, int]:
  """Decorate a tool's `main` so that bad input and Ctrl-C print one line and set the exit code."""

  @functools.wraps(main)
  def run(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> int:
    print_any_text()
    try:
      return main(*args, **kwargs)
    except InputError as e:
      print(f'error: {e}', file=sys.stderr)
      return 1
    except KeyboardInterrupt:
      print('error: Interrupted before the end.', file=sys.stderr)
      return _INTERRUPTED

  return run


def _lines(error: BaseException) -> list[str]:
  return str(error).strip().splitlines() or [type(error).__name__]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
  """Yield an error and its causes."""
  while error is not None:
    yield error
    error = error.__cause__ or error.__context__


def _tensorstore_code(error: BaseException) -> int | None:
  """Return the errno in TensorStore's message. The rest of the message varies between versions."""
  code = re.search(r"os_error_code='(\d+)'", str(error))
  return int(code[1]) if code else None
