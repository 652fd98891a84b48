"""Let all processes save and stop at the same step after SIGTERM.

JAX's preemption service, which `hosts.start` starts, notices SIGTERM in any process. The training
loop asks `Stopper` once per step. It then saves and raises Interrupted, and the exit code is 42.
"""

import itertools

from jax.experimental import multihost_utils

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
    if not self._stop:
      self._stop = multihost_utils.reached_preemption_sync_point(next(_points))
    return self._stop
