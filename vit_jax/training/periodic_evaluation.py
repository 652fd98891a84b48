"""What is evaluated while a run goes on, and when."""

from collections.abc import Callable
import time
from typing import Any

from flax import linen as nn
import jax
from ml_collections import ConfigDict

from vit_jax.data.batch import ReadOptions
from vit_jax.evaluation.evaluate import evaluate
from vit_jax.evaluation.fewshot import FewShot, FewShotProtocol, make_represent_step
from vit_jax.parallel import hosts
from vit_jax.parallel.mesh import MeshPartitioner
from vit_jax.parallel.pmap import PmapPartitioner
from vit_jax.parallel.watchdog import Watchdog
from vit_jax.training import step as step_lib
from vit_jax.training.inputs import Inputs
from vit_jax.training.metrics import duration, log
from vit_jax.training.monitor import Monitor


class Evaluations:
  """The evaluations of a run; each is on record before the next step, or made up for later."""

  def __init__(
    self,
    c: ConfigDict,
    inputs: Inputs,
    model: nn.Module,
    objective: step_lib.Objective,
    partitioner: PmapPartitioner | MeshPartitioner,
    total_steps: int,
    should_stop: Callable[[], bool],
    watchdog: Watchdog,
  ):
    self._config, self._inputs, self._total_steps = c, inputs, total_steps
    self._should_stop, self._watchdog = should_stop, watchdog
    self._eval_step = partitioner.eval_step(step_lib.make_eval_step(objective))
    represent = partitioner.gather_step(make_represent_step(model))
    protocol = FewShotProtocol(c.image_size, shots=tuple(c.fewshot_shots))
    options = ReadOptions(
      c.batch_size,
      jax.process_index(),
      jax.process_count(),
      num_threads=c.num_threads,
      max_bad_records=c.max_bad_records,
    )
    self._fewshot = [
      FewShot(name, represent, protocol, options, data_dir=c.data_dir)
      for name in (c.fewshot.split(',') if c.fewshot else ())
    ]
    hosts.check_same(
      {
        f'the number of batches of {fewshot.dataset}': fewshot.num_batches
        for fewshot in self._fewshot
      }
    )

  def run(self, step: int, state: step_lib.TrainState, monitor: Monitor) -> bool:
    """Does what is due after `step` and is not on record; False when asked to stop meanwhile."""
    return all(
      evaluation()
      for name, evaluation in self._due_at(step, state, monitor)
      if not hosts.gather(monitor.has(step, name))[0]
    )  # process 0 alone keeps them

  def _due_at(self, step, state, monitor):
    """(a metric, what records it) of each evaluation that is due."""
    if self._inputs.eval is not None and self._due(step, self._config.eval_every):
      yield 'eval/accuracy', lambda: self._evaluate(step, state.params, monitor, '')
      if isinstance(state, step_lib.AveragedState):
        yield (
          'eval/average_accuracy',
          lambda: self._evaluate(step, state.average, monitor, 'average_'),
        )
    if self._due(step, self._config.fewshot_every):
      for fewshot in self._fewshot:
        yield (
          fewshot.metric(fewshot.protocol.shots[-1]),
          lambda: self._fit_few(step, state.params, monitor, fewshot),
        )

  def _due(self, step: int, every: int) -> bool:
    return step == self._total_steps or bool(every and step % every == 0)

  def _evaluate(self, step: int, params: Any, monitor: Monitor, prefix: str) -> bool:
    """Evaluates and records; False when it was cut off by a request to stop."""
    start, should_stop = time.perf_counter(), self._asked_after_each_batch(step)
    with self._inputs.eval_batches() as batches:
      found = evaluate(self._eval_step, params, batches, should_stop)
      bad_records = len(set().union(*hosts.gather(sorted(batches.bad_records))))
    if found is None:
      return False
    monitor.write(step, {f'eval/{prefix}{k}': v for k, v in found.items()})
    log.info(
      'step %d: %s accuracy %.2f%%, loss %.4f, %son %s images in %s%s',
      step,
      self._inputs.eval_name,
      100 * found['accuracy'],
      found['loss'],
      'of the averaged parameters, ' if prefix else '',
      f'{found["examples"]:,}',
      duration(time.perf_counter() - start),
      f' ({bad_records} bad records skipped)' if bad_records else '',
    )
    return True

  def _fit_few(self, step: int, params: Any, monitor: Monitor, fewshot: FewShot) -> bool:
    """Evaluates the representation and records; False when it was cut off."""
    start = time.perf_counter()
    found = fewshot(params, self._asked_after_each_batch(step))
    if found is None:
      return False
    monitor.write(step, found)
    log.info(
      'step %d: few-shot accuracy on %s %s in %s',
      step,
      fewshot.dataset,
      ', '.join(
        f'{100 * found[fewshot.metric(shots)]:.2f}% ({shots})' for shots in fewshot.protocol.shots
      ),
      duration(time.perf_counter() - start),
    )
    return True

  def _asked_after_each_batch(self, step: int) -> Callable[[], bool]:
    def should_stop():
      self._watchdog.progress(f'evaluating step {step}')
      return self._should_stop()

    self._watchdog.progress(f'evaluating step {step}')
    return should_stop
