"""The record of a run: metrics.jsonl, TensorBoard events, a log, a progress bar."""

from collections.abc import Iterator, Mapping
import contextlib
import json
import logging
import math
import pathlib
import sys
import time

import absl.logging
import tensorboardX
import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from vit_jax.config.run import read_metrics
from vit_jax.files import write_whole

log = logging.getLogger('vit_jax')


def start_log(path: pathlib.Path | None, process: int = 0) -> None:
  """Sends the package's log to the terminal and, if given, to `path`.

  Of the processes of a job one tells how it goes, 0; the others only what is wrong with them.
  """
  log.setLevel(logging.WARNING if process else logging.INFO)
  log.propagate = False
  log.handlers = [logging.StreamHandler(sys.stderr)]
  if path is not None:
    log.addHandler(logging.FileHandler(path))
  absl.logging.set_verbosity(absl.logging.FATAL)  # Orbax logs what it raises, and much more
  for handler in log.handlers:
    who = f'process {process}: ' if process else ''
    handler.setFormatter(logging.Formatter(f'%(asctime)s {who}%(message)s', '%H:%M:%S'))


class MetricsWriter:
  """Writes one JSON line and the same TensorBoard scalars per call; resumes without doubles.

  Attributes:
    latest: the newest value of each metric.
  """

  def __init__(self, directory: pathlib.Path, resume_step: int = 0):
    """Drops the lines after `resume_step`, which a killed run wrote and this one will repeat."""
    self._path = directory / 'metrics.jsonl'
    recorded = read_metrics(self._path) if self._path.exists() else []
    kept = [line for line in recorded if line['step'] <= resume_step]
    self.latest = {name: value for line in kept for name, value in line.items() if name != 'step'}
    self._seen = {(line['step'], name) for line in kept for name in line}
    write_whole(self._path, ''.join(json.dumps(line) + '\n' for line in kept))
    self._file = open(self._path, 'a')
    self._events = tensorboardX.SummaryWriter(
      str(directory / 'tensorboard'), purge_step=resume_step + 1 if kept else None
    )

  def has(self, step: int, name: str) -> bool:
    """Whether a line of `step` with the metric `name` is on record."""
    return (step, name) in self._seen

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Appends {'step': step, **metrics}; a reader of the file sees it at once."""
    self.latest |= metrics
    self._seen |= {(step, name) for name in metrics}
    self._file.write(json.dumps(dict(step=step, **metrics)) + '\n')
    self._file.flush()
    for name, value in metrics.items():
      self._events.add_scalar(name, value, step)

  def close(self) -> None:
    self._file.close()
    self._events.close()


class Progress:
  """A bar on a terminal, log lines elsewhere; both with loss, accuracy, speed and time left."""

  def __init__(self, total_steps: int, done: int):
    self._bar = tqdm.tqdm(
      total=total_steps,
      initial=done,
      unit='step',
      dynamic_ncols=True,
      disable=not (sys.stderr.isatty() and log.isEnabledFor(logging.INFO)),
      smoothing=0.1,
    )
    self._redirect = contextlib.ExitStack()
    if not self._bar.disable:
      self._redirect.enter_context(logging_redirect_tqdm([log]))
    self._total = total_steps

  def step(self) -> None:
    self._bar.update()

  def report(self, step: int, metrics: Mapping[str, float], steps_per_second: float) -> None:
    """Shows the metrics of `step`."""
    speed = metrics['train/images_per_second']
    short = (
      f'loss {metrics["train/loss"]:.4f}  accuracy {metrics["train/accuracy"]:.1%}  '
      f'{speed:,.{0 if speed >= 10 else 2}f} images/s'
    )
    if self._bar.disable:
      left = (self._total - step) / steps_per_second
      log.info(
        'step %d/%d  %s  lr %.2e  %s left',
        step,
        self._total,
        short,
        metrics['train/lr'],
        duration(left),
      )
    else:
      self._bar.set_postfix_str(short)

  def close(self) -> None:
    self._redirect.close()
    self._bar.close()


class Meter:
  """Speed since the last reading, and goodput: the share of all time that went into steps.

  Counted as productive are the steps of the record, over restarts too: not waiting for data,
  compiling, saving, evaluating, nor the time between a kill and its restart or steps done twice.
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
    """Starts counting.

    Args:
      batch_size, num_devices: images a step, and the devices they are spread over.
      peak_images: images a second that a device would train at its peak; None where that is not
        known: no MFU is given then.
      started: when the run first started, in seconds since 1970; None: now.
      productive: seconds that counted in the part of the run that is resumed.
    """
    self._batch_size, self._num_devices, self._peak_images = batch_size, num_devices, peak_images
    self._started = time.time() if started is None else started
    self._productive = productive
    self.restart()

  def restart(self) -> None:
    """Forgets the time since the last reading."""
    self._start, self._steps, self._waited = time.perf_counter(), 0, 0.0
    self._compiled = 0.0

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Around what is no training: an evaluation, a save. Neither speed nor goodput count it."""
    start = time.perf_counter()
    try:
      yield
    finally:
      self._start += time.perf_counter() - start

  def waited(self, seconds: float) -> None:
    """For the data of a step."""
    self._waited += seconds

  def step(self, compiled: bool = False) -> None:
    """A step is done; a first one that was compiled is in the speed, but not productive."""
    self._steps += 1
    if compiled:
      self._compiled = time.perf_counter() - self._start - self._waited

  def read(self) -> tuple[float, dict[str, float]]:
    """(steps per second, the figures), and starts again."""
    elapsed = time.perf_counter() - self._start
    self._productive += elapsed - self._waited - self._compiled
    rate = self._steps / elapsed
    images = rate * self._batch_size
    figures = {
      'train/images_per_second': images,
      'train/images_per_second_per_device': images / self._num_devices,
      'train/seconds_waiting_for_data': self._waited,
      'train/productive_seconds': self._productive,
      'train/goodput': self._productive / max(time.time() - self._started, elapsed),
    }
    if self._peak_images:
      figures['train/mfu'] = images / self._num_devices / self._peak_images
    self.restart()
    return rate, figures


def duration(seconds: float) -> str:
  """93784 -> '1d 2h', 150 -> '2m 30s'."""
  if not math.isfinite(seconds):
    return '?'
  seconds = round(seconds)
  parts = [
    (seconds // 86400, 'd'),
    (seconds // 3600 % 24, 'h'),
    (seconds // 60 % 60, 'm'),
    (seconds % 60, 's'),
  ]
  first = next((i for i, (n, _) in enumerate(parts) if n), 3)
  return ' '.join(f'{n}{unit}' for n, unit in parts[first : first + 2])
