"""The request to stop, as all processes of a job hear it at the same step."""

import itertools

from jax.experimental import multihost_utils

# Counts on from run to run: jax, asked to stop before a run's first step, does so at the point
# after the newest one that it has heard of.
_points = itertools.count(1)


class Stopper:
  """Answers, at points that all processes pass alike, whether to save and stop."""

  def __init__(self):
    self._stop = False

  def __call__(self) -> bool:
    """Call once per train or eval step; True, on all hosts at the same call, after SIGTERM."""
    if not self._stop:
      self._stop = multihost_utils.reached_preemption_sync_point(next(_points))
    return self._stop
