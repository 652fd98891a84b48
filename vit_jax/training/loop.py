"""The training loop.

After each step, the effects that are due happen in this order, which exact resumption depends on:

  log -> save -> evaluate -> draw -> stop if asked

Logging and saving first check that the loss of every step since the last check is finite. So a
checkpoint never holds a non-finite state, and the metrics of its step are written before it. If a
kill prevents an evaluation or a picture, the resumed run makes up for it.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import jax
from ml_collections import ConfigDict

from vit_jax.config.checks import check_config
from vit_jax.config.dtype import AUTO, settle_dtype
from vit_jax.config.length import count_steps
from vit_jax.config.run import CHECKPOINTS, CONFIG, newest_step, recorded_fields
from vit_jax.data.pipeline import Batches
from vit_jax.errors import InputError, Interrupted
from vit_jax.figures.examples import Predictor, Sample
from vit_jax.files import AnyPath
from vit_jax.models.flops import train_flops
from vit_jax.parallel import hosts
from vit_jax.parallel.allocator import keep_freed_memory
from vit_jax.parallel.compile_cache import use_compile_cache
from vit_jax.parallel.devices import find_device
from vit_jax.parallel.lock import Lock
from vit_jax.parallel.make_partitioner import make_partitioner
from vit_jax.parallel.preemption import Stopper, stop_on_signals
from vit_jax.parallel.watchdog import Watchdog
from vit_jax.pretrained.load import load_initial_params
from vit_jax.training.checkpoint import Checkpoints
from vit_jax.training.describe import log_results, log_start
from vit_jax.training.inputs import Inputs
from vit_jax.training.log import log
from vit_jax.training.monitor import Monitor
from vit_jax.training.periodic_evaluation import PeriodicEvaluation
from vit_jax.training.pictures import Pictures
from vit_jax.training.resume import check_data, check_fields, describe_config, describe_data
from vit_jax.training.setup import make_training
from vit_jax.training.step import TrainState
from vit_jax.training.step_metrics import StepMetrics
from vit_jax.training.workdir import lock_workdir, prepare_workdir, write_config


def train(
  config: ConfigDict, workdir: AnyPath, *, resume_anyway: bool = False, keep: bool = True
) -> dict[str, float]:
  """Train to the last step, starting from the newest checkpoint in `workdir` if there is one.

  Args:
    config: the fields of `vit_jax.config.fields.default_config`. dtype='auto' is replaced in place.
    workdir: receives checkpoints/, metrics.jsonl, tensorboard/, figures/, config.json and log.txt.
      The same for all processes. An epath.Path if it lies in an object store (gs://).
    resume_anyway: resume a run although its model or its training images have changed.
    keep: False if the caller deletes the checkpoints, so that their paths are not printed.

  Returns:
    The final metrics: {'train/loss': ..., 'eval/accuracy': ..., ...}, and 'train/first_loss', the
    loss of the first step.

  Raises:
    Interrupted: after SIGTERM or Ctrl-C, when everything has been saved.
    InputError: the run failed for a reason that the user can correct.
  """
  check_config(config)
  keep_freed_memory()
  use_compile_cache(config.compile_cache)
  with (
    stop_on_signals(),
    lock_workdir(workdir) as lock,
    Watchdog(config.hang_seconds) as watchdog,
    _Run(config, workdir, watchdog, lock, resume_anyway) as run,
  ):
    return run.train(keep)


class _Run:
  """The state of a run: its data, its compiled steps, and where results go."""

  def __init__(
    self,
    config: ConfigDict,
    workdir: AnyPath,
    watchdog: Watchdog,
    lock: Lock | None,
    resume_anyway: bool,
  ) -> None:
    c = self.config = config
    self.workdir, self.watchdog, self.lock = workdir, watchdog, lock
    self.resume_anyway = resume_anyway
    self.mirror = prepare_workdir(workdir)
    device = jax.devices()[0]
    recorded = recorded_fields(workdir) if c.dtype == AUTO else None
    if note := settle_dtype(c, device.platform, recorded, kind=device.device_kind):
      log.info('%s', note)
    self.inputs = Inputs(c)
    hosts.check_same(_must_agree(c, self.inputs))
    self.partitioner = make_partitioner(c.parallel, c.batch_size, c.accumulate, c.mesh, c.dtype)
    self.total_steps = count_steps(c, len(self.inputs.train))
    self.training = make_training(c, self.inputs.num_classes, self.total_steps)
    self.model = self.training.model
    self.train_step = self.partitioner.train_step(self.training.step)
    self.should_stop = Stopper()
    self.evaluation = PeriodicEvaluation(
      c,
      self.inputs,
      self.model,
      self.training.objective,
      self.partitioner,
      self.total_steps,
      self.should_stop,
      watchdog,
    )
    self.checkpoints = Checkpoints(workdir / CHECKPOINTS, keep=c.keep, keep_every=c.keep_every)
    self.steps = StepMetrics(self.checkpoints, self.partitioner.max_in_flight)
    self.data = describe_data(self.inputs.train)
    self.saved_step: int | None = None
    self.bad_records: set[str] = set()  # damaged training records, which were skipped
    self.monitor: Monitor | None = None
    self.pictures: Pictures | None = None

  def __enter__(self) -> '_Run':
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    if isinstance(error, jax.errors.JaxRuntimeError) and jax.process_count() > 1:
      self.checkpoints.abandon()  # no save can finish if another process is gone
    for writer in (self.monitor, self.pictures):
      if writer:
        writer.close()
    try:
      self.checkpoints.close()
    finally:
      if self.mirror:
        self.mirror.close()

  def train(self, keep: bool) -> dict[str, float]:
    """Train to the last step. Return the final metrics. `keep` is that of the function `train`."""
    state, first_step = self._start()
    monitor = self.monitor = self._open_monitor(first_step)
    if first_step and not self.evaluation.run(first_step, state, monitor):
      self._stop(first_step, state)
    pictures = self.pictures = self._open_pictures(first_step)
    if first_step:
      pictures.run(first_step, state.params)
    if first_step == self.total_steps:
      log.info('This run is already finished: all %d steps are done.', first_step)
    else:
      with monitor.training(), self.inputs.train_batches(first_step) as batches:
        self._loop(state, first_step, batches, monitor, pictures)
    return self._finish(monitor, keep)

  def _loop(
    self, state: TrainState, first_step: int, batches: Batches, monitor: Monitor, pictures: Pictures
  ) -> None:
    c = self.config
    batches.bad_records.update(self.bad_records)
    self.bad_records = batches.bad_records
    for step in range(first_step + 1, self.total_steps + 1):
      self.watchdog.progress(f'waiting for the data of step {step}')
      monitor.begin(step)
      batch = next(batches)
      monitor.has_batch()
      self.watchdog.progress(f'in step {step}')
      state, metrics = self.train_step(state, batch)
      self.steps.add(step, metrics)
      monitor.end(step, metrics)
      last, stop = step == self.total_steps, self.should_stop()
      if step % c.log_every == 0 or last:
        self._log(step, monitor)
      with monitor.paused():
        if stop or last or (c.save_every and step % c.save_every == 0):
          self._save(step, state)
        stop = stop or not self.evaluation.run(step, state, monitor)
        if not stop:
          pictures.run(step, state.params)
      if stop:
        self._stop(step, state)

  def _start(self) -> tuple[TrainState, int]:
    """Return the state to start from and the number of steps that it has done.

    The state comes from the first of these that exists:
      1. the newest checkpoint in the workdir
      2. random initialization, with parameters from config.init_from if that is given
    """
    c, abstract = self.config, self.training.shapes()
    # The step compiles in a thread while the state is made.
    compile_ahead = lambda: self.train_step.compile_ahead(abstract, self.inputs.train_shapes())

    def accept(metadata: Mapping[str, Any]) -> None:
      self._check_resumable(metadata)
      if newest_step(self.workdir) < self.total_steps:
        compile_ahead()

    restored = self.checkpoints.restore(self.partitioner.with_shardings(abstract), accept)
    if restored is None:
      compile_ahead()
    log_start(c, self.inputs, abstract, self.total_steps, self.partitioner.layout)
    if restored is not None:  # 1
      state = self.partitioner.put(restored.state)
      step = self.saved_step = int(state.step)
      self.bad_records = set(restored.metadata['bad_records'])
      self.steps.resume(restored.metadata.get('step_sums'), step)
      log.info(
        'Resuming from step %s of %s (%s).', f'{step:,}', f'{self.total_steps:,}', self.workdir
      )
      if step > self.total_steps:
        raise InputError(
          f'{self.workdir} is at step {step}, beyond total_steps={self.total_steps}. Choose '
          'another workdir or more steps.'
        )
    else:  # 2
      log.info('Starting a new run (%s).', self.workdir)
      state, step = self.partitioner.init(self.training.init), 0
      if c.init_from:
        params = load_initial_params(c.init_from, self.model, new_head=c.new_head)
        state = state.replace(params=self.partitioner.put(params))
        log.info('Parameters are loaded from %s.', c.init_from)
    if step < self.total_steps:
      self.checkpoints.check_space(abstract)  # now, and not after hours of training
    if self.mirror:
      write_config(c, self.workdir)
    return state, step

  def _check_resumable(self, metadata: Mapping[str, Any]) -> None:
    """Raise InputError if the run has recorded another model or other training images."""
    if (self.workdir / CONFIG).exists():
      check_fields(self.config, self.workdir, resume_anyway=self.resume_anyway)
    if not self.resume_anyway:
      check_data(metadata, self.data, self.config.dataset, self.workdir)

  def _open_monitor(self, first_step: int) -> Monitor:
    c, device = self.config, find_device(jax.devices()[0].device_kind)
    peak_images = None
    if device and c.trained_blocks is None:  # a frozen model computes less than train_flops counts
      peak_images = device.flops / train_flops(self.model)
    return Monitor(
      self.mirror,
      first_step=first_step,
      total_steps=self.total_steps,
      batch_size=c.batch_size,
      num_devices=self.partitioner.num_devices,
      peak_images=peak_images,
      profile_steps=c.profile_steps,
    )

  def _open_pictures(self, first_step: int) -> Pictures:
    c, source, predictor = self.config, self.inputs.eval, None
    if c.figures_every and source is not None and self.model.num_classes:
      sample = Sample(
        source,
        self.inputs.eval_preprocess(),
        count=16,
        num_threads=c.num_threads,
        max_bad_records=c.max_bad_records,
      )
      predictor = Predictor(self.model, sample, self.partitioner, c.loss)
    return Pictures(
      self.workdir,
      self.mirror and self.mirror.directory,
      self.model,
      predictor,
      every=c.figures_every,
      first_step=first_step,
      total_steps=self.total_steps,
    )

  def _log(self, step: int, monitor: Monitor) -> None:
    metrics = self.steps.check() | self.steps.means.read()
    if self.config.max_bad_records:
      self._share_bad_records()
      metrics['train/bad_records'] = len(self.bad_records)
    monitor.log(step, metrics)

  def _save(self, step: int, state: TrainState) -> None:
    if self.saved_step == step:
      return
    self.steps.check()
    self.watchdog.progress(f'saving step {step}')
    if self.lock:
      self.lock.check()
    c = self.config
    if c.max_bad_records:
      self._share_bad_records()
    if self.mirror:
      self.mirror.copy()
    metadata = {
      **describe_config(c),
      'bad_records': sorted(self.bad_records),
      'step_sums': self.steps.means.sums(),
      **self.data,
    }
    self.checkpoints.save(step, state, metadata)
    self.saved_step = step

  def _share_bad_records(self) -> None:
    """Add the damaged records that the other processes have met."""
    self.bad_records.update(*hosts.gather(sorted(self.bad_records)))
    count = len(self.bad_records)
    if count > self.config.max_bad_records:
      raise InputError(
        f'All processes together have met {count} damaged records, among them '
        f'{max(self.bad_records)}. Repair or remove them, or set max_bad_records={count} or more '
        'to skip them.'
      )

  def _stop(self, step: int, state: TrainState) -> None:
    self._save(step, state)
    self.checkpoints.wait()
    message = (
      f'Stopped at step {step} of {self.total_steps} and saved. Run the same command again to '
      'continue.'
    )
    log.info('%s', message)
    raise Interrupted(message)

  def _finish(self, monitor: Monitor, keep: bool) -> dict[str, float]:
    self.watchdog.progress('finishing the last save')
    self.checkpoints.wait()
    latest = hosts.gather(monitor.latest)[0]
    if self.inputs.eval is not None:
      accuracy = latest['eval/average_accuracy' if self.config.average else 'eval/accuracy']
      log.info('Done: accuracy %.2f%% on %s.', 100 * accuracy, self.inputs.eval_name)
    log_results(self.workdir, self.total_steps if keep else None)
    first_loss = self.steps.means.first_loss
    return latest if first_loss is None else {**latest, 'train/first_loss': first_loss}


def _must_agree(c: ConfigDict, inputs: Inputs) -> dict[str, Any]:
  """Return the values that must be the same in all processes of a job.

  Where the data lies, and how many threads decode it, may differ.
  """
  may_differ = ('data_dir', 'num_threads', 'num_workers')
  fields = {f'config.{name}': value for name, value in c.items() if name not in may_differ}
  return {
    'jax': jax.__version__,
    **fields,
    'the number of training images': len(inputs.train),
    'the number of evaluation images': len(inputs.eval or ()),
  }
