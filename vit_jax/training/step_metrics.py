"""Fetch the metrics of training steps from the devices, and check that they are finite."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vit_jax.errors import NotFinite
from vit_jax.training.checkpoint import Checkpoints
from vit_jax.training.means import StepMeans


class StepMetrics:
  """The metrics of the steps so far. Those of the newest steps are still on the devices.

  Attributes:
    means: the means over the steps that were checked.
  """

  def __init__(self, checkpoints: Checkpoints, max_in_flight: int):
    """Start without steps.

    Args:
      checkpoints: the checkpoints of the run. An error names the newest good one.
      max_in_flight: number of steps that may run while the host already queues the next one.
    """
    self._checkpoints, self._max_in_flight = checkpoints, max_in_flight
    self._unchecked: list[tuple[int, Mapping[str, jax.Array]]] = []
    self.means = StepMeans()

  def resume(self, sums: Any, step: int) -> None:
    """Continue the means of a run that has done `step` steps, from the sums in its checkpoint."""
    self.means = StepMeans(sums, step=step)

  def add(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
    """Add the metrics of a step that the devices have been given.

    This waits for an earlier step, so that the host does not queue up batches without end.
    """
    self._unchecked.append((step, metrics))
    if len(self._unchecked) > self._max_in_flight:
      jax.block_until_ready(self._unchecked[-1 - self._max_in_flight][1])

  def check(self) -> dict[str, float]:
    """Add the steps since the last check to the means. Return the metrics of the newest step.

    Raises:
      NotFinite: the loss or the gradient of a step since the last check is not finite.
    """
    fetched = jax.device_get(self._unchecked)
    for step, metrics in fetched:
      for metric, name in (('loss', 'loss'), ('grad_norm', 'gradient')):
        if not np.isfinite(metrics[metric]):
          self._checkpoints.wait()
          raise NotFinite(
            f'The {name} is {metrics[metric]} at step {step}. {self._checkpoints.newest_good()} '
            'Try a lower lr, a longer warmup or clip_norm=1.'
          )
      self.means.add(step, metrics)
    self._unchecked = self._unchecked[-1:]
    return {f'train/{name}': float(value) for name, value in fetched[-1][1].items()}
