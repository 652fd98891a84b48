"""Evaluate a model while it trains: on the evaluation split, and few-shot on other datasets."""

from collections.abc import Callable, Iterator
import functools
import time

from flax import linen as nn
import jax
from ml_collections import ConfigDict

from vit_jax.data.batch import ReadOptions
from vit_jax.evaluation.fewshot import FewShot, FewShotProtocol, make_represent_step
from vit_jax.evaluation.mean_metrics import evaluate
from vit_jax.models.params import Params
from vit_jax.parallel import hosts
from vit_jax.parallel.partitioner import Partitioner
from vit_jax.parallel.watchdog import Watchdog
from vit_jax.training import step as step_lib
from vit_jax.training.inputs import Inputs
from vit_jax.training.log import duration, log
from vit_jax.training.monitor import Monitor
from vit_jax.training.objectives import Objective


class PeriodicEvaluation:
  """The evaluations of a run.

  The metrics of each one are written before the next training step. If a kill prevents an
  evaluation, the resumed run makes up for it.
  """

  def __init__(
    self,
    c: ConfigDict,
    inputs: Inputs,
    model: nn.Module,
    objective: Objective,
    partitioner: Partitioner,
    total_steps: int,
    should_stop: Callable[[], bool],
    watchdog: Watchdog,
  ):
    """Open the datasets of the few-shot evaluations.

    Raises:
      InputError: one of them cannot be read.
    """
    self._config, self._inputs, self._total_steps = c, inputs, total_steps
    self._should_stop, self._watchdog = should_stop, watchdog
    self._eval_step = partitioner.eval_step(step_lib.make_eval_step(objective))
    self._warned_records: set[str] = set()  # the log names each of them only once
    self._fewshot: list[FewShot] = []
    datasets = [name for name in (c.fewshot or '').split(',') if name]
    if not datasets:
      return
    represent = partitioner.gather_step(make_represent_step(model))
    protocol = FewShotProtocol(
      c.image_size, shots=tuple(c.fewshot_shots), preset=c.fewshot_preset, fast_dct=c.fast_dct
    )
    options = ReadOptions(
      c.batch_size,
      jax.process_index(),
      jax.process_count(),
      num_threads=c.num_threads,
      max_bad_records=c.max_bad_records,
    )
    self._fewshot = [
      FewShot(dataset, represent, protocol, options, data_dir=c.data_dir) for dataset in datasets
    ]
    hosts.check_same(
      {f'the number of batches of {x.dataset}': x.num_batches for x in self._fewshot}
    )

  def run(self, step: int, state: step_lib.TrainState, monitor: Monitor) -> bool:
    """Run the evaluations that are due after `step` and have not been written yet.

    Returns:
      False if a request to stop cut an evaluation short.
    """
    return all(
      evaluation()
      for metric, evaluation in self._due_after(step, state, monitor)
      if not hosts.gather(monitor.has(step, metric))[0]  # only process 0 writes metrics
    )

  def _due_after(
    self, step: int, state: step_lib.TrainState, monitor: Monitor
  ) -> Iterator[tuple[str, Callable[[], bool]]]:
    """Yield (a metric, the evaluation that writes it) for each evaluation that is due."""
    evaluate_params = functools.partial(self._evaluate, step, monitor)
    if self._inputs.eval is not None and self._is_due(step, self._config.eval_every):
      yield 'eval/accuracy', functools.partial(evaluate_params, state.params, '')
      if isinstance(state, step_lib.AveragedState):
        yield (
          'eval/average_accuracy',
          functools.partial(evaluate_params, state.average, 'average_'),
        )
    if self._is_due(step, self._config.fewshot_every):
      for fewshot in self._fewshot:
        metric = fewshot.metric(fewshot.protocol.shots[-1])
        yield metric, functools.partial(self._fit_few, step, monitor, state.params, fewshot)

  def _is_due(self, step: int, every: int) -> bool:
    return step == self._total_steps or bool(every and step % every == 0)

  def _evaluate(self, step: int, monitor: Monitor, params: Params, prefix: str) -> bool:
    """Evaluate parameters and write the metrics. Return False if asked to stop early."""
    start, should_stop = time.perf_counter(), self._stop_check(step)
    with self._inputs.eval_batches() as batches:  # reads an image: the watchdog must know of it
      batches.warned_records = self._warned_records
      metrics = evaluate(self._eval_step, params, batches, should_stop)
      bad_records = len(set().union(*hosts.gather(sorted(batches.bad_records))))
    if metrics is None:
      return False
    monitor.write(step, {f'eval/{prefix}{name}': value for name, value in metrics.items()})
    log.info(
      'step %d: %s accuracy %.2f%%, loss %.4f, %son %s images in %s%s',
      step,
      self._inputs.eval_name,
      100 * metrics['accuracy'],
      metrics['loss'],
      'of the averaged parameters, ' if prefix else '',
      f'{metrics["examples"]:,}',
      duration(time.perf_counter() - start),
      f' ({bad_records} bad records skipped)' if bad_records else '',
    )
    return True

  def _fit_few(self, step: int, monitor: Monitor, params: Params, fewshot: FewShot) -> bool:
    """Run a few-shot evaluation and write the metrics. Return False if asked to stop early."""
    start = time.perf_counter()
    metrics = fewshot(params, self._stop_check(step))
    if metrics is None:
      return False
    monitor.write(step, metrics)
    accuracies = ', '.join(
      f'{100 * metrics[fewshot.metric(shots)]:.2f}% ({shots}-shot)'
      for shots in fewshot.protocol.shots
    )
    seconds = duration(time.perf_counter() - start)
    log.info(
      'step %d: few-shot accuracy on %s: %s, in %s', step, fewshot.dataset, accuracies, seconds
    )
    return True

  def _stop_check(self, step: int) -> Callable[[], bool]:
    """Return a function to call after each batch, which returns True to stop."""

    def should_stop() -> bool:
      self._watchdog.progress(f'evaluating step {step}')
      return self._should_stop()

    self._watchdog.progress(f'evaluating step {step}')
    return should_stop
