"""How the command line of a tool ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
import sys

from vit_jax.errors import InputError

Main = Callable[[Sequence[str] | None], int]

_INTERRUPTED = 130  # the shell's, of Ctrl-C


def tells_errors(main: Main) -> Main:
  """Wraps `main`: wrong input and Ctrl-C end it with one line on stderr and an exit code."""

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
