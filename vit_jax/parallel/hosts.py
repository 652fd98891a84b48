"""The processes of a job: they find each other, agree, and end together.

A job is one process on a laptop, one per host of a TPU pod, one per GPU or node elsewhere. A step
needs all of them, so that one process alone can neither go on nor stop: whichever fails tells the
others, and all end. What they tell each other goes through jax's coordination service, in process
0; jax has no public name for it (Orbax uses the same one).
"""

import atexit
from collections.abc import Iterator, Mapping
import contextlib
import importlib.util
import itertools
import json
import os
import pathlib
import signal
import socket
import sys
import threading
import time
from typing import Any
import uuid

import jax
from jax._src import distributed

from vit_jax.errors import InputError

_HEARTBEAT_SECONDS = 30  # without a sign of life a process counts as dead, and jax ends the others
_AGREE_SECONDS = 600  # for all processes to come to the same point; a dead one is noticed before
_POLL_SECONDS = 1  # between looks at whether another process has failed
_GRACE_SECONDS = 2  # for a process that hears of a failure to fail by itself, and say more
_FAILED = 'vit_jax/failed/'  # keys of the coordination service

_calls = itertools.count()  # of gather, alike in all processes
_ending = threading.Event()  # this process needs no telling any more


def start(
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  num_devices: int | None = None,
  timeout: int = 60,
) -> None:
  """Joins the processes of the job; on a single machine, only this one.

  Args:
    coordinator_address: 'host:port' of process 0; with None jax looks for a cluster (TPU pod,
      GKE, SLURM, MPI), and this process is alone when there is none.
    num_processes, process_id: of the job, when coordinator_address is given.
    num_devices: how many devices the whole job must have; None for any.
    timeout: seconds to wait for the other processes; then this one ends with exit code 1.
  Raises:
    InputError: when the processes or devices are not what was asked for.
  """
  flags = (coordinator_address, num_processes, process_id)
  if None in flags and flags != (None, None, None):
    raise InputError(
      '--coordinator_address, --num_processes and --process_id go together; give '
      'all three, or none of them where a cluster is detected'
    )
  if process_id is not None and not 0 <= process_id < num_processes:
    raise InputError(
      f'--process_id={process_id} is not one of the --num_processes='
      f'{num_processes} that count from 0'
    )
  where = f'at {coordinator_address}' if coordinator_address else 'that the cluster announced'
  with _deadline(
    timeout,
    f'not all processes of this job met {where} within {timeout} s; see the '
    'logs of the others, check the flags, or give more time with --start_timeout',
  ):
    _join(*flags, timeout)
  _check_size(num_processes, num_devices)
  if jax.process_count() > 1:
    watch = threading.Thread(target=_watch, args=(distributed.global_state.client,), daemon=True)
    watch.start()
    # Before jax's own exit, which takes the connection away.
    atexit.register(lambda: (_ending.set(), watch.join()))
  signal.signal(signal.SIGINT, _stop)


def _stop(*_) -> None:
  """Ctrl-C asks for the same orderly stop as a preemption; a second one ends at once."""
  print('\nstopping after this step (Ctrl-C again: at once, without saving)', file=sys.stderr)
  signal.signal(signal.SIGINT, signal.default_int_handler)
  os.kill(os.getpid(), signal.SIGTERM)


def _join(coordinator_address, num_processes, process_id, timeout):
  def initialize(*where, **kwargs):
    jax.distributed.initialize(
      *where,
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
    if _mpi_size() > 1:  # Open MPI 5, MPICH, Intel MPI: jax needs to be told, and mpi4py
      initialize(cluster_detection_method='mpi4py')
      return
    with socket.socket() as s:  # no cluster: a job of one process
      s.bind(('localhost', 0))
      address = f'localhost:{s.getsockname()[1]}'
    initialize(address, 1, 0)


def _mpi_size() -> int:
  """How many processes mpirun started; 1 without it."""
  size = int(os.environ.get('OMPI_COMM_WORLD_SIZE') or os.environ.get('PMI_SIZE') or 1)
  if size > 1 and importlib.util.find_spec('mpi4py') is None:
    raise InputError(
      f'mpirun started {size} processes, which can only find each other with '
      'mpi4py (pip install mpi4py) or with --coordinator_address, --num_processes '
      'and --process_id'
    )
  return size


@contextlib.contextmanager
def _deadline(seconds: float, message: str) -> Iterator[None]:
  """Ends this process when the block takes longer; jax would abort with a stack of C++."""
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


def _check_size(num_processes, num_devices):
  count, local = jax.process_count(), jax.local_device_count()
  if num_processes is not None and count != num_processes:
    raise InputError(f'--num_processes={num_processes}, but process 0 was told {count}')
  if num_devices is not None and jax.device_count() != num_devices:
    raise InputError(
      f'--num_devices={num_devices}, but this job has {jax.device_count()} over '
      f'{count} process(es); start the others, or change the flag'
    )
  if jax.device_count() != local * count:
    raise InputError(
      f'process {jax.process_index()} has {local} of the {jax.device_count()} '
      f'devices of {count} processes; all must have equally many'
    )


def gather(value: Any) -> list[Any]:
  """What each process calls this with (JSON), by process; all must call it at the same points."""
  if jax.process_count() == 1:
    return [value]
  client, name = distributed.global_state.client, f'vit_jax/gather/{next(_calls)}'
  client.key_value_set(f'{name}/{jax.process_index()}', json.dumps(value))
  client.wait_at_barrier(name, 1000 * _AGREE_SECONDS)
  found = {int(k.rsplit('/', 1)[1]): json.loads(v) for k, v in client.key_value_dir_get(f'{name}/')}
  return [found[i] for i in range(jax.process_count())]


def check_same(values: Mapping[str, Any]) -> None:
  """Raises InputError, naming it, for a value (JSON) that is not process 0's."""
  for name, theirs in gather(dict(values))[0].items():
    if json.dumps(values[name]) != json.dumps(theirs):
      raise InputError(
        f'{name} is {values[name]!r} on process {jax.process_index()} and '
        f'{theirs!r} on process 0; all processes must have the same'
      )


def check_shared(directory: pathlib.Path) -> None:
  """Raises InputError when a process does not see what process 0 writes to `directory`."""
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
      f'process {seen.index(False)} does not see what process 0 writes to '
      f'{directory}; give a directory that all hosts share, or gs://'
    )


def fail(message: str) -> None:
  """Tells the other processes that this one ends, and why, so that they end too."""
  _ending.set()
  if _alone():
    return
  client = distributed.global_state.client
  with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 is gone; jax ends the others
    client.key_value_set(_FAILED + str(jax.process_index()), message)
    until = time.monotonic() + _POLL_SECONDS + _GRACE_SECONDS + 1
    # The messages would go with process 0: it waits until they were heard.
    while (
      jax.process_index() == 0
      and time.monotonic() < until
      and len(client.key_value_dir_get(_FAILED)) < jax.process_count()
    ):
      time.sleep(0.1)


def lost(error: jax.errors.JaxRuntimeError) -> str | None:
  """What to say of an error of jax: why another process failed; None when there is no other."""
  if _alone():
    return None
  with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 may be the one that is gone
    if told := _told(distributed.global_state.client):
      return told
  reason = str(error).strip().splitlines()[0]
  return f'another process of this job is gone, see its log ({reason}); run the same command again'


def _alone():
  return distributed.global_state.client is None or distributed.global_state.num_processes == 1


def _told(client) -> str | None:
  found = client.key_value_dir_get(_FAILED)
  return f'process {found[0][0].removeprefix(_FAILED)} failed: {found[0][1]}' if found else None


def _watch(client) -> None:
  """Thread: ends this process when another has failed, whatever it is waiting for."""
  told = None
  while told is None and not _ending.wait(_POLL_SECONDS):
    try:
      told = _told(client)
    except jax.errors.JaxRuntimeError:
      return  # process 0 is gone; jax ends this one
  if told is not None and not _ending.wait(_GRACE_SECONDS):
    _end(told)
