"""What a compiled program moves, read from its text: between devices, and to and from memory.

The text lists computations; a loop's body stands there once however often it runs, so each
computation is weighed by how often the program comes to it.
"""

from collections.abc import Iterator
import math
import re
from typing import NamedTuple

import numpy as np

BETWEEN_SLICES = 'between slices'
KINDS = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
  BETWEEN_SLICES,
)
# What moves nothing in memory itself: names, views, loops (their bodies do), the ends of copies.
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
_BITS = {'pred': 8, 'token': 0}  # besides those that end in their number of bits
_ARRAY = re.compile(r'(\w+)\[([\d,]*)\](?:\{([^}]*)\})?')


class Collective(NamedTuple):
  """One collective operation, by its channel id."""

  kind: str  # of KINDS
  moved: int  # bytes that a device receives each time, at least
  times: int  # a step
  group: tuple[int, ...]  # the first group of devices that take part, as positions in the mesh;
  # none for what goes between slices


class Program(NamedTuple):
  """What `read_program` finds."""

  collectives: list[Collective]
  memory_bytes: int  # that a device's kernels read and write in its main memory, a step
  unknown_loops: int  # loops whose length the text does not tell: counted once


class _Instruction(NamedTuple):
  name: str
  shape: str
  opcode: str
  inside: str  # the parentheses: operands, or a constant's value
  rest: str  # attributes
  root: bool

  @property
  def operands(self) -> list[str]:
    return re.findall(r'%([\w.\-]+)', self.inside)


_Computations = dict[str, dict[str, _Instruction]]


def read_program(text: str, num_devices: int) -> Program:
  """Reads `jax.stages.Compiled.as_text()` of a program of `num_devices` devices."""
  computations, entry = _parse(text)
  times, unknown_loops = _weigh(computations, entry)
  collectives = {}
  for name, weight in times.items():
    for i in computations[name].values():
      if i.opcode.removesuffix('-start') in KINDS or _between_slices(i):
        found = _collective(i, name, weight, num_devices)
        channel = re.search(r'channel_id=(\d+)', i.rest)
        key = channel[1] if channel else i.name
        # The start, the waits and the end of an asynchronous collective repeat it.
        collectives[key] = max(
          found, collectives.get(key, found), key=lambda c: (c.times * c.moved, c.kind)
        )
  executed = {n: w for n, w in times.items() if n in _executed(computations, entry)}
  traffic = _Traffic(computations)
  moved = sum(weight * traffic.of(name) for name, weight in executed.items())
  return Program(list(collectives.values()), moved, unknown_loops)


def array_bytes(shape: str) -> int:
  """'(bf16[2,3]{1,0}, f32[])' -> 16: the bytes of the arrays in a shape."""
  return sum(_bytes(*found) for found in _ARRAY.findall(shape))


def _bytes(dtype, dims, _layout):
  bits = _BITS.get(dtype)
  if bits is None:  # f8e4m3fn has 8, bf16 16, s4 4
    bits = int(re.match(r'[a-z]+(\d+)', dtype)[1])
  return math.prod(int(n) for n in dims.split(',') if n) * bits // 8


def _parse(text: str) -> tuple[_Computations, str]:
  """The computations by name, in each the instructions by name; and which the program enters."""
  computations, entry, current = {}, '', None
  for line in text.splitlines():
    if line.endswith('{') and (head := re.match(r'(ENTRY )?%?([\w.\-]+) \(', line)):
      current = computations[head[2]] = {}
      entry = head[2] if head[1] else entry
    elif current is not None and (i := _instruction(line)):
      current[i.name] = i
  return computations, entry


def _instruction(line):
  head = re.match(r'  (ROOT )?%?([\w.\-]+) = ', line)
  if not head:
    return None
  rest = line[head.end() :]
  end = _closing(rest, 0) + 1 if rest.startswith('(') else rest.index(' ')
  shape, rest = rest[:end], rest[end:].lstrip()
  opcode, _, rest = rest.partition('(')
  end = _closing('(' + rest, 0) - 1
  return _Instruction(head[2], shape, opcode, rest[:end], rest[end + 1 :], bool(head[1]))


def _closing(text, start):
  """The position of the parenthesis that closes the one at `start`."""
  depth = 0
  for i in range(start, len(text)):
    depth += (text[i] == '(') - (text[i] == ')')
    if not depth:
      return i
  raise ValueError(f'unbalanced parentheses in {text[start : start + 60]!r}')


def _called(i: _Instruction) -> Iterator[tuple[str, str]]:
  """(role, computation) of each computation that an instruction calls."""
  for role, one, several in re.findall(
    r'\b(calls|body|condition|to_apply|true_computation|false_computation|branch_computations|'
    r'called_computations)=(?:%([\w.\-]+)|\{([^}]*)\})',
    i.rest,
  ):
    for name in [one] if one else re.findall(r'%([\w.\-]+)', several):
      yield role, name


def _weigh(computations: _Computations, entry: str) -> tuple[dict[str, int], int]:
  """How often each computation runs in a step; how many loops have an unknown length."""
  times, unknown = {}, 0

  def visit(name, weight):
    nonlocal unknown
    times[name] = times.get(name, 0) + weight
    for i in computations[name].values():
      length = 1
      if i.opcode == 'while':
        length = _length(i, computations)
        unknown += length is None
      for role, called in _called(i):
        if role != 'to_apply' or i.opcode == 'call':  # else the sum or maximum of two numbers
          visit(called, weight * (length or 1))

  visit(entry, 1)
  return times, unknown


def _length(loop: _Instruction, computations: _Computations) -> int | None:
  """How often a loop runs: as the compiler noted, or up to the bound of a count from 0."""
  known = re.search(r'known_trip_count"?[:=]\{"?n"?[:=]"?(\d+)', loop.rest)
  if known:
    return int(known[1])
  condition = computations[dict(_called(loop))['condition']]
  root = next(i for i in condition.values() if i.root)
  if root.opcode == 'compare' and 'direction=LT' in root.rest:
    bound = condition[root.operands[1]]
    if bound.opcode == 'constant' and bound.inside.isdigit():
      return int(bound.inside)
  return None


def _executed(computations: _Computations, entry: str) -> set[str]:
  """The computations whose instructions are kernels of their own, not parts of one."""
  found, new = set(), [entry]
  while new:
    name = new.pop()
    found.add(name)
    new += [
      called
      for i in computations[name].values()
      if i.opcode in ('while', 'conditional', 'call')
      for _, called in _called(i)
    ]
  return found


def _between_slices(i: _Instruction) -> bool:
  """Whether this is the sending half of a sum that a TPU's host takes part in."""
  return i.opcode == 'send' and '_xla_megascale_target' in i.rest


def _collective(i: _Instruction, computation: str, times: int, num_devices: int) -> Collective:
  if _between_slices(i):
    slices = len(re.search(r'_xla_megascale_target="\{([\d,]+)\}', i.rest)[1].split(','))
    size = _bytes(*_ARRAY.search(i.shape).groups())
    return Collective(BETWEEN_SLICES, size * 2 * (slices - 1) // slices, times, ())
  kind, size = i.opcode.removesuffix('-start'), array_bytes(i.shape)
  group = _group(i.rest, num_devices)
  n = len(group)
  if i.opcode == 'all-gather-start':  # its shape is of operand and result
    size = size * n // (n + 1)
  elif i.opcode == 'collective-permute-start':
    size //= 2
  elif kind == 'reduce-scatter':  # in size that of all shards together
    size *= n
  if kind == 'all-reduce' and computation.startswith('all-reduce-scatter'):
    kind = 'reduce-scatter'  # the TPU compiler's way to write it: a kernel of sum and slice
  if kind != 'collective-permute':
    size = size * (n - 1) * (2 if kind == 'all-reduce' else 1) // n
  return Collective(kind, size, times, group)


def _group(attributes: str, num_devices: int) -> tuple[int, ...]:
  """The first of the groups that a collective runs in, in any of the notations."""
  numbers = lambda text: [int(n) for n in re.findall(r'\d+', text)]
  if pairs := re.search(r'source_target_pairs=\{\{([\d,]+)\}', attributes):
    return tuple(numbers(pairs[1]))
  if lists := re.search(r'replica_groups=\{\{([\d,]+)\}', attributes):
    return tuple(numbers(lists[1]))
  iota = r'\[([\d,]+)\](?:T\(([\d,]+)\))?'
  if table := re.search(r'replica_groups=\[([\d,]+)\]<=' + iota, attributes):
    return tuple(_iota(table[2], table[3]).reshape(numbers(table[1]))[0].tolist())
  mesh = re.search(
    r'replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(' + iota + r'\))? \{([^}]*)\}', attributes
  )
  if not mesh:
    return tuple(range(num_devices))
  sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
  ids = (_iota(mesh[2], mesh[3]) if mesh[2] else np.arange(num_devices)).reshape(
    list(sizes.values())
  )
  # An axis taken in part, 'name':(inner)size, is one whose parts are axes of their own.
  index = []
  parts = {
    name: (int(before), int(n))
    for name, before, n in re.findall(r"'(\w+)':\((\d+)\)(\d+)", mesh[4])
  }
  for axis, name in enumerate(sizes):
    if name in parts:
      before, n = parts[name]
      step = sizes[name] // (before * n)
      index.append(np.arange(n) * step)
    else:
      index.append(np.arange(sizes[name]) if f"'{name}'" in mesh[4] else np.zeros(1, int))
  return tuple(ids[np.ix_(*index)].ravel().tolist())


def _iota(dims, transposed):
  dims = [int(n) for n in dims.split(',')]
  ids = np.arange(math.prod(dims)).reshape(dims)
  return ids.transpose([int(n) for n in transposed.split(',')]) if transposed else ids


class _Traffic:
  """Bytes between a device's kernels and its main memory.

  Every kernel is taken to read each operand and to write each result once, but for those that
  take a slice out of an array or put one into it. Memory spaces other than the main one, S(1),
  are left out, and so are results that are written over an operand and merely passed on.
  """

  def __init__(self, computations: _Computations):
    self._computations = computations

  def of(self, name: str) -> int:
    """Of the kernels of a computation, once."""
    computation = self._computations[name]
    return sum(self._kernel(i, computation) for i in computation.values())

  def _kernel(self, i, computation):
    if (
      i.opcode in _FREE
      or i.opcode.endswith('-done')
      or any(f'"{call}"' in i.rest for call in _FREE_CALLS)
    ):
      return 0
    shapes = [computation[name].shape for name in i.operands]
    if i.opcode == 'slice-start':  # ((operand), result, a semaphore)
      result = _ARRAY.findall(i.shape)[1]
      return _bytes(*result) + (0 if 'S(' in result[2] else _bytes(*result))
    if i.opcode in ('send', 'recv') or (
      i.opcode.endswith('-start') and i.shape.startswith('(')
    ):  # what is read and what written
      return _main_memory(i.shape)
    if i.opcode in ('dynamic-slice', 'slice', 'gather'):
      return _main_memory(i.shape) + (array_bytes(i.shape) if _main_memory(shapes[0]) else 0)
    if i.opcode == 'dynamic-update-slice':
      return _main_memory(shapes[1]) + (array_bytes(shapes[1]) if _main_memory(i.shape) else 0)
    if i.opcode == 'fusion':
      return self._fusion(i, shapes)
    return _main_memory(i.shape) + sum(map(_main_memory, shapes))

  def _fusion(self, i, shapes):
    called = self._computations[dict(_called(i))['calls']]
    passed_on = re.findall(
      r'\{(\d*)\}: \((\d+)',
      i.rest.partition('output_to_operand_aliasing=')[2].partition(', calls=')[0],
    )
    root = next(r for r in called.values() if r.root)
    results = root.operands if root.opcode == 'tuple' else [root.name]
    leaves = _ARRAY.findall(i.shape)
    written = sum(
      self._written(called, result, leaf)
      for n, (result, leaf) in enumerate(zip(results, leaves))
      if str(n) not in {out for out, _ in passed_on}
    )
    parameters = {int(p.inside): p.name for p in called.values() if p.opcode == 'parameter'}
    read = sum(
      min(_main_memory(shape), self._read(called, parameters[n]))
      for n, shape in enumerate(shapes)
      if _main_memory(shape)
    )
    return written + read

  def _written(self, called, name, leaf):
    """Bytes of a result of a fused computation; of what is put into an array, that alone."""
    if 'S(' in leaf[2]:
      return 0
    while (i := called[name]).opcode in ('bitcast', 'convert', 'fusion'):
      if i.opcode == 'fusion':
        called = self._computations[dict(_called(i))['calls']]
        name = next(r.name for r in called.values() if r.root)
      else:
        name = i.operands[0]
    if i.opcode == 'dynamic-update-slice':
      return array_bytes(called[i.operands[1]].shape)
    return 0 if i.opcode == 'parameter' else _bytes(*leaf)

  def _read(self, called, name):
    """Bytes of a parameter that a fused computation looks at; all of them unless it slices."""
    total = 0
    for user in called.values():
      if name not in user.operands:
        continue
      if user.opcode in ('dynamic-slice', 'slice', 'gather'):
        total += array_bytes(user.shape)
      elif user.opcode == 'bitcast':
        total += self._read(called, user.name)
      elif user.opcode == 'dynamic-update-slice' and user.operands[0] == name:
        continue
      elif user.opcode == 'fusion':
        inner = self._computations[dict(_called(user))['calls']]
        total += sum(
          self._read(inner, p.name)
          for p in inner.values()
          if p.opcode == 'parameter' and user.operands[int(p.inside)] == name
        )
      else:
        total += array_bytes(called[name].shape)
    return total


def _main_memory(shape):
  """Bytes of the arrays of a shape that lie in the main memory."""
  return sum(_bytes(*array) for array in _ARRAY.findall(shape) if 'S(' not in array[2])
