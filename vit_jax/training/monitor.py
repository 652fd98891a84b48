"""Progress, metrics and profiling of a training run."""

from collections.abc import Iterator, Mapping
import contextlib
import time

import jax

from vit_jax.training.log import duration, log
from vit_jax.training.metrics import MetricsWriter
from vit_jax.training.mirror import WorkdirMirror
from vit_jax.training.progress import Progress
from vit_jax.training.throughput import ThroughputMeter
from vit_jax.training.workdir import first_start


class Monitor:
  """Follows the training loop. Every process has one, but only that of process 0 writes.

  Attributes:
    latest: the newest value of each metric, including those of the run that is being resumed.
      Empty in processes that do not write.
  """

  def __init__(
    self,
    mirror: WorkdirMirror | None,
    *,
    first_step: int,
    total_steps: int,
    batch_size: int,
    num_devices: int,
    peak_images: float | None,
    profile_steps: tuple[int, int] | None,
  ):
    """Open the files.

    Args:
      mirror: where to write. None in processes that do not write.
      first_step: number of steps that are already done.
      total_steps: length of the whole run.
      batch_size: images per step, over all devices.
      num_devices: number of devices.
      peak_images: see ThroughputMeter.
      profile_steps: first and last step to trace, or None.
    """
    self._mirror, self._first_step, self._total_steps = mirror, first_step, total_steps
    self._trace_from, self._trace_to = profile_steps or (0, 0)
    self._tracing = False
    self._writer = MetricsWriter(mirror.directory, first_step) if mirror else None
    self._meter = ThroughputMeter(
      batch_size,
      num_devices,
      peak_images,
      started=first_start(mirror.directory) if mirror else None,
      productive=self.latest.get('train/productive_seconds', 0.0),
    )
    self._progress: Progress | None = None
    self._begun = time.perf_counter()

  @property
  def latest(self) -> dict[str, float]:
    """The newest value of each metric."""
    return self._writer.latest if self._writer else {}

  def has(self, step: int, name: str) -> bool:
    """Return whether this process has written the metric `name` of `step`."""
    return bool(self._writer and self._writer.has(step, name))

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Write metrics of `step`."""
    if self._writer:
      self._writer.write(step, metrics)

  @contextlib.contextmanager
  def training(self) -> Iterator[None]:
    """Show the progress of the training loop inside the `with` block."""
    self._progress = Progress(self._total_steps, self._first_step)
    self._meter.restart()
    try:
      yield
    finally:
      self._progress.close()
      self._stop_trace()

  def begin(self, step: int) -> None:
    """Start to time `step`. Call this before asking for its batch."""
    if self._mirror and step == self._trace_from:
      jax.profiler.start_trace(str(self._mirror.directory / 'profile'))
      self._tracing = True
    if step == self._first_step + 2:
      self._meter.restart()  # leave the first step, which was compiled, out of the speed
    self._begun = time.perf_counter()

  def has_batch(self) -> None:
    """Record that the batch has arrived."""
    self._meter.waited(time.perf_counter() - self._begun)

  def end(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
    """Record that `step` has been dispatched to the devices. `metrics` are its results."""
    first = step == self._first_step + 1
    last_traced = self._tracing and step == self._trace_to
    if first or last_traced:
      jax.block_until_ready(metrics)
    if last_traced:
      self._stop_trace()
    if first:
      seconds = time.perf_counter() - self._begun
      log.info('The first step took %s, including the rest of its compilation.', duration(seconds))
    self._meter.step(compiled=first)
    if self._progress:
      self._progress.step()

  def log(self, step: int, metrics: Mapping[str, float]) -> None:
    """Write and show the metrics of `step` together with the speed since the last call."""
    steps_per_second, speed = self._meter.read()
    metrics = {**metrics, **speed}
    self.write(step, metrics)
    if self._progress:
      self._progress.report(step, metrics, steps_per_second)

  def paused(self) -> contextlib.AbstractContextManager[None]:
    """Pause the throughput meter, e.g. while saving or evaluating."""
    return self._meter.paused()

  def _stop_trace(self) -> None:
    if self._tracing and self._mirror:
      jax.profiler.stop_trace()
      log.info('Profile:     tensorboard --logdir=%s', self._mirror.workdir / 'profile')
    self._tracing = False

  def close(self) -> None:
    """Close the files."""
    if self._writer:
      self._writer.close()
