"""The interface of a partitioner, which splits a step over devices."""

import abc
from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.data.batch import Batch
from vit_jax.errors import InputError
from vit_jax.models.params import Params
from vit_jax.parallel.train_call import TrainCall

State = Any  # a training.step.TrainState, or its shapes
Arrays = dict[str, Any]  # of NumPy or JAX arrays


@dataclasses.dataclass(frozen=True)
class Shard:
  """The part of the global batch that one call of a step sees, and how it reaches the others.

  With pmap every device calls the step, each with a shard of its own. On a mesh there is one call,
  whose shard is the whole batch; the compiler splits its rows over the devices.

  Attributes:
    axis: name of the pmap axis along which the shards lie, or None if this is the whole batch.
    num_shards: number of shards of the global batch.
    num_devices: number of devices over which the rows of this shard are split.
  """

  axis: str | None = None
  num_shards: int = 1
  num_devices: int = 1

  def mean(self, tree: Any) -> Any:
    """Return the mean of a tree of arrays over all shards."""
    return tree if self.axis is None else jax.lax.pmean(tree, self.axis)

  def sum(self, tree: Any) -> Any:
    """Return the sum of a tree of arrays over all shards."""
    return tree if self.axis is None else jax.lax.psum(tree, self.axis)

  def previous_rows(self, x: jax.Array) -> jax.Array:
    """Return for each row the row before it in the global batch: (b, ...) -> (b, ...).

    The row before the first one is the last row of the global batch.
    """
    if self.axis is None:
      return jnp.roll(x, 1, axis=0)
    to_next_shard = [(i, (i + 1) % self.num_shards) for i in range(self.num_shards)]
    before = jax.lax.ppermute(x[-1:], self.axis, to_next_shard)
    return jnp.concatenate([before, x[:-1]])


WHOLE = Shard()  # the whole global batch on one device

TrainStep = Callable[[State, Batch, Shard], tuple[State, Arrays]]
EvalStep = Callable[[Params, Batch, Shard], Arrays]
GatherStep = Callable[[Params, Batch], Arrays]


class Partitioner(abc.ABC):
  """Splits the batch, and perhaps the state, over all devices of all processes.

  The compiled functions take parameters or a state from `init` or `put`, and this process's share
  of a global batch, as the input pipeline makes it.

  Attributes:
    num_devices: number of devices, over all processes.
    layout: description of how the devices are used, for the log.
    max_in_flight: number of steps that may run while the host already queues the next one.
  """

  def __init__(self, num_devices: int, batch_size: int, accumulate: int):
    """Check that the batch divides over the devices.

    Raises:
      InputError: the batch does not divide over devices and accumulation passes.
    """
    self.num_devices = num_devices
    self.layout = f'{num_devices} device(s)'
    # Simulated CPU devices share a thread pool, which steps queued behind a collective exhaust.
    self.max_in_flight = 0 if jax.default_backend() == 'cpu' else 1
    unit = num_devices * accumulate
    if batch_size % unit:
      passes = f' x {accumulate} accumulation passes' if accumulate > 1 else ''
      raise InputError(
        f'batch_size={batch_size} does not divide over {num_devices} devices{passes}. '
        f'Try batch_size={max(1, round(batch_size / unit)) * unit}.'
      )

  @abc.abstractmethod
  def with_shardings(self, shapes: State) -> State:
    """Return the shapes of a state with their shardings, for a checkpoint to be restored into."""

  @abc.abstractmethod
  def init(self, init: Callable[[], State]) -> State:
    """Compute a state on the devices."""

  @abc.abstractmethod
  def put(self, state: State) -> State:
    """Put a state, or parameters, on the devices.

    Args:
      state: host arrays that are equal on all hosts, or arrays as `with_shardings` describes them.
    """

  @abc.abstractmethod
  def train_step(self, step: TrainStep) -> TrainCall:
    """Return the step as a function (state, batch) -> (state, metrics). The state is donated."""

  @abc.abstractmethod
  def eval_step(self, step: EvalStep) -> Callable[[Params, Batch], Arrays]:
    """Compile a function (params, batch, shard) -> sums over all shards."""

  @abc.abstractmethod
  def gather_step(self, step: GatherStep) -> Callable[[Params, Batch], Arrays]:
    """Compile a function (params, batch) -> arrays with a row for each row of the batch.

    Returns:
      A function that returns NumPy arrays with the rows of the whole global batch.
    """


def place(x: Any, sharding: jax.sharding.Sharding) -> jax.Array:
  """Put an array (equal on all hosts, or placed already) on the devices of a sharding."""
  if isinstance(x, jax.Array) and x.sharding == sharding:
    return x
  x = np.asarray(x)
  return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def replicate(x: jax.Array, sharding: jax.sharding.Sharding) -> jax.Array:
  """Copy an array of this process, equal on all hosts, to all devices of a sharding."""
  copies = [jax.device_put(x, device) for device in sharding.addressable_devices]
  return jax.make_array_from_single_device_arrays(x.shape, sharding, copies)


def place_rows(batch: Batch, sharding: jax.sharding.Sharding) -> Batch:
  """Make arrays over all devices from this host's rows of a batch."""
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
