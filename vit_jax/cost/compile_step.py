"""Compile a train step for devices that are not attached, and report the memory it takes."""

from collections.abc import Mapping
import re
import time
from typing import Any, NamedTuple

import jax

from vit_jax.cost.memory import DeviceMemory, device_memory
from vit_jax.parallel.mesh import MeshPartitioner
from vit_jax.training.step import TrainState

_GIB = 2**30
# Short forms of the compiler's messages about a lack of memory, which go on for pages.
_SHORT_MESSAGES = (
  (r'Used ([\d.]+[KMGT]) of ([\d.]+[KMGT]) hbm', 'it needs {}iB of {}iB'),
  (
    r'temporaries \(([\d.]+[KMGT])\) exceeds available HBM \(([\d.]+[KMGT])\)',
    'its temporaries alone need {}iB of {}iB',
  ),
)


class OutOfMemory(Exception):
  """Raised when a step does not fit in device memory. Carries the compiler's message, shortened."""


class CompiledStep(NamedTuple):
  """A train step, compiled."""

  compiled: jax.stages.Compiled
  memory: DeviceMemory
  seconds: float  # time that compiling took


def compile_step(
  partitioner: MeshPartitioner,
  step: Any,
  state: TrainState,
  *,
  image_size: int,
  batch_size: int,
  available: float,
  compiler_options: Mapping[str, Any],
) -> CompiledStep:
  """Compile a train step for the devices of a mesh.

  Args:
    partitioner: made for the devices.
    step: from `make_train_step`.
    state: the shapes of the TrainState.
    image_size: side of the images, in pixels.
    batch_size: images per step, over all devices.
    available: bytes of memory of one device.
    compiler_options: the options of the topology.

  Raises:
    OutOfMemory: the step does not fit.
  """
  start = time.perf_counter()
  state = partitioner.with_shardings(state)
  batch = batch_shapes(partitioner, image_size, batch_size)
  try:
    with jax.set_mesh(partitioner.mesh):
      lowered = partitioner.jit_train_step(step, state).lower(state, batch)
      compiled = lowered.compile(dict(compiler_options))
  except jax.errors.JaxRuntimeError as e:
    if 'RESOURCE_EXHAUSTED' not in str(e):
      raise
    raise OutOfMemory(shorten(str(e))) from e
  memory = device_memory(compiled.memory_analysis(), state, batch)
  if memory.total > available:  # the CUDA compiler leaves this check to the allocator
    raise OutOfMemory(f'it needs {memory.total / _GIB:.2f} of {available / _GIB:.2f} GiB')
  return CompiledStep(compiled, memory, time.perf_counter() - start)


def batch_shapes(
  partitioner: MeshPartitioner, image_size: int, batch_size: int
) -> dict[str, jax.ShapeDtypeStruct]:
  """Return the shapes of a global batch that is split across all devices."""
  sharding = partitioner.batch_sharding
  shape = lambda dims, dtype: jax.ShapeDtypeStruct((batch_size, *dims), dtype, sharding=sharding)
  return {
    'image': shape((image_size, image_size, 3), 'uint8'),
    'label': shape((), 'int32'),
    'mask': shape((), 'bool'),
    'example': shape((), 'int32'),
  }


def shorten(message: str) -> str:
  """Return the part that a user needs of a message about a lack of memory."""
  for pattern, text in _SHORT_MESSAGES:
    if match := re.search(pattern, message):
      return text.format(*match.groups())
  return message.splitlines()[0]
