"""Start the processes of a job, let them agree on values, and end them together.

A job has one process on a laptop, one per host on a TPU pod, and one per GPU or node elsewhere. A
step needs all of them, so one process can neither go on nor stop alone: a process that fails tells
the others, and all of them end.
"""

import atexit
from collections.abc import Iterator, Mapping
import contextlib
import importlib.util
import itertools
import json
import os
import sys
import threading
import time
from typing import Any
import uuid

import jax

from vit_jax.errors import InputError, first_line
from vit_jax.files import AnyPath
from vit_jax.parallel import coordination
from vit_jax.parallel.coordination import alone

_HEARTBEAT_SECONDS = 30  # a process that is silent for longer is dead, and JAX ends the others
_AGREE_SECONDS = 600  # for all processes to reach the same point; a dead one is noticed earlier
_POLL_SECONDS = 1  # between checks for the failure of another process
_GRACE_SECONDS = 2  # for a process to fail with its own message after another one has failed
_FAILED = 'vit_jax/failed/'  # prefix of the keys of messages, one for each process

_num_gathers = itertools.count()  # the same in all processes
_ending = threading.Event()  # set when this process is ending, to stop watching the others


# Start.


def start(
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  num_devices: int | None = None,
  timeout: int = 60,
) -> None:
  """Connect the processes of the job. On a single machine, there is usually only this one.

  Args:
    coordinator_address: 'host:port' of process 0. If None, JAX looks for a cluster (TPU pod, GKE,
      SLURM, MPI). If there is none, this process is the only one.
    num_processes: number of processes, if coordinator_address is given.
    process_id: index of this process, if coordinator_address is given.
    num_devices: number of devices that the whole job must have. Defaults to any number.
    timeout: seconds to wait for the other processes. Then this process ends with exit code 1.

  Raises:
    InputError: the number of processes or devices is not what the arguments say.
  """
  flags = (coordinator_address, num_processes, process_id)
  if None in flags and flags != (None, None, None):
    raise InputError(
      '--coordinator_address, --num_processes and --process_id go together. Give all three, or '
      'none of them where a cluster is detected.'
    )
  if num_processes is not None and process_id not in range(num_processes):
    raise InputError(
      f'--process_id={process_id} is out of range: with --num_processes={num_processes}, '
      f'processes are numbered from 0 to {num_processes - 1}.'
    )
  coordinator = coordinator_address or 'process 0'
  message = (
    f'Not all processes of this job connected to {coordinator} within {timeout} s. See the logs of '
    'the others, check the flags, or allow more time with --start_timeout.'
  )
  with _deadline(timeout, message):
    _join(coordinator_address, num_processes, process_id, timeout)
  coordination.check()
  _check_size(num_processes, num_devices)
  if jax.process_count() > 1:
    watch = threading.Thread(target=_watch, daemon=True)
    watch.start()
    # Runs before JAX's own exit handler, which closes the connection.
    atexit.register(lambda: (_ending.set(), watch.join()))


@contextlib.contextmanager
def _deadline(seconds: float, message: str) -> Iterator[None]:
  """End this process if the block takes longer. JAX itself would print a C++ stack trace."""
  timer = threading.Timer(seconds, _end, [message])
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


def _end(message: str) -> None:
  print(f'error: {message}', file=sys.stderr, flush=True)
  os._exit(1)  # the main thread waits where no exception can reach it


def _join(
  coordinator_address: str | None, num_processes: int | None, process_id: int | None, timeout: int
) -> None:
  """Call jax.distributed.initialize with the arguments that this environment needs.

  Without a cluster, this process is alone, and needs no connection.
  """

  def initialize(*process: Any, **kwargs: Any) -> None:
    jax.distributed.initialize(
      *process,
      initialization_timeout=timeout + 10,
      heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
      shutdown_timeout_seconds=_HEARTBEAT_SECONDS,
      **kwargs,
    )

  try:
    initialize(coordinator_address, num_processes, process_id)
  except ValueError as e:
    if 'coordinator_address should be defined' not in str(e):
      raise
    if _mpi_size() > 1:  # Open MPI 5, MPICH, Intel MPI: JAX does not detect them by itself
      initialize(cluster_detection_method='mpi4py')


def _mpi_size() -> int:
  """Return the number of processes that mpirun started, or 1 without mpirun."""
  size = int(os.environ.get('OMPI_COMM_WORLD_SIZE') or os.environ.get('PMI_SIZE') or 1)
  if size > 1 and importlib.util.find_spec('mpi4py') is None:
    raise InputError(
      f'mpirun started {size} processes, which cannot find each other. Install mpi4py (pip install '
      'mpi4py), or give --coordinator_address, --num_processes and --process_id.'
    )
  return size


def _check_size(num_processes: int | None, num_devices: int | None) -> None:
  """Raise InputError if the number of processes or devices differs from the flags."""
  count, local = jax.process_count(), jax.local_device_count()
  if num_processes is not None and count != num_processes:
    raise InputError(
      f'--num_processes is {num_processes} on this process, but {count} on process 0. Use the same '
      'number everywhere.'
    )
  if num_devices is not None and jax.device_count() != num_devices:
    raise InputError(
      f'--num_devices is {num_devices}, but this job has {jax.device_count()} device(s) in {count} '
      'process(es). Start the missing processes, or change the flag.'
    )
  if jax.device_count() != local * count:
    raise InputError(
      f'Process {jax.process_index()} has {local} of the {jax.device_count()} devices of {count} '
      'processes. All processes must have the same number of devices.'
    )


# Agree.


def gather(value: Any) -> list[Any]:
  """Return the values of all processes, by process. All processes must call it together.

  Args:
    value: this process's value, anything that JSON can hold.
  """
  if jax.process_count() == 1:
    return [value]
  prefix = f'vit_jax/gather/{next(_num_gathers)}'
  coordination.put(f'{prefix}/{jax.process_index()}', json.dumps(value))
  coordination.wait_for_all(prefix, _AGREE_SECONDS)
  pairs = coordination.values(f'{prefix}/')
  values = {int(key.rsplit('/', 1)[1]): json.loads(text) for key, text in pairs}
  return [values[i] for i in range(jax.process_count())]


def check_same(values: Mapping[str, Any]) -> None:
  """Check that all processes have the same values as process 0.

  Args:
    values: values by name, anything that JSON can hold.

  Raises:
    InputError: a value differs. The message names it.
  """
  for name, theirs in gather(dict(values))[0].items():
    if json.dumps(values[name]) != json.dumps(theirs):
      raise InputError(
        f'{name} is {values[name]!r} on process {jax.process_index()} and {theirs!r} on process 0. '
        'All processes must have the same value.'
      )


def check_shared(directory: AnyPath) -> None:
  """Check that all processes see what process 0 writes to a directory.

  Raises:
    InputError: a process does not see it.
  """
  if jax.process_count() == 1:
    return
  probe = directory / gather(f'.shared-{uuid.uuid4().hex}')[0]
  if jax.process_index() == 0:
    probe.write_text('')
  gather(None)
  tries = (probe.exists() or time.sleep(1) for _ in range(10))  # network file systems may lag
  seen = gather(any(tries))
  if jax.process_index() == 0:
    probe.unlink()
  if not all(seen):
    raise InputError(
      f'Process {seen.index(False)} does not see what process 0 writes to {directory}. Give a '
      'directory that all hosts share, or a bucket (gs://).'
    )


# End together.


def fail(message: str) -> None:
  """Tell the other processes that this one is ending, and why, so that they end too."""
  _ending.set()
  if alone():
    return
  with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 is gone; JAX ends the others
    coordination.put(_FAILED + str(jax.process_index()), message)
    until = time.monotonic() + _POLL_SECONDS + _GRACE_SECONDS + 1
    # Process 0 hosts the message store, so it waits until every process has read the message.
    while (
      jax.process_index() == 0
      and time.monotonic() < until
      and len(coordination.values(_FAILED)) < jax.process_count()
    ):
      time.sleep(0.1)


def explain_remote_failure(error: jax.errors.JaxRuntimeError) -> str | None:
  """Explain a JAX error that another process caused. Return None if there is no other process."""
  if alone():
    return None
  with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 may be the one that is gone
    if message := _remote_failure():
      return message
  reason = first_line(error)
  return (
    f'Another process of this job is gone ({reason}). See its log, then run the same command again.'
  )


def _remote_failure() -> str | None:
  """Return a sentence on the first process that failed, or None if none has failed."""
  failures = coordination.values(_FAILED)
  if not failures:
    return None
  key, message = failures[0]
  return f'Process {key.removeprefix(_FAILED)} failed: {message}'


def _watch() -> None:
  """Watch the other processes (in a thread) and end this one as soon as any of them fails."""
  message = None
  while message is None and not _ending.wait(_POLL_SECONDS):
    try:
      message = _remote_failure()
    except jax.errors.JaxRuntimeError:
      return  # process 0 is gone; JAX ends this one
  if message is not None and not _ending.wait(_GRACE_SECONDS):
    _end(message)
