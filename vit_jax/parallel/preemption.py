"""Agreement of all processes on the step at which to save and stop."""

import itertools

from jax.experimental import multihost_utils

# Counts on from run to run of this process. If JAX is asked to stop before a run's first step, it
# does so at the point after the newest one that it has seen.
_points = itertools.count(1)


class Stopper:
  """Tells all processes, at the same point, to save and stop."""

  def __init__(self) -> None:
    self._stop = False

  def __call__(self) -> bool:
    """Return True if this is the point to stop at, on all hosts at the same call after SIGTERM.

    All processes must call it at the same points: once in each train or eval step.
    """
    if not self._stop:
      self._stop = multihost_utils.reached_preemption_sync_point(next(_points))
    return self._stop
