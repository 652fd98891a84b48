"""How a step is spread over devices: the one place that knows.

`Pmap` is data parallelism with a replicated state (the paper's way). Hosts are joined by
jax.distributed, also when there is one: it is what hears of preemption.
"""

from collections.abc import Callable
import os
import signal
import socket
import sys
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from vit_jax.errors import InputError


def start(coordinator_address: str | None = None, num_processes: int | None = None,
          process_id: int | None = None, num_devices: int | None = None) -> None:
  """Joins the processes of the job; on a single machine, only this one.

  Args:
    coordinator_address: 'host:port' of process 0; with None jax looks for a cluster (TPU pod,
      SLURM, MPI, Kubernetes), and this process is alone when there is none.
    num_processes, process_id: of the job, when coordinator_address is given.
    num_devices: how many devices the whole job must have; None for any.
  Raises:
    InputError: when num_devices is not what there is.
  """
  try:
    jax.distributed.initialize(coordinator_address, num_processes, process_id)
  except ValueError as e:
    if 'coordinator_address should be defined' not in str(e):
      raise
    with socket.socket() as s:  # no cluster: a job of one process
      s.bind(('localhost', 0))
      address = f'localhost:{s.getsockname()[1]}'
    jax.distributed.initialize(address, 1, 0)
  if num_devices is not None and jax.device_count() != num_devices:
    raise InputError(f'--num_devices={num_devices}, but this job has {jax.device_count()} over '
                     f'{jax.process_count()} process(es); start the others, or change the flag')
  # Ctrl-C asks for the same orderly stop as a preemption; a second one ends at once.
  def stop(*_):
    print('\nstopping after this step (Ctrl-C again: at once, without saving)', file=sys.stderr)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.kill(os.getpid(), signal.SIGTERM)
  signal.signal(signal.SIGINT, stop)


class Stopper:
  """Answers, at points that all processes pass alike, whether to save and stop."""

  def __init__(self):
    self._points = 0
    self._stop = False

  def __call__(self) -> bool:
    """Call once per train or eval step; True, on all hosts at the same call, after SIGTERM."""
    if not self._stop:
      self._points += 1
      self._stop = multihost_utils.reached_preemption_sync_point(self._points)
    return self._stop


class Pmap:
  """Data parallelism by jax.pmap: the batch is split, the state is on every device."""

  def __init__(self, batch_size: int, accumulate: int = 1):
    """Raises InputError when `batch_size` does not divide over devices and passes."""
    self.num_devices = jax.device_count()
    # Simulated CPU devices share a thread pool, which steps queued behind a collective exhaust.
    self.max_in_flight = 0 if jax.default_backend() == 'cpu' else 1
    if batch_size % (self.num_devices * accumulate):
      ways = f'{self.num_devices} devices' + (f' x {accumulate} accumulation passes'
                                              if accumulate > 1 else '')
      unit = self.num_devices * accumulate
      raise InputError(f'batch_size {batch_size} does not divide over {ways}; try '
                       f'{max(1, round(batch_size / unit)) * unit}')

  def train_step(self, step: Callable[..., Any]) -> Callable[..., Any]:
    """step(state, batch, shard, mean) -> compiled (state, global batch) -> (state, metrics)."""
    spread = jax.pmap(
        lambda state, batch: step(state, batch, jax.lax.axis_index('data'),
                                  lambda x: jax.lax.pmean(x, 'data')),
        axis_name='data', in_axes=(None, 0), out_axes=None, donate_argnums=0)
    return lambda state, batch: spread(state, self._split(batch))

  def eval_step(self, step: Callable[..., Any]) -> Callable[..., Any]:
    """step(params, batch, total) -> compiled (params, global batch) -> sums."""
    spread = jax.pmap(
        lambda params, batch: step(params, batch, lambda x: jax.lax.psum(x, 'data')),
        axis_name='data', in_axes=(None, 0), out_axes=None)
    return lambda params, batch: spread(params, self._split(batch))

  def put(self, state: Any) -> Any:
    """Puts a state (host arrays or single-device arrays) on every device."""
    # The steps' axis name: with another sharding than theirs the first step would compile twice.
    spread = jax.pmap(lambda s, _: s, axis_name='data', in_axes=(None, 0), out_axes=None)
    return spread(state, np.zeros(jax.local_device_count()))

  def _split(self, batch):
    """This host's share (b, ...) -> (local devices, b / local devices, ...)."""
    local = jax.local_device_count()
    return {k: v.reshape(local, -1, *v.shape[1:]) for k, v in batch.items()}
