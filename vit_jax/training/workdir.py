"""The workdir of a training run: prepare it, and write the config into it."""

from collections.abc import Iterator
import contextlib
import json
import pathlib
import time

import jax
from ml_collections import ConfigDict

from vit_jax.config.run import CHECKPOINTS, CONFIG, METRICS, Damaged, read_config, set_aside
from vit_jax.data.dataset_names import absolute_path
from vit_jax.errors import InputError, machine_failure, reason
from vit_jax.files import AnyPath, write_whole
from vit_jax.parallel import hosts
from vit_jax.parallel.lock import Lock
from vit_jax.training.log import log, start_log
from vit_jax.training.mirror import WorkdirMirror

LOG = 'log.txt'
_LOCK = 'lock.json'  # exists while a run uses the workdir
_STARTED = 'started'  # this file says when the run first started
_CLOCKS_DIFFER = 86400  # seconds by which the clock of another host may be ahead


def prepare_workdir(workdir: AnyPath) -> WorkdirMirror | None:
  """Create the workdir and start the log. All processes must call it.

  Returns:
    Where process 0 writes its log and metrics. None in the other processes.

  Raises:
    InputError: the workdir cannot be written, or not all processes see the same one.
  """
  with _writing(workdir):
    (workdir / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    hosts.check_shared(workdir)
  if jax.process_index():
    start_log(None, jax.process_index())
    return None
  mirror = WorkdirMirror(workdir, resume=(METRICS, LOG, _STARTED))
  with _writing(mirror.directory):
    start_log(mirror.directory / LOG)
  mirror.copy()
  return mirror


@contextlib.contextmanager
def lock_workdir(workdir: AnyPath) -> Iterator[Lock | None]:
  """Keep other runs out of the workdir. Process 0 does so for the whole job.

  Yields:
    The lock that process 0 holds. None in the other processes.

  Raises:
    InputError: another run uses the workdir, or it cannot be written.
  """
  if jax.process_index():
    yield None
    return
  lock = Lock(
    workdir / _LOCK,
    f'The workdir {workdir}',
    'Wait for that run to end, stop it, or choose another directory with --workdir=DIR.',
  )
  with contextlib.ExitStack() as stack:
    with _writing(workdir):
      workdir.mkdir(parents=True, exist_ok=True)
      stack.enter_context(lock)
    yield lock


@contextlib.contextmanager
def _writing(workdir: AnyPath) -> Iterator[None]:
  """Turn the errors of writing to the workdir into InputErrors."""
  try:
    yield
  except (InputError, jax.errors.JaxRuntimeError):  # the latter if another process has ended
    raise
  except Exception as e:  # OSError, or the error of an object store's package
    if machine_failure(e):
      raise
    raise InputError(
      f'Cannot write to the workdir {workdir}: {reason(e)}. Choose another with --workdir=DIR.'
    ) from e


def first_start(directory: pathlib.Path) -> float:
  """Return when the run first started, in seconds since 1970.

  If this is the first time, or if what is recorded is no time, record the present one.

  Args:
    directory: local directory of the run's files.
  """
  path, now = directory / _STARTED, time.time()
  if path.exists():
    text = path.read_bytes()
    with contextlib.suppress(ValueError):
      if 0 < float(text) < now + _CLOCKS_DIFFER:
        return float(text)
    log.warning('%s holds %r instead of a time. The start of the run is unknown.', path, text[:40])
  write_whole(path, f'{now}\n')
  return now


def write_config(config: ConfigDict, workdir: AnyPath) -> None:
  """Write config.json, and log the fields that differ from those of the run being resumed.

  The path of a dataset is written as an absolute one.
  """
  path = workdir / CONFIG
  fields = dict(config.items()) | {'dataset': absolute_path(config.dataset)}
  text = json.dumps(fields, indent=2) + '\n'
  before = {}
  if path.exists():
    try:
      before = read_config(workdir)
      before['dataset'] = absolute_path(before['dataset'])
    except Damaged as e:
      log.warning('%s It is kept as %s. The run goes on with the given config.', e, set_aside(path))
    for field, value in json.loads(text).items():  # JSON turns tuples into lists
      if field in before and before[field] != value:
        log.info('Note: config.%s was %r and is now %r.', field, before[field], value)
  write_whole(path, text)
