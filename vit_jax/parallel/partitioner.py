"""How a step is spread over devices: the one place that knows.

`Pmap` is data parallelism with a replicated state (the paper's way), `Sharded` the same with the
state cut over devices too.
"""

from collections.abc import Callable, Sequence
import functools
import itertools
from typing import Any

import jax
from jax.experimental import mesh_utils, multihost_utils
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from vit_jax.errors import InputError

# Counts on from run to run: jax, asked to stop before a run's first step, does so at the point
# after the newest one that it has heard of.
_points = itertools.count(1)


class Stopper:
  """Answers, at points that all processes pass alike, whether to save and stop."""

  def __init__(self):
    self._stop = False

  def __call__(self) -> bool:
    """Call once per train or eval step; True, on all hosts at the same call, after SIGTERM."""
    if not self._stop:
      self._stop = multihost_utils.reached_preemption_sync_point(next(_points))
    return self._stop


@functools.cache
def compiler_options(platform: str) -> dict[str, str]:
  """What the compiler is told for the steps, beyond its defaults; for 'cpu' alone there is any.

  There XLA leaves float32 products and reductions to YNNPACK. Its own products (Eigen) are
  faster, its own reductions are not: see RESULTS.md.
  """
  if platform != 'cpu':
    return {}
  options = {'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_REDUCE'}
  try:
    jax.jit(lambda: 0).lower().compile(compiler_options=options)
  except jax.errors.JaxRuntimeError:  # another version of the compiler, without this option
    return {}
  return options


def _with_options(function: Callable[..., Any], options: dict[str, str]) -> Callable[..., Any]:
  """A jax.pmap, compiled with options, which it does not take; for arguments of one shape."""
  if not options or jax.process_count() > 1:  # whose batches a compiled pmap takes as global ones
    return function
  compiled = None

  def call(*args):
    nonlocal compiled
    compiled = compiled or function.lower(*args).compile(compiler_options=options)
    return compiled(*args)

  return call


class _Spread:
  """What the ways to spread a step have in common: a batch cut over all devices."""

  def __init__(self, num_devices: int, batch_size: int, accumulate: int):
    self.num_devices = num_devices
    self.layout = f'{num_devices} device(s)'
    # Simulated CPU devices share a thread pool, which steps queued behind a collective exhaust.
    self.max_in_flight = 0 if jax.default_backend() == 'cpu' else 1
    if batch_size % (num_devices * accumulate):
      ways = f'{num_devices} devices' + (
        f' x {accumulate} accumulation passes' if accumulate > 1 else ''
      )
      unit = num_devices * accumulate
      raise InputError(
        f'batch_size {batch_size} does not divide over {ways}; try '
        f'{max(1, round(batch_size / unit)) * unit}'
      )


class Pmap(_Spread):
  """Data parallelism by jax.pmap: the batch is split, the state is on every device."""

  def __init__(self, batch_size: int, accumulate: int = 1):
    """Raises InputError when `batch_size` does not divide over devices and passes."""
    super().__init__(jax.device_count(), batch_size, accumulate)

  def like(self, abstract: Any) -> Any:
    """The shapes of a state, as a checkpoint is to be read for `put`."""
    return abstract

  def init(self, init: Callable[[], Any]) -> Any:
    """Computes a state where it is to lie."""
    return self.put(jax.jit(init)())

  def put(self, state: Any) -> Any:
    """Puts a state (host arrays or single-device arrays) on every device."""
    # The steps' axis name: with another sharding than theirs the first step would compile twice.
    spread = jax.pmap(lambda s, _: s, axis_name='data', in_axes=(None, 0), out_axes=None)
    return spread(state, np.zeros(jax.local_device_count()))

  def train_step(self, step: Callable[..., Any]) -> Callable[..., Any]:
    """step(state, batch, shard, mean, previous) -> compiled (state, global batch) -> the same."""
    spread = jax.pmap(
      lambda state, batch: step(
        state, batch, jax.lax.axis_index('data'), lambda x: jax.lax.pmean(x, 'data'), self._previous
      ),
      axis_name='data',
      in_axes=(None, 0),
      out_axes=None,
      donate_argnums=0,
    )
    spread = _with_options(spread, compiler_options(jax.default_backend()))
    return lambda state, batch: spread(state, self._split(batch))

  def eval_step(self, step: Callable[..., Any]) -> Callable[..., Any]:
    """step(params, batch, total) -> compiled (params, global batch) -> sums."""
    spread = jax.pmap(
      lambda params, batch: step(params, batch, lambda x: jax.lax.psum(x, 'data')),
      axis_name='data',
      in_axes=(None, 0),
      out_axes=None,
    )
    spread = _with_options(spread, compiler_options(jax.default_backend()))
    return lambda params, batch: spread(params, self._split(batch))

  def gather_step(self, step: Callable[..., Any]) -> Callable[..., Any]:
    """step(params, batch) -> compiled (params, global batch) -> NumPy arrays of all its rows."""
    gather = lambda x: jax.lax.all_gather(x, 'data', tiled=True)
    spread = jax.pmap(
      lambda params, batch: jax.tree.map(gather, step(params, batch)),
      axis_name='data',
      in_axes=(None, 0),
      out_axes=None,
    )
    spread = _with_options(spread, compiler_options(jax.default_backend()))
    return lambda params, batch: jax.device_get(spread(params, self._split(batch)))

  def _previous(self, x):
    """A device's rows -> the row before each in the global batch; before the first, the last."""
    n = self.num_devices
    before = jax.lax.ppermute(x[-1:], 'data', [(i, (i + 1) % n) for i in range(n)])
    return jnp.concatenate([before, x[:-1]])

  def _split(self, batch):
    """This host's share (b, ...) -> (local devices, b / local devices, ...)."""
    local = jax.local_device_count()
    return {k: v.reshape(local, -1, *v.shape[1:]) for k, v in batch.items()}


class Sharded(_Spread):
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
