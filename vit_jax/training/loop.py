"""The training run, read top-down.

The order of effects at a step, which exact resume rests on:
  compute -> find the loss finite -> log -> save -> evaluate -> draw -> stop if asked.
A checkpoint therefore never holds a non-finite state, and its log line is always on record
before it; an evaluation or a picture that a kill cut off is made up for after the restart.
"""

import json
import pathlib
from typing import Any

from etils import epath
import jax
from ml_collections import ConfigDict
import numpy as np

from vit_jax.config.checks import check_config
from vit_jax.errors import InputError, Interrupted, NotFinite, reason
from vit_jax.figures.examples import Predictor, Sample
from vit_jax.files import write_whole
from vit_jax.models.flops import train_flops
from vit_jax.parallel import hosts
from vit_jax.parallel.devices import find_device
from vit_jax.parallel.mesh import MeshPartitioner
from vit_jax.parallel.pmap import PmapPartitioner
from vit_jax.parallel.preemption import Stopper
from vit_jax.parallel.watchdog import Watchdog
from vit_jax.pretrained.load import load_params
from vit_jax.training import step as step_lib
from vit_jax.training.checkpoint import Checkpoints
from vit_jax.training.inputs import Inputs
from vit_jax.training.metrics import log, start_log
from vit_jax.training.mirror import Record
from vit_jax.training.monitor import STARTED, Monitor
from vit_jax.training.periodic_evaluation import Evaluations
from vit_jax.training.pictures import Pictures
from vit_jax.training.setup import count_steps, make_training, use_compile_cache


def train(config: ConfigDict, workdir: pathlib.Path | epath.Path) -> dict[str, float]:
  """Trains to the last step, from the newest checkpoint in `workdir` when there is one.

  Args:
    config: the fields of `vit_jax.config.fields.default_config`.
    workdir: gets checkpoints/, metrics.jsonl, tensorboard/, figures/, config.json, log.txt; the
      same for all processes. An epath.Path where it is on gs://.
  Returns:
    The final metrics: train/loss ..., eval/accuracy ....
  Raises:
    Interrupted: after SIGTERM or Ctrl-C, everything saved.
    InputError: for what the user can mend.
  """
  check_config(config)
  use_compile_cache(config.compile_cache)
  with Watchdog(config.hang_seconds) as watchdog:
    run = _Run(config, workdir, _prepare_workdir(workdir), watchdog)
    try:
      return run.train()
    except jax.errors.JaxRuntimeError:
      if jax.process_count() > 1:  # another process is gone, without which no save can end
        run.checkpoints.abandon()
      raise
    finally:
      run.close()


class _Run:
  """What the loop works with: data, model, compiled steps, and where results go."""

  def __init__(
    self,
    config: ConfigDict,
    workdir: pathlib.Path | epath.Path,
    record: Record | None,
    watchdog: Watchdog,
  ):
    c = self.config = config
    self.workdir, self.record, self.watchdog = workdir, record, watchdog
    self.data = Inputs(c)
    hosts.check_same(_common(c, self.data))
    self.partitioner = (
      PmapPartitioner(c.batch_size, c.accumulate)
      if c.parallel == 'pmap'
      else MeshPartitioner(c.batch_size, c.accumulate, c.mesh)
    )
    self.total_steps = count_steps(c, len(self.data.train))
    self.model, objective, self.init, step = make_training(
      c, self.data.num_classes, self.total_steps
    )
    self.train_step = self.partitioner.train_step(step)
    self.should_stop = Stopper()
    self.evaluations = Evaluations(
      c,
      self.data,
      self.model,
      objective,
      self.partitioner,
      self.total_steps,
      self.should_stop,
      watchdog,
    )
    self.checkpoints = Checkpoints(workdir / 'checkpoints', keep=c.keep, keep_every=c.keep_every)
    self.monitor = self.pictures = None  # opened once the step to resume from is known
    self.unchecked = []  # (step, metrics still on the device) since the last look
    self.saved_step = None
    self.bad_records = set()  # names of the training records that could not be read

  def train(self) -> dict[str, float]:
    state, first_step = self._start()
    self.monitor = self._open_monitor(first_step)
    if first_step and not self.evaluations.run(first_step, state, self.monitor):
      self._stop(first_step, state)
    self.pictures = self._open_pictures(first_step)
    if first_step:
      self.pictures.run(first_step, state.params)
    if first_step == self.total_steps:
      log.info('this run was finished before: all %d steps are done', first_step)
    else:
      with self.monitor.training(), self.data.train_batches(first_step) as batches:
        self._loop(state, first_step, batches)
    return self._finish()

  def _loop(self, state: step_lib.TrainState, first_step: int, batches: Any) -> None:
    c, monitor = self.config, self.monitor
    batches.bad_records.update(self.bad_records)
    self.bad_records = batches.bad_records
    for step in range(first_step + 1, self.total_steps + 1):
      self.watchdog.progress(f'waiting for the data of step {step}')
      monitor.begin(step)
      batch = next(batches)
      monitor.has_batch()
      self.watchdog.progress(f'in step {step}')
      state, metrics = self.train_step(state, batch)
      self.unchecked.append((step, metrics))
      self._bound_run_ahead()
      monitor.end(step, metrics)
      last, stop = step == self.total_steps, self.should_stop()
      if step % c.log_every == 0 or last:
        self._log(step)
      with monitor.paused():
        if stop or last or (c.save_every and step % c.save_every == 0):
          self._save(step, state)
        stop = stop or not self.evaluations.run(step, state, monitor)
        if not stop:
          self.pictures.run(step, state.params)
      if stop:
        self._stop(step, state)

  def _open_monitor(self, first_step: int) -> Monitor:
    peak, c = find_device(jax.devices()[0].device_kind), self.config
    peak_images = None
    if peak and c.trained_blocks is None:
      peak_images = peak.flops / train_flops(self.model)
    return Monitor(
      self.record,
      first_step=first_step,
      total_steps=self.total_steps,
      batch_size=c.batch_size,
      num_devices=self.partitioner.num_devices,
      peak_images=peak_images,
      profile_steps=c.profile_steps,
    )

  def _open_pictures(self, first_step: int) -> Pictures:
    c, source, predictor = self.config, self.data.eval, None
    if c.figures_every and source is not None and self.model.num_classes:
      sample = Sample(
        source,
        self.data.eval_preprocess(),
        count=16,
        num_threads=c.num_threads,
        max_bad_records=c.max_bad_records,
      )
      predictor = Predictor(self.model, sample, self.partitioner, c.loss)
    return Pictures(
      self.workdir,
      self.record and self.record.directory,
      self.model,
      predictor,
      every=c.figures_every,
      first_step=first_step,
      total_steps=self.total_steps,
    )

  def _start(self) -> tuple[step_lib.TrainState, int]:
    """The newest checkpoint; else config.init_from; else a fresh state; and its step."""
    abstract = jax.eval_shape(self.init)
    restored = self.checkpoints.restore(self.partitioner.like(abstract))
    params = sum(x.size for x in jax.tree.leaves(abstract.params))
    c = self.config
    log.info(
      '%s, %s parameters, %d px, %s; %s: %s',
      c.model,
      f'{params:,}',
      c.image_size,
      c.dtype,
      self.partitioner.layout,
      jax.devices()[0].device_kind,
    )
    log.info(
      '%s: %s training images, %d classes; %s steps of %d images (%.4g epochs)',
      c.dataset,
      f'{len(self.data.train):,}',
      self.data.num_classes,
      f'{self.total_steps:,}',
      c.batch_size,
      self.total_steps * c.batch_size / len(self.data.train),
    )
    if restored is None:
      log.info('starting in %s', self.workdir)
      step = 0
      state = self.partitioner.init(self.init)
      if c.init_from:
        state = state.replace(
          params=self.partitioner.put(load_params(c.init_from, self.model, new_head=c.new_head))
        )
        log.info('parameters from %s', c.init_from)
    else:
      state, about = self.partitioner.put(restored[0]), restored[1]
      step = self.saved_step = int(state.step)
      self.bad_records = set(about['bad_records'])
      log.info('resuming in %s from step %d of %d', self.workdir, step, self.total_steps)
      if step > self.total_steps:
        raise InputError(
          f'{self.workdir} is at step {step}, beyond total_steps '
          f'{self.total_steps}; give another workdir or more steps'
        )
    if step < self.total_steps:
      self.checkpoints.check_space(abstract)  # before the first step, not after hours
    if self.record:
      _record_config(self.config, self.workdir)
    return state, step

  def _bound_run_ahead(self) -> None:
    """Waits for an earlier step, so that the host never queues up batches without end."""
    ahead = self.partitioner.max_in_flight
    if len(self.unchecked) > ahead:
      jax.block_until_ready(self.unchecked[-1 - ahead][1])

  def _check_finite(self) -> dict[str, float]:
    """The newest step's metrics, every step since the last look found finite."""
    fetched = jax.device_get(self.unchecked)
    for step, metrics in fetched:
      for name in ('loss', 'grad_norm'):
        if not np.isfinite(metrics[name]):
          self.checkpoints.wait()
          raise NotFinite(
            f'the {"loss" if name == "loss" else "gradient"} is {metrics[name]} at step {step}; '
            f'{self.checkpoints.newest_good()}; try a lower lr, a longer warmup or clip_norm=1'
          )
    self.unchecked = self.unchecked[-1:]
    return {f'train/{k}': float(v) for k, v in fetched[-1][1].items()}

  def _log(self, step: int) -> None:
    values = self._check_finite()
    if self.config.max_bad_records:
      self._share_bad_records()
      values['train/bad_records'] = len(self.bad_records)
    self.monitor.log(step, values)

  def _save(self, step: int, state: step_lib.TrainState) -> None:
    if self.saved_step == step:
      return
    self._check_finite()
    self.watchdog.progress(f'saving step {step}')
    c = self.config
    if c.max_bad_records:
      self._share_bad_records()
    if self.record:
      self.record.copy()
    self.checkpoints.save(
      step,
      state,
      {
        **{
          f: c[f]
          for f in (
            'model',
            'activation',
            'norm_eps',
            'head',
            'pos_embedding',
            'pos_embedding_at',
            'dataset',
          )
        },
        'image_size': [c.image_size] * 2,
        'class_names': self.data.train.class_names,
        'bad_records': sorted(self.bad_records),
      },
    )
    self.saved_step = step

  def _share_bad_records(self) -> None:
    """Every process counts the records that the others could not read, too."""
    self.bad_records.update(*hosts.gather(sorted(self.bad_records)))
    if len(self.bad_records) > self.config.max_bad_records:
      raise InputError(
        f'{len(self.bad_records)} damaged records over all processes, among them '
        f'{max(self.bad_records)}; repair or remove them, or set '
        f'max_bad_records={len(self.bad_records)} (or more)'
      )

  def _stop(self, step: int, state: step_lib.TrainState) -> None:
    self._save(step, state)
    self.checkpoints.wait()
    log.info(
      'stopped at step %d of %d and saved; run the same command again to go on',
      step,
      self.total_steps,
    )
    raise Interrupted()

  def _finish(self) -> dict[str, float]:
    self.watchdog.progress('finishing the last save')
    self.checkpoints.wait()
    latest = hosts.gather(self.monitor.latest)[0]
    if self.data.eval is not None:
      log.info(
        'done: accuracy %.2f%% on %s',
        100 * latest['eval/average_accuracy' if self.config.average else 'eval/accuracy'],
        self.data.eval_name,
      )
    log.info('checkpoint:  %s', self.workdir / 'checkpoints' / str(self.total_steps))
    log.info('metrics:     %s', self.workdir / 'metrics.jsonl')
    log.info('TensorBoard: tensorboard --logdir=%s', self.workdir / 'tensorboard')
    return latest

  def close(self) -> None:
    for writer in (self.monitor, self.pictures):
      if writer:
        writer.close()
    try:
      self.checkpoints.close()
    finally:
      if self.record:
        self.record.close()


def _common(c: ConfigDict, data: Inputs) -> dict[str, Any]:
  """What must be the same in all processes; where the data lie and who decodes them need not."""
  fields = {
    f'config.{name}': value
    for name, value in c.items()
    if name not in ('data_dir', 'num_threads', 'num_workers')
  }
  return {
    'jax': jax.__version__,
    **fields,
    'the number of training images': len(data.train),
    'the number of evaluation images': len(data.eval or ()),
  }


def _prepare_workdir(workdir: pathlib.Path | epath.Path) -> Record | None:
  """Starts the log; returns where process 0 writes it, None in the others."""
  try:
    (workdir / 'checkpoints').mkdir(parents=True, exist_ok=True)
    hosts.check_shared(workdir)
    if jax.process_index():
      start_log(None, jax.process_index())
      return None
    record = Record(workdir, ('metrics.jsonl', 'log.txt', STARTED))
    start_log(record.directory / 'log.txt')
    record.copy()
    return record
  except InputError:
    raise
  except Exception as e:  # OSError here; each object store's package has its own
    raise InputError(
      f'cannot write to the workdir {workdir}: {reason(e)}; give another with --workdir=DIR'
    ) from e


def _record_config(config: ConfigDict, workdir: pathlib.Path | epath.Path) -> None:
  """Writes config.json; says which fields differ from the run that is being resumed."""
  path = workdir / 'config.json'
  text = json.dumps(dict(config.items()), indent=2) + '\n'
  if path.exists():
    before = json.loads(path.read_text())
    for field, value in json.loads(text).items():  # JSON has no tuples
      if field in before and before[field] != value:
        log.info('note: config.%s was %r and is now %r', field, before[field], value)
  write_whole(path, text)
