"""Count the vector operations of a compiled program: all arithmetic except matrix products.

A TPU computes them in its vector unit, which runs at the same time as the matrix units. So they are
a bound of their own on the time of a step. The count is a lower bound. It leaves out:

- loads, stores, and moving elements between lanes: transposes, slices, concatenations, gathers
- lanes that hold padding, as when 197 positions take two vectors of 128 lanes
- what a kernel computes more than once, such as the producer of an operand that a matrix product
  reads several times
- the unit for transcendental functions, which starts one vector per cycle
- sorting, and all that a custom kernel computes (how many such kernels run is reported)
"""

import math
import re
from typing import NamedTuple

from vit_jax.cost import hlo
from vit_jax.cost.hlo import Computation, Instruction, Program

# The instructions that the vector ALUs of a TPU execute for an operation on a vector of 32-bit
# elements: the fewest that the compiler (libtpu 0.0.50) writes for v5e and v6e. It lists them with
# LIBTPU_INIT_ARGS='--xla_jf_dump_to=DIR --xla_jf_dump_llo_text=true'. 7x is like v6e. v5e takes 14
# for a division and 12 for a square root.
WEIGHTS = {
  'abs': 1,
  'add': 1,
  'and': 1,
  'ceil': 1,
  'clamp': 1,
  'compare': 1,
  'convert': 1,
  'cosine': 95,
  'count-leading-zeros': 1,
  'divide': 2,
  'erf': 1,
  'exponential': 2,
  'exponential-minus-one': 9,
  'floor': 1,
  'is-finite': 1,
  'log': 2,
  'log-plus-one': 9,
  'logistic': 4,
  'maximum': 1,
  'minimum': 1,
  'multiply': 1,
  'negate': 1,
  'not': 1,
  'or': 1,
  'popcnt': 1,
  'power': 41,
  'reduce-precision': 1,
  'remainder': 290,
  'round-nearest-afz': 1,
  'round-nearest-even': 1,
  'rsqrt': 1,
  'select': 1,
  'shift-left': 1,
  'shift-right-arithmetic': 1,
  'shift-right-logical': 1,
  'sign': 7,
  'sine': 95,
  'sqrt': 7,
  'subtract': 1,
  'tan': 95,
  'tanh': 1,
  'xor': 1,
}
_REDUCTIONS = ('reduce', 'reduce-window', 'select-and-scatter', 'scatter', 'map')
_CUSTOM_KERNELS = re.compile(
  r'custom_call_target="(tpu_custom_call|__gpu\$xla\.gpu\.triton|__cudnn\$fmha)'
)


class VectorWork(NamedTuple):
  """The vector operations of one device in a step."""

  operations: float  # on elements of 32 bits; one on 16 bits or fewer counts half
  custom_kernels: int  # kernels whose work is not known, such as Pallas's, each time that they run


def count_vector_work(text: str) -> VectorWork:
  """Count the vector operations of a step.

  Args:
    text: the program, from `jax.stages.Compiled.as_text()`.
  """
  program = hlo.parse_program(text)
  runs, _ = hlo.count_runs(program)
  operations, kernels = 0.0, 0
  for name, times in runs.items():
    computation = program.computations[name]
    operations += times * _operations(computation, program)
    kernels += times * sum(map(_is_custom_kernel, computation.values()))
  return VectorWork(operations, kernels)


def _operations(computation: Computation, program: Program) -> float:
  varying: dict[str, frozenset[int]] = {}
  total = 0.0
  for i in computation.values():
    varying[i.name] = _varying(i, computation, varying)
    if i.opcode in WEIGHTS:
      total += _elementwise_operations(i, computation, varying)
    elif i.opcode in _REDUCTIONS:
      total += _reduction_operations(i, computation, program)
    elif i.opcode == 'rng-bit-generator':  # by the hardware, in one instruction
      total += sum(math.prod(array.sizes) for array in i.arrays)
  return total


def _varying(
  i: Instruction, computation: Computation, varying: dict[str, frozenset[int]]
) -> frozenset[int]:
  """Return the dimensions along which the elements of a result may differ.

  Arithmetic on the others is done once, not for every element.
  """
  if i.opcode == 'broadcast':
    return frozenset(_numbers('dimensions', i)[d] for d in varying[i.operands[0]])
  if i.opcode == 'iota':
    return frozenset(_numbers('iota_dimension', i))
  rank = len(i.arrays[0].sizes) if i.arrays else 0
  if i.opcode in WEIGHTS:
    # An operand without dimensions, as select and clamp take, is the same for all elements.
    return frozenset().union(*(varying[name] for name in i.operands if computation[name].arrays))
  return frozenset(range(rank))


def _numbers(attribute: str, i: Instruction) -> list[int]:
  found = re.search(rf'\b{attribute}=\{{?([\d,]*)', i.attributes)
  return [int(n) for n in re.findall(r'\d+', found[1])] if found else []


def _elementwise_operations(
  i: Instruction, computation: Computation, varying: dict[str, frozenset[int]]
) -> float:
  result = i.arrays[0]
  count = lambda dims: math.prod(result.sizes[d] for d in dims)
  weight = WEIGHTS[i.opcode]
  if i.opcode == 'compare':  # its result has one bit
    result = computation[i.operands[0]].arrays[0]
  packing = 0.5 if result.bits <= 16 else 1
  if i.opcode == 'divide':  # by the reciprocal, which takes all but one of the instructions
    return packing * ((weight - 1) * count(varying[i.operands[1]]) + count(varying[i.name]))
  return packing * weight * count(varying[i.name])


def _reduction_operations(i: Instruction, computation: Computation, program: Program) -> float:
  """Count what combines the elements, once for each element of the first operand."""
  names = re.findall(r'\bto_apply=%([\w.\-]+)', i.attributes)
  combine = sum(
    WEIGHTS.get(x.opcode, 0) for name in names for x in program.computations[name].values()
  )
  # A scatter combines its updates, the last operand, with elements of the first.
  operand = computation[i.operands[-1 if i.opcode == 'scatter' else 0]].arrays[0]
  return combine * math.prod(operand.sizes) * (0.5 if operand.bits <= 16 else 1)


def _is_custom_kernel(i: Instruction) -> bool:
  return i.opcode == 'custom-call' and bool(_CUSTOM_KERNELS.search(i.attributes))
