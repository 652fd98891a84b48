"""Count the bytes that a compiled program moves: between devices, and to and from memory."""

from collections.abc import Sequence
import re
from typing import NamedTuple

from vit_jax.cost import hlo
from vit_jax.cost.collectives import Collective, find_collectives
from vit_jax.cost.hlo import ArrayShape, Computation, Instruction, array_bytes

# Instructions that move nothing in memory themselves: names, views, loops (their bodies do) and
# the ends of copies.
_FREE = {
  'parameter',
  'constant',
  'tuple',
  'get-tuple-element',
  'bitcast',
  'while',
  'conditional',
  'call',
  'partition-id',
  'replica-id',
  'after-all',
  'opt-barrier',
  'add-dependency',
}
_FREE_CALLS = ('AllocateBuffer', 'ConcatBitcast', 'AsyncCollectiveStart', 'AsyncCollectiveDone')
_SLICES = ('dynamic-slice', 'slice', 'gather')


class Traffic(NamedTuple):
  """The data that a program moves in one step."""

  collectives: list[Collective]
  memory_bytes: int  # bytes that the kernels of a device read and write in its main memory
  unknown_loops: int  # loops of unknown length, each counted as one turn


def count_traffic(text: str, num_devices: int) -> Traffic:
  """Count the bytes that a step moves.

  Args:
    text: the program, from `jax.stages.Compiled.as_text()`.
    num_devices: number of devices that it was compiled for.
  """
  program = hlo.parse_program(text)
  runs, unknown_loops = hlo.count_runs(program)
  kernels = hlo.kernel_computations(program)
  memory = _MemoryTraffic(program)
  memory_bytes = sum(times * memory.count(name) for name, times in runs.items() if name in kernels)
  return Traffic(find_collectives(program, runs, num_devices), memory_bytes, unknown_loops)


class _MemoryTraffic:
  """Count the bytes between the kernels of a device and its main memory.

  A kernel is taken to read each operand and to write each result once. Kernels that take a slice
  out of an array, or put one into it, only move the slice. Arrays outside the main memory do not
  count, nor do results that reuse the buffer of an operand without a change.
  """

  def __init__(self, program: hlo.Program):
    self._computations = program.computations

  def count(self, name: str) -> int:
    """Count the bytes that the kernels of a computation move when it runs once."""
    computation = self._computations[name]
    return sum(self._kernel(i, computation) for i in computation.values())

  def _kernel(self, i: Instruction, computation: Computation) -> int:
    if _is_free(i):
      return 0
    shapes = [computation[name].shape for name in i.operands]
    if i.opcode == 'slice-start':  # the shape is ((operand), result, semaphore)
      result = i.arrays[1]
      return result.bytes * (1 + result.in_main_memory)
    if i.opcode in ('send', 'recv') or (i.opcode.endswith('-start') and i.shape.startswith('(')):
      return _main_memory(i.shape)  # the shape has what is read and what is written
    if i.opcode in _SLICES:
      return _main_memory(i.shape) + (array_bytes(i.shape) if _main_memory(shapes[0]) else 0)
    if i.opcode == 'dynamic-update-slice':
      return _main_memory(shapes[1]) + (array_bytes(shapes[1]) if _main_memory(i.shape) else 0)
    if i.opcode == 'fusion':
      return self._fusion(i, shapes)
    return _main_memory(i.shape) + sum(map(_main_memory, shapes))

  def _fusion(self, i: Instruction, shapes: Sequence[str]) -> int:
    fused = self._fused(i)
    aliases = i.attributes.partition('output_to_operand_aliasing=')[2].partition(', calls=')[0]
    passed_on = {output for output, _ in re.findall(r'\{(\d*)\}: \((\d+)', aliases)}
    root = hlo.root_of(fused)
    results = root.operands if root.opcode == 'tuple' else [root.name]
    written = sum(
      self._written(fused, result, array)
      for n, (result, array) in enumerate(zip(results, i.arrays))
      if str(n) not in passed_on
    )
    parameters = {int(p.arguments): p.name for p in fused.values() if p.opcode == 'parameter'}
    read = sum(
      min(_main_memory(shape), self._read(fused, parameters[n]))
      for n, shape in enumerate(shapes)
      if _main_memory(shape)
    )
    return written + read

  def _fused(self, fusion: Instruction) -> Computation:
    return self._computations[dict(fusion.calls())['calls']]

  def _written(self, fused: Computation, name: str, array: ArrayShape) -> int:
    """Count the bytes that a fused computation writes for one result."""
    if not array.in_main_memory:
      return 0
    while (i := fused[name]).opcode in ('bitcast', 'convert', 'fusion'):
      if i.opcode == 'fusion':
        fused = self._fused(i)
        name = hlo.root_of(fused).name
      else:
        name = i.operands[0]
    if i.opcode == 'dynamic-update-slice':
      return array_bytes(fused[i.operands[1]].shape)
    return 0 if i.opcode == 'parameter' else array.bytes

  def _read(self, fused: Computation, name: str) -> int:
    """Count the bytes of a parameter that a fused computation reads."""
    total = 0
    for user in fused.values():
      if name not in user.operands:
        continue
      if user.opcode in _SLICES:
        total += array_bytes(user.shape)
      elif user.opcode == 'bitcast':
        total += self._read(fused, user.name)
      elif user.opcode == 'dynamic-update-slice' and user.operands[0] == name:
        continue
      elif user.opcode == 'fusion':
        inner = self._fused(user)
        total += sum(
          self._read(inner, p.name)
          for p in inner.values()
          if p.opcode == 'parameter' and user.operands[int(p.arguments)] == name
        )
      else:
        total += array_bytes(fused[name].shape)
    return total


def _is_free(i: Instruction) -> bool:
  return (
    i.opcode in _FREE
    or i.opcode.endswith('-done')
    or any(f'"{call}"' in i.attributes for call in _FREE_CALLS)
  )


def _main_memory(shape: str) -> int:
  """Return the size of the arrays in a shape that lie in the main memory."""
  return sum(array.bytes for array in hlo.arrays_of(shape) if array.in_main_memory)
