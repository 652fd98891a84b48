"""Count the bytes that training holds in memory: of a whole state, and of each device."""

import math
from typing import Any, NamedTuple

import jax

from vit_jax.training.step import TrainState


class StateBytes(NamedTuple):
  """Bytes of a TrainState on each device."""

  parameters: int
  moments: int
  rest_of_the_state: int  # step counts


class DeviceMemory(NamedTuple):
  """Bytes on each device while a step runs."""

  parameters: int
  moments: int
  rest_of_the_state: int  # step counts
  batch: int
  padding: int  # added to the fields above by the device's memory layout
  temporaries: int  # activations, gradients, gathered parameters
  outputs: int  # results that do not reuse an input buffer, such as metrics
  code: int

  @property
  def total(self) -> int:
    """The sum of all fields."""
    return sum(self)


def tree_bytes(tree: Any) -> int:
  """Return the bytes of a tree of arrays or their shapes.

  For an array with a sharding, only the share of one device counts.
  """
  total = 0
  for x in jax.tree.leaves(tree):
    sharding = getattr(x, 'sharding', None)
    shape = sharding.shard_shape(x.shape) if sharding else x.shape
    total += x.dtype.itemsize * math.prod(shape)
  return total


def state_bytes(state: TrainState) -> StateBytes:
  """Return what a sharded state, or its shapes, takes on each device."""
  parameters = tree_bytes(state.params)
  moments = tree_bytes([x for x in jax.tree.leaves(state.opt_state) if x.ndim])
  return StateBytes(parameters, moments, tree_bytes(state) - parameters - moments)


def device_memory(analysis: Any, state: TrainState, batch: Any) -> DeviceMemory:
  """Return the compiler's figures, with the arguments split into their kinds.

  Args:
    analysis: from jax.stages.Compiled.memory_analysis().
    state: the shapes of the state that the step was compiled for, with shardings.
    batch: the same for the batch.
  """
  state_kinds, batch_size = state_bytes(state), tree_bytes(batch)
  # Arguments that the step does not use are not passed, such as 'example' without dropout.
  padding = max(0, analysis.argument_size_in_bytes - sum(state_kinds) - batch_size)
  return DeviceMemory(
    *state_kinds,
    batch=batch_size,
    padding=padding,
    temporaries=analysis.temp_size_in_bytes,
    outputs=analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
    code=analysis.generated_code_size_in_bytes,
  )
