"""Parse the text of a compiled XLA program into computations and their instructions.

The text lists the body of a loop once, however often the loop runs. `count_runs` works out how
often a step runs each computation.
"""

from collections.abc import Iterator
import math
import re
from typing import NamedTuple

_BITS = {'pred': 8, 'token': 0}  # the other types end in their number of bits
_ARRAY = re.compile(r'(\w+)\[([\d,]*)\](?:\{([^}]*)\})?')
_CALLS = re.compile(
  r'\b(calls|body|condition|to_apply|true_computation|false_computation|branch_computations|'
  r'called_computations)=(?:%([\w.\-]+)|\{([^}]*)\})'
)


class ArrayShape(NamedTuple):
  """An array in a shape such as '(bf16[2,3]{1,0}, f32[])'."""

  dtype: str
  dims: str
  layout: str

  @property
  def sizes(self) -> tuple[int, ...]:
    """The size of each dimension."""
    return tuple(int(n) for n in self.dims.split(',') if n)

  @property
  def bits(self) -> int:
    """The number of bits of an element."""
    bits = _BITS.get(self.dtype)
    if bits is None:  # f8e4m3fn has 8, bf16 16, s4 4
      bits = int(search(r'^[a-z]+(\d+)', self.dtype)[1])
    return bits

  @property
  def bytes(self) -> int:
    """The size of the array."""
    return math.prod(self.sizes) * self.bits // 8

  @property
  def in_main_memory(self) -> bool:
    """True unless the array lies in another memory space, such as S(1)."""
    return 'S(' not in self.layout


class Instruction(NamedTuple):
  """One line of a computation."""

  name: str
  shape: str
  opcode: str
  arguments: str  # the text in parentheses: operands, or the value of a constant
  attributes: str
  is_root: bool

  @property
  def operands(self) -> list[str]:
    """The names of the instructions whose results this one takes."""
    return re.findall(r'%([\w.\-]+)', self.arguments)

  @property
  def arrays(self) -> list[ArrayShape]:
    """The arrays of the result."""
    return arrays_of(self.shape)

  def calls(self) -> Iterator[tuple[str, str]]:
    """Yield (role, computation) for each computation that the instruction calls."""
    for role, one, several in _CALLS.findall(self.attributes):
      for name in [one] if one else re.findall(r'%([\w.\-]+)', several):
        yield role, name


Computation = dict[str, Instruction]


class Program(NamedTuple):
  """A parsed program: its computations by name, and the name of the one where it starts."""

  computations: dict[str, Computation]
  entry: str


def arrays_of(shape: str) -> list[ArrayShape]:
  """Return the arrays in a shape."""
  return [ArrayShape(*groups) for groups in _ARRAY.findall(shape)]


def array_bytes(shape: str) -> int:
  """Return the size of all arrays in a shape: '(bf16[2,3]{1,0}, f32[])' -> 16."""
  return sum(array.bytes for array in arrays_of(shape))


def root_of(computation: Computation) -> Instruction:
  """Return the instruction whose result is the result of the computation."""
  return next(i for i in computation.values() if i.is_root)


def search(pattern: str, text: str) -> re.Match[str]:
  """Return the first match of a pattern that the text must contain.

  Raises:
    ValueError: the text does not contain it, so the compiler writes programs in an unknown way.
  """
  match = re.search(pattern, text)
  if not match:
    raise ValueError(f'Cannot read the compiled program: no {pattern!r} in {text[:200]!r}.')
  return match


def parse_program(text: str) -> Program:
  """Parse the text that `jax.stages.Compiled.as_text()` returns."""
  computations: dict[str, Computation] = {}
  entry, current = '', None
  for line in text.splitlines():
    if line.endswith('{') and (head := re.match(r'(ENTRY )?%?([\w.\-]+) \(', line)):
      current = computations[head[2]] = {}
      entry = head[2] if head[1] else entry
    elif current is not None and (instruction := _parse_instruction(line)):
      current[instruction.name] = instruction
  return Program(computations, entry)


def _parse_instruction(line: str) -> Instruction | None:
  head = re.match(r'  (ROOT )?%?([\w.\-]+) = ', line)
  if not head:
    return None
  rest = line[head.end() :]
  end = _closing_parenthesis(rest) + 1 if rest.startswith('(') else rest.index(' ')
  shape, rest = rest[:end], rest[end:].lstrip()
  opcode, _, rest = rest.partition('(')
  end = _closing_parenthesis('(' + rest) - 1
  return Instruction(head[2], shape, opcode, rest[:end], rest[end + 1 :], bool(head[1]))


def _closing_parenthesis(text: str) -> int:
  """Return the position of the parenthesis that closes the one at the start of the text."""
  depth = 0
  for i, character in enumerate(text):
    depth += (character == '(') - (character == ')')
    if not depth:
      return i
  raise ValueError(f'Unbalanced parentheses in {text[:60]!r}.')


def count_runs(program: Program) -> tuple[dict[str, int], int]:
  """Return how often a step runs each computation, and how many loops have an unknown length.

  A loop of unknown length counts as one turn.
  """
  runs: dict[str, int] = {}
  unknown = 0

  def visit(name: str, times: int) -> None:
    nonlocal unknown
    runs[name] = runs.get(name, 0) + times
    for instruction in program.computations[name].values():
      turns = 1
      if instruction.opcode == 'while':
        turns = _loop_length(instruction, program)
        unknown += turns is None
      for role, called in instruction.calls():
        # `to_apply` otherwise names the sum or maximum of two numbers.
        if role != 'to_apply' or instruction.opcode == 'call':
          visit(called, times * (turns or 1))

  visit(program.entry, 1)
  return runs, unknown


def _loop_length(loop: Instruction, program: Program) -> int | None:
  """Return how often a loop runs.

  The compiler notes it, or the loop counts from 0 to a constant. Returns None if neither holds.
  """
  known = re.search(r'known_trip_count"?[:=]\{"?n"?[:=]"?(\d+)', loop.attributes)
  if known:
    return int(known[1])
  condition = program.computations[dict(loop.calls())['condition']]
  root = root_of(condition)
  if root.opcode == 'compare' and 'direction=LT' in root.attributes:
    bound = condition[root.operands[1]]
    if bound.opcode == 'constant' and bound.arguments.isdigit():
      return int(bound.arguments)
  return None


def kernel_computations(program: Program) -> set[str]:
  """Return the computations whose instructions run as kernels of their own, not inside another."""
  names, todo = set(), [program.entry]
  while todo:
    name = todo.pop()
    names.add(name)
    todo += [
      called
      for instruction in program.computations[name].values()
      if instruction.opcode in ('while', 'conditional', 'call')
      for _, called in instruction.calls()
    ]
  return names
