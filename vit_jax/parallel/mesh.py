"""One program over a mesh of devices, the state split over them too."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from vit_jax.errors import InputError
from vit_jax.parallel.compiler import compiler_options
from vit_jax.parallel.partitioner import Partitioner


class MeshPartitioner(Partitioner):
  """One program over a (data, fsdp) mesh: the batch over both axes, the state over `fsdp`.

  Each array of the state is cut along its largest axis that `fsdp` divides, whatever it is; the
  compiler gathers a block's parameters where they are used and scatters their gradients.
  """

  def __init__(
    self,
    batch_size: int,
    accumulate: int = 1,
    mesh: tuple[int, int] = (0, 1),
    devices: Sequence[jax.Device] | None = None,
  ):
    """Makes the mesh.

    Args:
      batch_size: images a step, over all devices.
      accumulate: passes a batch is split into.
      mesh: devices along (data, fsdp); a 0 stands for all that remain, and with data 0 fsdp for
        so many at most.
      devices: to make it of; None for all there are.
    Raises:
      InputError: when the devices are not data x fsdp, or the batch does not divide over them.
    """
    devices = jax.devices() if devices is None else devices
    data, fsdp = mesh
    if not data:
      fsdp = min(fsdp, len(devices))
    data, fsdp = data or len(devices) // max(fsdp, 1), fsdp or len(devices) // max(data, 1)
    if data * fsdp != len(devices):
      raise InputError(
        f'config.mesh={tuple(mesh)} does not fit {len(devices)} devices: data x '
        'fsdp must be all of them; a 0 stands for what remains'
      )
    super().__init__(len(devices), batch_size, accumulate)
    self.mesh = Mesh(_grid(data, fsdp, devices), ('data', 'fsdp'))
    self.layout += f', a mesh of {data} x {fsdp}'
    self._batch = NamedSharding(self.mesh, PartitionSpec(('data', 'fsdp')))
    self._options = compiler_options(devices[0].platform)

  def shardings(self, tree: Any) -> Any:
    """How each array of a state, or its shape, lies on the devices."""
    return jax.tree.map(lambda x: NamedSharding(self.mesh, self._spec(x.shape)), tree)

  def like(self, abstract: Any) -> Any:
    """The shapes of a state, as a checkpoint is to be read: each device its part."""
    return jax.tree.map(lambda x, s: x.update(sharding=s), abstract, self.shardings(abstract))

  def init(self, init: Callable[[], Any]) -> Any:
    """Computes a state where it is to lie."""
    return jax.jit(init, out_shardings=self.shardings(jax.eval_shape(init)))()

  def put(self, state: Any) -> Any:
    """Puts a state (host arrays, the same on every host, or what `like` says) in its place."""

    def place(x, sharding):
      if isinstance(x, jax.Array) and x.sharding == sharding:
        return x
      x = np.asarray(x)
      return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(place, state, self.shardings(state))

  def _spec(self, shape):
    fsdp = self.mesh.shape['fsdp']
    axes = [i for i, n in enumerate(shape) if n % fsdp == 0 and n >= fsdp]
    if fsdp == 1 or not axes:
      return PartitionSpec()
    axis = max(axes, key=lambda i: shape[i])
    return PartitionSpec(*[None] * axis, 'fsdp')

  def jit_train_step(self, step: Callable[..., Any], state: Any) -> Callable[..., Any]:
    """The jitted (state, batch) -> (state, metrics) for a state of these shapes; not run yet."""
    return jax.jit(
      lambda state, batch: step(state, batch, devices=self.num_devices),
      donate_argnums=0,
      out_shardings=(self.shardings(state), None),
      compiler_options=self._options,
    )

  def train_step(self, step: Callable[..., Any]) -> Callable[..., Any]:
    """step(state, batch, devices=) -> compiled (state, global batch) -> (state, metrics)."""
    compiled = None

    def call(state, batch):
      nonlocal compiled
      compiled = compiled or self.jit_train_step(step, state)
      with jax.set_mesh(self.mesh):
        return compiled(state, self._global(batch))

    return call

  def eval_step(self, step: Callable[..., Any]) -> Callable[..., Any]:
    """step(params, batch) -> compiled (params, global batch) -> sums."""
    return self._replicated(step)

  def gather_step(self, step: Callable[..., Any]) -> Callable[..., Any]:
    """step(params, batch) -> compiled (params, global batch) -> NumPy arrays of all its rows."""
    call = self._replicated(step)
    return lambda params, batch: jax.device_get(call(params, batch))

  def _replicated(self, step):
    compiled = jax.jit(
      step, out_shardings=NamedSharding(self.mesh, PartitionSpec()), compiler_options=self._options
    )

    def call(params, batch):
      with jax.set_mesh(self.mesh):
        return compiled(params, self._global(batch))

    return call

  def _global(self, batch):
    """This host's share of a batch -> arrays over all devices."""
    return {k: jax.make_array_from_process_local_data(self._batch, v) for k, v in batch.items()}


def _grid(data: int, fsdp: int, devices: Sequence[jax.Device]) -> np.ndarray:
  """The devices as (data, fsdp); only `data` goes over the slow network between TPU slices."""
  slices = len({getattr(device, 'slice_index', None) for device in devices})
  if slices == 1:
    return mesh_utils.create_device_mesh((data, fsdp), devices, allow_split_physical_axes=True)
  if data % slices:
    raise InputError(
      f'config.mesh=({data}, {fsdp}) does not fit {slices} slices: data must be a multiple of them'
    )
  return mesh_utils.create_hybrid_device_mesh(
    (data // slices, fsdp), (slices, 1), devices, allow_split_physical_axes=True
  )
