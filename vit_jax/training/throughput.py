"""Measure the speed of training and its goodput."""

from collections.abc import Iterator
import contextlib
import time


class ThroughputMeter:
  """Measures speed since the last reading, and goodput since the run first started.

  Goodput is the fraction of wall time since the first start, restarts included, that produced
  training progress. Waiting for data, compiling, saving and evaluating do not count as productive,
  nor does the time between a kill and its restart, nor do steps that have to be repeated.
  """

  def __init__(
    self,
    batch_size: int,
    num_devices: int,
    peak_images: float | None = None,
    *,
    started: float | None = None,
    productive: float = 0.0,
  ):
    """Start measuring.

    Args:
      batch_size: images per step, over all devices.
      num_devices: number of devices.
      peak_images: images per second that one device would train at its peak FLOP/s. None if the
        peak is not known: then there is no MFU.
      started: when the run first started, in seconds since 1970. Defaults to now.
      productive: productive seconds of the part of the run that is being resumed.
    """
    self._batch_size, self._num_devices, self._peak_images = batch_size, num_devices, peak_images
    self._started = time.time() if started is None else started
    self._productive = productive
    self.restart()

  def restart(self) -> None:
    """Forget the time since the last reading."""
    self._start, self._steps, self._waited = time.perf_counter(), 0, 0.0
    self._compiled = 0.0

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Pause the meter, e.g. while saving or evaluating."""
    start = time.perf_counter()
    try:
      yield
    finally:
      self._start += time.perf_counter() - start

  def waited(self, seconds: float) -> None:
    """Count the time that a step waited for its data."""
    self._waited += seconds

  def step(self, compiled: bool = False) -> None:
    """Count one step. A step that was compiled counts for the speed, but not as productive."""
    self._steps += 1
    if compiled:
      self._compiled = time.perf_counter() - self._start - self._waited

  def read(self) -> tuple[float, dict[str, float]]:
    """Return (steps per second, the metrics of speed) and start the next measurement."""
    elapsed = time.perf_counter() - self._start
    self._productive += elapsed - self._waited - self._compiled
    steps_per_second = self._steps / elapsed
    images = steps_per_second * self._batch_size
    metrics = {
      'train/images_per_second': images,
      'train/images_per_second_per_device': images / self._num_devices,
      'train/seconds_waiting_for_data': self._waited,
      'train/productive_seconds': self._productive,
      'train/goodput': self._productive / max(time.time() - self._started, elapsed),
    }
    if self._peak_images:
      metrics['train/mfu'] = images / self._num_devices / self._peak_images
    self.restart()
    return steps_per_second, metrics
