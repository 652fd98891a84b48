"""What a run tells of itself while it goes on: metrics, progress, speed, a profile."""

from collections.abc import Iterator, Mapping
import contextlib
import pathlib
import time

import jax

from vit_jax.files import write_whole
from vit_jax.training.metrics import Meter, MetricsWriter, Progress, duration, log
from vit_jax.training.mirror import Record

STARTED = 'started'  # the file of a record that says when its run first started


class Monitor:
  """Follows the training loop; in all processes alike, but process 0 alone writes.

  Attributes:
    latest: the newest value of each metric, also of the run that is resumed; {} where nothing is
      written.
  """

  def __init__(
    self,
    record: Record | None,
    *,
    first_step: int,
    total_steps: int,
    batch_size: int,
    num_devices: int,
    peak_images: float | None,
    profile_steps: tuple[int, int] | None,
  ):
    """Opens the record.

    Args:
      record: where to write; None: nowhere.
      first_step: steps that are done already.
      total_steps: steps of the whole run.
      batch_size, num_devices, peak_images: as Meter's.
      profile_steps: first and last step to trace; None: none.
    """
    self._record, self._first_step, self._total_steps = record, first_step, total_steps
    self._profile_steps, self._tracing = profile_steps or (0, 0), False
    self._writer = MetricsWriter(record.directory, first_step) if record else None
    self._meter = Meter(
      batch_size,
      num_devices,
      peak_images,
      started=_first_start(record.directory) if record else None,
      productive=self.latest.get('train/productive_seconds', 0.0),
    )
    self._progress = None

  @property
  def latest(self) -> dict[str, float]:
    return self._writer.latest if self._writer else {}

  def has(self, step: int, name: str) -> bool:
    """Whether the metric `name` of `step` is on record here."""
    return bool(self._writer and self._writer.has(step, name))

  def write(self, step: int, values: Mapping[str, float]) -> None:
    if self._writer:
      self._writer.write(step, values)

  @contextlib.contextmanager
  def training(self) -> Iterator[None]:
    """Around the loop, the progress of which is shown."""
    self._progress = Progress(self._total_steps, self._first_step)
    self._meter.restart()
    try:
      yield
    finally:
      self._progress.close()
      self._stop_trace()

  def begin(self, step: int) -> None:
    """Call before the batch of `step` is asked for."""
    if self._record and step == self._profile_steps[0]:
      jax.profiler.start_trace(str(self._record.directory / 'profile'))
      self._tracing = True
    if step == self._first_step + 2:
      self._meter.restart()  # the speeds to come do not count the compilation
    self._begun = time.perf_counter()

  def has_batch(self) -> None:
    """Call when the batch is there."""
    self._meter.waited(time.perf_counter() - self._begun)

  def end(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
    """Call when `step`, of which `metrics` come, was given to the devices."""
    first = step == self._first_step + 1
    if first or self._tracing and step == self._profile_steps[1]:
      jax.block_until_ready(metrics)
    if self._tracing and step == self._profile_steps[1]:
      self._stop_trace()
    if first:
      log.info(
        'the first step took %s, compilation included', duration(time.perf_counter() - self._begun)
      )
    self._meter.step(compiled=first)
    self._progress.step()

  def log(self, step: int, values: Mapping[str, float]) -> None:
    """Writes the metrics of `step` with the speed since the last call, and shows them."""
    rate, figures = self._meter.read()
    self.write(step, {**values, **figures})
    self._progress.report(step, {**values, **figures}, rate)

  def paused(self) -> contextlib.AbstractContextManager[None]:
    """Around what is no training: saves and evaluations."""
    return self._meter.paused()

  def _stop_trace(self):
    if self._tracing:
      jax.profiler.stop_trace()
      log.info('profile:     tensorboard --logdir=%s', self._record.directory / 'profile')
    self._tracing = False

  def close(self) -> None:
    if self._writer:
      self._writer.close()


def _first_start(directory: pathlib.Path) -> float:
  """When the run was started for the first time, in seconds since 1970."""
  path = directory / STARTED
  if not path.exists():
    write_whole(path, f'{time.time()}\n')
  return float(path.read_text())
