"""Sum the cycles that the TPU compiler itself estimates for the kernels of a step.

The compiler schedules by these estimates. They include what the bounds of the roofline leave out,
such as waiting for operands, padding and moving elements between lanes, but neither collectives nor
kernels that run at the same time. They help to compare two programs, not to predict a step.
"""

import re

from vit_jax.cost import hlo

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


def count_estimated_cycles(text: str) -> int:
  """Return the estimated cycles of all kernels in a step, or 0 if the compiler does not say any.

  Args:
    text: the program, from `jax.stages.Compiled.as_text()`.
  """
  program = hlo.parse_program(text)
  runs, _ = hlo.count_runs(program)
  kernels = hlo.kernel_computations(program)
  return sum(
    times * int(cycles)
    for name, times in runs.items()
    if name in kernels
    for instruction in program.computations[name].values()
    for cycles in _CYCLES.findall(instruction.attributes)
  )
