"""What is evaluated while a run goes on, and when."""

from collections.abc import Callable
import time
from typing import Any

from flax import linen as nn
from ml_collections import ConfigDict

from vit_jax import hosts
from vit_jax import parallel
from vit_jax import step as step_lib
from vit_jax.evaluate import evaluate
from vit_jax.inputs import Inputs
from vit_jax.metrics import duration, log
from vit_jax.monitor import Monitor
from vit_jax.watchdog import Watchdog


class Evaluations:
  """The evaluations of a run; each is on record before the next step, or made up for later."""

  def __init__(self, c: ConfigDict, inputs: Inputs, model: nn.Module,
               spread: parallel.Pmap | parallel.Sharded, total_steps: int,
               should_stop: Callable[[], bool], watchdog: Watchdog):
    self._config, self._inputs, self._total_steps = c, inputs, total_steps
    self._should_stop, self._watchdog = should_stop, watchdog
    self._eval_step = spread.eval_step(step_lib.make_eval_step(model, loss=c.loss))

  def run(self, step: int, state: step_lib.TrainState, monitor: Monitor) -> bool:
    """Does what is due after `step` and is not on record; False when asked to stop meanwhile."""
    if self._inputs.eval is None or not self._due(step, self._config.eval_every):
      return True
    if not _on_record(monitor, step, 'eval/accuracy'):
      if not self._evaluate(step, state.params, monitor, ''):
        return False
    if isinstance(state, step_lib.AveragedState) and not _on_record(
        monitor, step, 'eval/average_accuracy'):
      return self._evaluate(step, state.average, monitor, 'average_')
    return True

  def _due(self, step: int, every: int) -> bool:
    return step == self._total_steps or bool(every and step % every == 0)

  def _evaluate(self, step: int, params: Any, monitor: Monitor, prefix: str) -> bool:
    """Evaluates and records; False when it was cut off by a request to stop."""
    start = time.perf_counter()
    self._watchdog.progress(f'evaluating step {step}')
    with self._inputs.eval_batches() as batches:
      def should_stop():  # asked after each batch
        self._watchdog.progress(f'evaluating step {step}')
        return self._should_stop()
      found = evaluate(self._eval_step, params, batches, should_stop)
      bad_records = len(set().union(*hosts.gather(sorted(batches.bad_records))))
    if found is None:
      return False
    monitor.write(step, {f'eval/{prefix}{k}': v for k, v in found.items()})
    log.info('step %d: %s accuracy %.2f%%, loss %.4f, %son %s images in %s%s', step,
             self._inputs.eval_name, 100 * found['accuracy'], found['loss'],
             'of the averaged parameters, ' if prefix else '', f'{found["examples"]:,}',
             duration(time.perf_counter() - start),
             f' ({bad_records} bad records skipped)' if bad_records else '')
    return True


def _on_record(monitor: Monitor, step: int, name: str) -> bool:
  """Whether the metric of `step` is on record, which process 0 alone keeps."""
  return hosts.gather(monitor.has(step, name))[0]
