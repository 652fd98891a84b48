"""What a train step will need on devices that are not there: compiled, weighed, and told."""

from collections.abc import Callable, Sequence
import re
import time
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec

from vit_jax.parallel.mesh import MeshPartitioner

_GIB = 2**30


class OutOfMemory(Exception):
  """The compiler found no way to fit a program; its words, shortened."""


class Memory(NamedTuple):
  """Bytes of each device while a step runs."""

  parameters: int
  moments: int
  rest_of_the_state: int  # counts of steps
  batch: int
  padding: int  # of all these, in the layout of the device
  temporaries: int  # activations, gradients, gathered parameters
  outputs: int  # that are not written over an argument: metrics
  code: int

  @property
  def total(self) -> int:
    return sum(self)


def compile_step(
  partitioner: MeshPartitioner,
  step: Callable[..., Any],
  state: Any,
  image_size: int,
  batch_size: int,
  available: float,
  compiler_options: dict[str, Any],
) -> tuple[Any, Memory, float]:
  """Compiles a train step for the devices of a mesh.

  Args:
    partitioner: made of the devices.
    step: of make_train_step.
    state: shapes of the TrainState.
    image_size, batch_size: of a step's global batch.
    available: bytes of a device's memory.
    compiler_options: of the devices' topology.
  Returns:
    The jax.stages.Compiled, the memory of each device, the seconds it took.
  Raises:
    OutOfMemory: it does not fit.
  """
  start = time.perf_counter()
  state, batch = partitioner.like(state), batch_shapes(partitioner, image_size, batch_size)
  try:
    with jax.set_mesh(partitioner.mesh):
      compiled = (
        partitioner.jit_train_step(step, state).lower(state, batch).compile(compiler_options)
      )
  except jax.errors.JaxRuntimeError as e:
    if 'RESOURCE_EXHAUSTED' not in str(e):
      raise
    raise OutOfMemory(_shorten(str(e))) from e
  needed = memory(compiled.memory_analysis(), state, batch)
  if needed.total > available:  # the CUDA compiler leaves that to the allocator
    raise OutOfMemory(f'the step needs {needed.total / _GIB:.2f} of {available / _GIB:.2f} GiB')
  return compiled, needed, time.perf_counter() - start


def batch_shapes(partitioner: MeshPartitioner, image_size: int, batch_size: int) -> dict[str, Any]:
  """The shapes of a global batch, cut over all devices."""
  sharding = NamedSharding(partitioner.mesh, PartitionSpec(partitioner.mesh.axis_names))
  shape = lambda dims, dtype: jax.ShapeDtypeStruct((batch_size, *dims), dtype, sharding=sharding)
  return {
    'image': shape((image_size, image_size, 3), 'uint8'),
    'label': shape((), 'int32'),
    'mask': shape((), 'bool'),
  }


def memory(analysis: Any, state: Any, batch: Any) -> Memory:
  """What the compiler says, with the arguments told apart.

  Args:
    analysis: jax.stages.Compiled.memory_analysis().
    state, batch: the shapes that were compiled for, with shardings.
  """
  kinds = [*state_bytes(state), shard_bytes(batch)]
  return Memory(
    *kinds,
    analysis.argument_size_in_bytes - sum(kinds),
    analysis.temp_size_in_bytes,
    analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
    analysis.generated_code_size_in_bytes,
  )


def state_bytes(state: Any) -> tuple[int, int, int]:
  """Of each device: bytes of a sharded TrainState's parameters, moments, and the rest."""
  moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
  parameters = shard_bytes(state.params)
  return parameters, shard_bytes(moments), shard_bytes(state) - parameters - shard_bytes(moments)


def shard_bytes(tree: Any) -> int:
  """Bytes that one device holds of arrays, or shapes, with shardings."""
  total = 0
  for x in jax.tree.leaves(tree):
    size = x.dtype.itemsize
    for n in x.sharding.shard_shape(x.shape):
      size *= n
    total += size
  return total


def _shorten(message):
  """What of the compiler's pages about a lack of memory is to be told."""
  for pattern, words in (
    (r'Used ([\d.]+[KMGT]) of ([\d.]+[KMGT]) hbm', 'the step needs {}iB of {}iB'),
    (
      r'temporaries \(([\d.]+[KMGT])\) exceeds available HBM \(([\d.]+[KMGT])\)',
      'its temporaries alone need {}iB of {}iB',
    ),
  ):
    if found := re.search(pattern, message):
      return words.format(*found.groups())
  return message.splitlines()[0]


def advice(
  *,
  mesh: Sequence[int],
  state: int,
  available: float,
  remat: str,
  scan: bool,
  batch_size: int,
  accumulate: int,
  moment_dtype: str,
) -> list[str]:
  """What to change in a config that does not fit, the best first, each with its flags.

  Args:
    mesh: devices along (data, fsdp).
    state: bytes of parameters and moments on each device.
    available: bytes of a device's memory.
    remat, scan, batch_size, accumulate, moment_dtype: the config's fields.
  """
  data, fsdp = mesh
  devices, found, times = data * fsdp, [], 1
  while state / times > available / 8 and data % (2 * times) == 0:
    times *= 2
  if times > 1:
    found.append(
      f'--config.parallel=mesh --config.mesh={data // times},{fsdp * times}: parameters '
      f'and moments take {state / times / _GIB:.2f} instead of {state / _GIB:.2f} GiB'
    )
  if remat == 'none':
    found.append(
      '--config.remat=dots: the backward pass computes again all but the products with weights'
    )
  if remat != 'full':
    found.append('--config.remat=full: it computes whole blocks again, a third more work')
  if not scan:
    found.append("--config.scan=True: one block's buffers at a time")
  if batch_size % (devices * accumulate * 2) == 0:
    images = batch_size // devices // accumulate
    found.append(
      f'--config.accumulate={2 * accumulate}: passes of {images // 2} images on each '
      f'chip instead of {images}'
    )
  if moment_dtype == 'float32':
    found.append('--config.moment_dtype=bfloat16: a sixth less of parameters and moments')
  if batch_size % (devices * 2) == 0:
    found.append(f'--config.batch_size={batch_size // 2}, which is another recipe')
  return found + ['a larger slice']
