"""Data and fully sharded data parallelism: one program over a mesh of devices."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from vit_jax.data.batch import Batch
from vit_jax.errors import InputError
from vit_jax.models.params import Params
from vit_jax.parallel.compiler import Options, compiler_options
from vit_jax.parallel.partitioner import (
  WHOLE,
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

_AXES = ('data', 'fsdp')


class MeshPartitioner(Partitioner):
  """Splits the batch over all devices of a (data, fsdp) mesh, and the state along fsdp.

  Each array of the state is split along the largest of its axes that `fsdp` divides. The compiler
  gathers the parameters of a block where they are used, and scatters their gradients.

  Attributes:
    mesh: the devices, arranged as (data, fsdp).
    batch_sharding: the sharding of each array of a global batch.
  """

  def __init__(
    self,
    batch_size: int,
    accumulate: int = 1,
    mesh: tuple[int, int] = (0, 1),
    devices: Sequence[jax.Device] | None = None,
    options: Options | None = None,
  ):
    """Make the mesh.

    Args:
      batch_size: number of images in a global batch.
      accumulate: number of passes that a batch is split into.
      mesh: number of devices along (data, fsdp). A 0 stands for all remaining devices. If data is
        0, fsdp may be larger than the number of devices, and is then reduced to it.
      devices: the devices to use. Defaults to all.
      options: options of the compiler. Defaults to those that are fastest here in float32.

    Raises:
      InputError: data x fsdp is not the number of devices, or the batch does not divide over them.
    """
    devices = jax.devices() if devices is None else devices
    data, fsdp = mesh
    if not data:
      fsdp = min(fsdp, len(devices))
    data, fsdp = data or len(devices) // max(fsdp, 1), fsdp or len(devices) // max(data, 1)
    if data * fsdp != len(devices):
      raise InputError(
        f'config.mesh={tuple(mesh)} does not fit {len(devices)} devices. The product data x fsdp '
        'must be the number of devices. Use 0 for all remaining devices.'
      )
    super().__init__(len(devices), batch_size, accumulate)
    self.mesh = Mesh(_arrange(data, fsdp, devices), _AXES)
    self.layout += f', a mesh of {data} x {fsdp}'
    self.batch_sharding = NamedSharding(self.mesh, PartitionSpec(_AXES))
    self._replicated = NamedSharding(self.mesh, PartitionSpec())
    self._options = dict(compiler_options(devices[0].platform) if options is None else options)

  def shardings(self, tree: Any) -> Any:
    """Return the sharding of each array (or shape) of a state or of parameters."""
    return jax.tree.map(lambda x: NamedSharding(self.mesh, self._spec(x.shape)), tree)

  def _spec(self, shape: tuple[int, ...]) -> PartitionSpec:
    """Return how to split an array of this shape: along the largest axis that fsdp divides."""
    fsdp = self.mesh.shape['fsdp']
    axes = [i for i, n in enumerate(shape) if n % fsdp == 0 and n >= fsdp]
    if fsdp == 1 or not axes:
      return PartitionSpec()
    axis = max(axes, key=lambda i: shape[i])
    return PartitionSpec(*[None] * axis, 'fsdp')

  def with_shardings(self, shapes: State) -> State:
    """Return the shapes of a state with their shardings: each device reads its part."""
    return jax.tree.map(lambda x, s: x.update(sharding=s), shapes, self.shardings(shapes))

  def init(self, init: Callable[[], State]) -> State:
    """Compute a state on the devices. If it is split, each device computes its part."""
    if self.mesh.shape['fsdp'] == 1:  # much faster than to compile one program for all parameters
      return jax.tree.map(lambda x: replicate(x, self._replicated), init())
    return jax.jit(init, out_shardings=self.shardings(jax.eval_shape(init)))()

  def put(self, state: State) -> State:
    """Put a state (equal host arrays on all hosts, or a restored state) on the devices."""
    return jax.tree.map(place, state, self.shardings(state))

  def jit_train_step(self, step: TrainStep, state: State) -> Any:
    """Return jax.jit of (state, global batch) -> (state, metrics), without compiling it.

    Args:
      step: the function (state, batch, shard) -> (state, metrics).
      state: a state, or its shapes.
    """
    shard = Shard(num_devices=self.num_devices)
    return jax.jit(
      lambda state, batch: step(state, batch, shard),
      donate_argnums=0,
      out_shardings=(self.shardings(state), None),
      compiler_options=self._options,
    )

  def train_step(self, step: TrainStep) -> TrainCall:
    """Return the step as a function (state, batch) -> (state, metrics). The state is donated."""
    return TrainCall(
      lambda state: self.jit_train_step(step, state),
      self.shardings,
      self.batch_sharding,
      lambda batch: place_rows(batch, self.batch_sharding),
      self.mesh,
    )

  def eval_step(self, step: EvalStep) -> Callable[[Params, Batch], Arrays]:
    """Compile a function (params, batch, shard) -> sums over the whole batch."""
    return self._jit_replicated(lambda params, batch: step(params, batch, WHOLE))

  def gather_step(self, step: GatherStep) -> Callable[[Params, Batch], Arrays]:
    """Compile a function (params, batch) -> arrays, and gather their rows from all devices."""
    call = self._jit_replicated(step)
    return lambda params, batch: jax.device_get(call(params, batch))

  def _jit_replicated(self, step: GatherStep) -> Callable[[Params, Batch], Arrays]:
    """Compile a function (params, batch) -> arrays, each of them whole on every device."""
    compiled = jax.jit(step, out_shardings=self._replicated, compiler_options=self._options)

    def call(params: Params, batch: Batch) -> Arrays:
      with jax.set_mesh(self.mesh):
        return compiled(params, place_rows(batch, self.batch_sharding))

    return call


def _arrange(data: int, fsdp: int, devices: Sequence[jax.Device]) -> np.ndarray:
  """Arrange devices as (data, fsdp). Only `data` may cross the slow network between TPU slices."""
  slices = len({getattr(device, 'slice_index', None) for device in devices})
  if slices == 1:
    return mesh_utils.create_device_mesh((data, fsdp), devices, allow_split_physical_axes=True)
  if data % slices:
    raise InputError(
      f'config.mesh=({data}, {fsdp}) does not fit {slices} slices. Choose a multiple of {slices} '
      'for data.'
    )
  shape = (data // slices, fsdp)
  return mesh_utils.create_hybrid_device_mesh(
    shape, (slices, 1), devices, allow_split_physical_axes=True
  )
