"""Data parallelism by jax.pmap: every device holds the state, as in the paper."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vit_jax.data.batch import Batch
from vit_jax.models.params import Params
from vit_jax.parallel.compiler import compile_with, compiler_options
from vit_jax.parallel.partitioner import (
  Arrays,
  EvalStep,
  GatherStep,
  Partitioner,
  Shard,
  State,
  TrainStep,
)

_AXIS = 'data'


class PmapPartitioner(Partitioner):
  """Splits the batch over all devices. Every device holds the whole state."""

  def __init__(self, batch_size: int, accumulate: int = 1):
    """Use all devices.

    Raises:
      InputError: the batch does not divide over devices and accumulation passes.
    """
    super().__init__(jax.device_count(), batch_size, accumulate)
    self._shard = Shard(axis=_AXIS, num_shards=self.num_devices)

  def with_shardings(self, shapes: State) -> State:
    """Return the shapes unchanged: a checkpoint is restored on the host, for `put`."""
    return shapes

  def init(self, init: Callable[[], State]) -> State:
    """Compute a state on the devices."""
    return self.put(jax.jit(init)())

  def put(self, state: State) -> State:
    """Put a state (host arrays or single-device arrays) on every device."""
    # Use the steps' axis name. A different sharding would make the first step compile twice.
    replicate = jax.pmap(lambda s, _: s, axis_name=_AXIS, in_axes=(None, 0), out_axes=None)
    return replicate(state, np.zeros(jax.local_device_count()))

  def train_step(self, step: TrainStep) -> Callable[[State, Batch], tuple[State, Arrays]]:
    """Compile a function (state, batch, shard) -> (state, metrics). The state is donated."""
    return self._compile(lambda state, batch: step(state, batch, self._shard), donate=True)

  def eval_step(self, step: EvalStep) -> Callable[[Params, Batch], Arrays]:
    """Compile a function (params, batch, shard) -> sums over all shards."""
    return self._compile(lambda params, batch: step(params, batch, self._shard))

  def gather_step(self, step: GatherStep) -> Callable[[Params, Batch], Arrays]:
    """Compile a function (params, batch) -> arrays, and gather their rows from all devices."""
    gather = lambda x: jax.lax.all_gather(x, _AXIS, tiled=True)
    call = self._compile(lambda params, batch: jax.tree.map(gather, step(params, batch)))
    return lambda params, batch: jax.device_get(call(params, batch))

  def _compile(
    self, function: Callable[[Any, Batch], Any], donate: bool = False
  ) -> Callable[[Any, Batch], Any]:
    """Compile (state or params, a device's rows) -> results that are equal on all devices."""
    mapped = jax.pmap(
      function,
      axis_name=_AXIS,
      in_axes=(None, 0),
      out_axes=None,
      donate_argnums=(0,) if donate else (),
    )
    call = compile_with(mapped, compiler_options(jax.default_backend()))
    return lambda tree, batch: call(tree, _split(batch))


def _split(batch: Batch) -> Batch:
  """Split this host's rows over its devices: (b, ...) -> (devices, b / devices, ...)."""
  devices = jax.local_device_count()
  return jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
