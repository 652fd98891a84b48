"""Ends a process that makes no progress: a hung disk, network or device raises nothing."""

import faulthandler
import os
import sys
import threading
import time

from vit_jax.parallel import hosts


class Watchdog:
  """To be told of progress; after `seconds` without any it ends the process, exit code 1.

  It first writes the stacks of all threads to stderr, then one sentence, and tells the other
  processes of the job. A context manager; with 0 seconds it does nothing.
  """

  def __init__(self, seconds: float):
    self._seconds = seconds
    self._closed = threading.Event()
    self.progress('at the start')

  def progress(self, doing: str) -> None:
    """Says what comes next, as in 'for N s <doing>'; it has `seconds` from now on."""
    self._last = time.monotonic(), doing

  def __enter__(self) -> 'Watchdog':
    if self._seconds:
      threading.Thread(target=self._watch, daemon=True, name='watchdog').start()
    return self

  def __exit__(self, *_) -> None:
    self._closed.set()

  def _watch(self):
    while not self._closed.wait(min(self._seconds / 8, 10)):
      since, doing = self._last
      if time.monotonic() - since > self._seconds:
        self._end(doing)

  def _end(self, doing):
    message = (
      f'no progress for {self._seconds:g} s {doing}; the stacks above show what each '
      'thread waits for (config.hang_seconds sets the time, 0: for ever)'
    )
    faulthandler.dump_traceback(sys.stderr, all_threads=True)
    print(f'error: {message}', file=sys.stderr, flush=True)
    hosts.fail(message)
    os._exit(1)  # the main thread hangs where no exception can reach it
