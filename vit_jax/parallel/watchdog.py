"""End a process that waits forever for a disk, network or device that has stopped answering."""

import faulthandler
import os
import sys
import threading
import time

from vit_jax.parallel import hosts


class Watchdog:
  """Ends the process, with exit code 1, after some time without progress.

  The watchdog first writes the stacks of all threads and an error to stderr, and tells the other
  processes of the job. Use it as a context manager.
  """

  def __init__(self, seconds: float):
    """Set the time limit. Watching starts when the context manager is entered.

    Args:
      seconds: how long the process may go without progress. 0 turns watching off.
    """
    self._seconds = seconds
    self._closed = threading.Event()
    self.progress('at the start')

  def progress(self, doing: str) -> None:
    """Report progress.

    Args:
      doing: the next activity, which then has `seconds` to complete. It continues the sentence
        'No progress for 60 s', e.g. 'in step 7'.
    """
    self._last = time.monotonic(), doing

  def __enter__(self) -> 'Watchdog':
    if self._seconds:
      threading.Thread(target=self._watch, daemon=True, name='watchdog').start()
    return self

  def __exit__(self, *exc: object) -> None:
    self._closed.set()

  def _watch(self) -> None:
    while not self._closed.wait(min(self._seconds / 8, 10)):
      since, doing = self._last
      if time.monotonic() - since > self._seconds:
        self._end(doing)

  def _end(self, doing: str) -> None:
    message = (
      f'No progress for {self._seconds:g} s {doing}. The stacks above show what each thread waits '
      'for. config.hang_seconds sets the time limit (0 for none).'
    )
    faulthandler.dump_traceback(sys.stderr, all_threads=True)
    print(f'error: {message}', file=sys.stderr, flush=True)
    hosts.fail(message)
    os._exit(1)  # the main thread hangs where no exception can reach it
