"""Data parallelism: every device holds the state, as in the paper, and calls the step by itself."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from vit_jax.data.batch import Batch
from vit_jax.models.params import Params
from vit_jax.parallel.compiler import Options, compiler_options
from vit_jax.parallel.partitioner import (
  Arrays,
  EvalStep,
  GatherStep,
  Partitioner,
  Shard,
  State,
  TrainStep,
  place,
  place_rows,
  replicate,
)
from vit_jax.parallel.train_call import TrainCall

_AXIS = 'data'


class PmapPartitioner(Partitioner):
  """Splits the batch over all devices. Every device holds the whole state.

  This is what jax.pmap does, which is built on jax.shard_map. Using that directly lets the step be
  compiled with options, and the state span all processes.
  """

  def __init__(self, batch_size: int, accumulate: int = 1, options: Options | None = None):
    """Use all devices.

    Args:
      batch_size: number of images in a global batch.
      accumulate: number of passes that a batch is split into.
      options: options of the compiler. Defaults to those that are fastest here in float32.

    Raises:
      InputError: the batch does not divide over devices and accumulation passes.
    """
    super().__init__(jax.device_count(), batch_size, accumulate)
    self._mesh = Mesh(np.array(sorted(jax.devices(), key=lambda d: d.process_index)), (_AXIS,))
    self._replicated = NamedSharding(self._mesh, PartitionSpec())
    self._rows = NamedSharding(self._mesh, PartitionSpec(_AXIS))
    self._shard = Shard(axis=_AXIS, num_shards=self.num_devices)
    self._options = dict(compiler_options(jax.default_backend()) if options is None else options)

  def with_shardings(self, shapes: State) -> State:
    """Return the shapes unchanged: a checkpoint is restored on the host, for `put`."""
    return shapes

  def init(self, init: Callable[[], State]) -> State:
    """Compute a state on the devices."""
    return jax.tree.map(lambda x: replicate(x, self._replicated), init())

  def put(self, state: State) -> State:
    """Put a state (host arrays or single-device arrays) on every device."""
    return jax.tree.map(lambda x: place(x, self._replicated), state)

  def train_step(self, step: TrainStep) -> TrainCall:
    """Return the step as a function (state, batch) -> (state, metrics). The state is donated."""
    jitted = self._jit(lambda state, batch: step(state, batch, self._shard), donate=True)
    replicated = lambda state: jax.tree.map(lambda _: self._replicated, state)
    place = lambda batch: place_rows(batch, self._rows)
    return TrainCall(lambda state: jitted, replicated, self._rows, place)

  def eval_step(self, step: EvalStep) -> Callable[[Params, Batch], Arrays]:
    """Compile a function (params, batch, shard) -> sums over all shards."""
    return self._compile(lambda params, batch: step(params, batch, self._shard))

  def gather_step(self, step: GatherStep) -> Callable[[Params, Batch], Arrays]:
    """Compile a function (params, batch) -> arrays, and gather their rows from all devices."""
    gather = lambda x: jax.lax.all_gather(x, _AXIS, tiled=True)
    call = self._compile(lambda params, batch: jax.tree.map(gather, step(params, batch)))
    return lambda params, batch: jax.device_get(call(params, batch))

  def _compile(self, function: Callable[[Any, Batch], Any]) -> Callable[[Any, Batch], Any]:
    """Compile (params, a device's rows) -> results that are equal on all devices."""
    jitted = self._jit(function)
    return lambda params, batch: jitted(params, place_rows(batch, self._rows))

  def _jit(self, function: Callable[[Any, Batch], Any], donate: bool = False) -> Any:
    """Return jax.jit of (state or params, global batch) -> results, equal on all devices.

    Args:
      function: takes the rows of one device.
      donate: True to donate the state.
    """
    return jax.jit(
      jax.shard_map(
        function,
        mesh=self._mesh,
        in_specs=(PartitionSpec(), PartitionSpec(_AXIS)),
        out_specs=PartitionSpec(),
        check_vma=False,  # the step itself sums gradients over the shards
      ),
      donate_argnums=(0,) if donate else (),
      out_shardings=self._replicated,
      compiler_options=self._options,
    )
