"""Let all processes save and stop at the same step after SIGTERM or Ctrl-C.

The training loop asks `Stopper` once per step. It then saves and raises Interrupted, and the exit
code of a command is 42. A process that is alone notices the signals itself. In a job of several
processes, JAX's preemption service notices SIGTERM in any of them and chooses the step.
"""

from collections.abc import Iterator
import contextlib
import itertools
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from jax.experimental import multihost_utils

from vit_jax.parallel import coordination

_asked = threading.Event()  # set when this process has been asked to stop
_depth = 0  # number of `stop_on_signals` blocks that the main thread is in

# One number per call of a Stopper. The numbers continue from one run of this process to the next,
# because JAX chooses the first number that is larger than all that it has seen.
_points = itertools.count(1)


class Stopper:
  """Tells all processes, at the same call, to save and stop."""

  def __init__(self) -> None:
    self._stop = False

  def __call__(self) -> bool:
    """Return True if it is time to stop. All processes get True at the same call.

    All processes must make the same calls: one in each train or eval step.
    """
    if not self._stop and coordination.alone():
      self._stop = _asked.is_set()
    elif not self._stop:
      self._stop = multihost_utils.reached_preemption_sync_point(next(_points))
    return self._stop


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
  """Let SIGTERM and Ctrl-C ask `Stopper` to stop, and put the signals' handlers back at the end.

  A second Ctrl-C ends the block at once. Blocks can be nested, and a signal is remembered until the
  end of the outermost one. Python allows handlers only in the main thread, so the block changes
  nothing in another thread.
  """
  global _depth
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  replaced: list[tuple[int, Any]] = []
  if not _depth:
    replaced.append((signal.SIGINT, signal.signal(signal.SIGINT, _on_interrupt)))
    if coordination.alone():  # otherwise SIGTERM belongs to JAX's preemption service
      replaced.append((signal.SIGTERM, signal.signal(signal.SIGTERM, _on_terminate)))
  _depth += 1
  try:
    yield
  finally:
    _depth -= 1
    if not _depth:
      _asked.clear()
    for number, handler in replaced:
      # None is a handler that a C library has set, which Python cannot put back.
      signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _on_terminate(number: int, frame: FrameType | None) -> None:
  del number, frame
  _asked.set()


def _on_interrupt(number: int, frame: FrameType | None) -> None:
  """Ask to stop at the first Ctrl-C, which makes the second one end the program."""
  del number, frame
  signal.signal(signal.SIGINT, signal.default_int_handler)
  _asked.set()
  if not coordination.alone():
    os.kill(os.getpid(), signal.SIGTERM)  # JAX's preemption service tells the other processes
  with contextlib.suppress(OSError, RuntimeError, ValueError):  # closed, or being written to
    print(
      '\nStopping after this step. Press Ctrl-C again to stop at once, without saving.',
      file=sys.stderr,
    )
