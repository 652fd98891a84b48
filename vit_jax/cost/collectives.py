"""Read from a compiled program which collectives it runs and how many bytes they move."""

import math
import re
from typing import NamedTuple

import numpy as np

from vit_jax.cost.hlo import Instruction, Program, array_bytes, search

BETWEEN_SLICES = 'between slices'
KINDS = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
  BETWEEN_SLICES,
)
_IOTA = r'\[([\d,]+)\](?:T\(([\d,]+)\))?'


class Collective(NamedTuple):
  """One collective operation."""

  kind: str  # one of KINDS
  bytes_moved: int  # lower bound of the bytes that a device receives each time
  times: int  # per step
  # Positions in the mesh of the first group of devices that take part. Empty between slices.
  group: tuple[int, ...]


def find_collectives(program: Program, runs: dict[str, int], num_devices: int) -> list[Collective]:
  """Return the collectives of a program.

  Args:
    program: from `hlo.parse_program`.
    runs: how often a step runs each computation, from `hlo.count_runs`.
    num_devices: number of devices that the program was compiled for.
  """
  by_channel: dict[str, Collective] = {}
  for name, times in runs.items():
    for instruction in program.computations[name].values():
      if not _is_collective(instruction):
        continue
      collective = _read_collective(instruction, name, times, num_devices)
      channel = re.search(r'channel_id=(\d+)', instruction.attributes)
      key = channel[1] if channel else instruction.name
      # The start, the waits and the end of an asynchronous collective share a channel.
      by_channel[key] = max(collective, by_channel.get(key, collective), key=_total_bytes)
  return list(by_channel.values())


def _total_bytes(collective: Collective) -> tuple[int, str]:
  return collective.times * collective.bytes_moved, collective.kind


def _is_collective(instruction: Instruction) -> bool:
  return instruction.opcode.removesuffix('-start') in KINDS or _is_between_slices(instruction)


def _is_between_slices(instruction: Instruction) -> bool:
  """Return True for the sending half of a sum between slices, which runs over their hosts."""
  return instruction.opcode == 'send' and '_xla_megascale_target' in instruction.attributes


def _read_collective(
  instruction: Instruction, computation: str, times: int, num_devices: int
) -> Collective:
  if _is_between_slices(instruction):
    targets = search(r'_xla_megascale_target="\{([\d,]+)\}', instruction.attributes)
    slices = len(targets[1].split(','))
    size = instruction.arrays[0].bytes
    return Collective(BETWEEN_SLICES, size * 2 * (slices - 1) // slices, times, ())
  kind, size = instruction.opcode.removesuffix('-start'), array_bytes(instruction.shape)
  group = _read_group(instruction.attributes, num_devices)
  n = len(group)
  if instruction.opcode == 'all-gather-start':  # the shape has the operand and the result
    size = size * n // (n + 1)
  elif instruction.opcode == 'collective-permute-start':
    size //= 2
  elif kind == 'reduce-scatter':  # the shape is that of one shard
    size *= n
  if kind == 'all-reduce' and computation.startswith('all-reduce-scatter'):
    kind = 'reduce-scatter'  # the TPU compiler writes it as a kernel that sums and slices
  if kind != 'collective-permute':
    size = size * (n - 1) * (2 if kind == 'all-reduce' else 1) // n
  return Collective(kind, size, times, group)


def _read_group(attributes: str, num_devices: int) -> tuple[int, ...]:
  """Return the first group of devices of a collective, in whichever notation it is written."""
  if pairs := re.search(r'source_target_pairs=\{\{([\d,]+)\}', attributes):
    return tuple(_numbers(pairs[1]))
  if lists := re.search(r'replica_groups=\{\{([\d,]+)\}', attributes):
    return tuple(_numbers(lists[1]))
  if table := re.search(r'replica_groups=\[([\d,]+)\]<=' + _IOTA, attributes):
    return tuple(_iota(table[2], table[3]).reshape(_numbers(table[1]))[0].tolist())
  mesh = re.search(
    r'replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(' + _IOTA + r'\))? \{([^}]*)\}', attributes
  )
  if not mesh:
    return tuple(range(num_devices))
  sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
  ids = _iota(mesh[2], mesh[3]) if mesh[2] else np.arange(num_devices)
  index = _mesh_index(sizes, mesh[4])
  return tuple(ids.reshape(list(sizes.values()))[np.ix_(*index)].ravel().tolist())


def _mesh_index(sizes: dict[str, int], axes: str) -> list[np.ndarray]:
  """Return the positions of a group's devices along each axis of a mesh.

  Args:
    sizes: number of devices along each axis.
    axes: the axes that the group covers, as written in the program. 'name':(before)size is one
      part of an axis that is split into parts, of which those to the left have `before` devices.
  """
  parts = {
    name: (int(before), int(n)) for name, before, n in re.findall(r"'(\w+)':\((\d+)\)(\d+)", axes)
  }
  index = []
  for name, size in sizes.items():
    if name in parts:
      before, n = parts[name]
      index.append(np.arange(n) * (size // (before * n)))
    else:
      index.append(np.arange(size) if f"'{name}'" in axes else np.zeros(1, int))
  return index


def _numbers(text: str) -> list[int]:
  return [int(n) for n in re.findall(r'\d+', text)]


def _iota(dims: str, order: str | None) -> np.ndarray:
  """Return 0, 1, 2, ... as an array of the given shape, its axes transposed to `order`."""
  shape = _numbers(dims)
  ids = np.arange(math.prod(shape)).reshape(shape)
  return ids.transpose(_numbers(order)) if order else ids
