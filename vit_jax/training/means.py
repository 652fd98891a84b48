"""Means of the loss and the accuracy over the steps since the last line of metrics."""

from collections.abc import Mapping
from typing import Any

_NAMES: tuple[str, ...] = ('loss', 'accuracy')


class StepMeans:
  """Sums loss and accuracy in float64, in the order of the steps.

  A checkpoint holds the partial sums, so that the next line of a resumed run is that of an
  undisturbed run, bit for bit.

  Attributes:
    first_loss: loss of the first step of the run. None if an earlier version started it.
  """

  def __init__(self, saved: Mapping[str, float] | None = None, *, step: int = 0):
    """Start from the sums in a checkpoint.

    Args:
      saved: the result of `sums`. None for a new run, or a checkpoint that has none.
      step: number of steps that are done.
    """
    saved = saved or {}
    self._step, self._count = step, int(saved.get('steps', 0))
    self._sums: dict[str, float] = {name: saved.get(name, 0.0) for name in _NAMES}
    self.first_loss: float | None = saved.get('first_loss')

  def add(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Add the metrics of a step. A step that was added before is left out."""
    if step <= self._step:
      return
    if step == 1:
      self.first_loss = float(metrics['loss'])
    self._step, self._count = step, self._count + 1
    for name in _NAMES:
      self._sums[name] += float(metrics[name])

  def read(self) -> dict[str, float]:
    """Return {'train/loss': ..., 'train/accuracy': ...} and start anew."""
    means = {f'train/{name}': self._sums[name] / self._count for name in _NAMES}
    self._sums, self._count = dict.fromkeys(_NAMES, 0.0), 0
    return means

  def sums(self) -> dict[str, float]:
    """Return the partial sums, for the metadata of a checkpoint."""
    sums = {'steps': self._count, **self._sums}
    return sums if self.first_loss is None else {**sums, 'first_loss': self.first_loss}
