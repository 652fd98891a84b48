"""Show the progress of training: a bar on a terminal, log lines elsewhere."""

from collections.abc import Mapping
import contextlib
import logging
import sys

import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from vit_jax.training.log import duration, log


class Progress:
  """Shows loss, accuracy, speed and the time that is left."""

  def __init__(self, total_steps: int, done: int):
    """Open the bar at `done` of `total_steps` steps."""
    self._total_steps = total_steps
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

  def step(self) -> None:
    """Count one step."""
    self._bar.update()

  def report(self, step: int, metrics: Mapping[str, float], steps_per_second: float) -> None:
    """Show the metrics of `step`."""
    speed = metrics['train/images_per_second']
    text = (
      f'loss {metrics["train/loss"]:.4f}  accuracy {metrics["train/accuracy"]:.1%}  '
      f'{speed:,.{0 if speed >= 10 else 2}f} images/s'
    )
    if not self._bar.disable:
      self._bar.set_postfix_str(text)
      return
    left = duration((self._total_steps - step) / steps_per_second)
    rate = f'lr {metrics["train/lr"]:.2e}'
    log.info('step %d/%d  %s  %s  %s left', step, self._total_steps, text, rate, left)

  def close(self) -> None:
    """Remove the bar."""
    self._redirect.close()
    self._bar.close()
