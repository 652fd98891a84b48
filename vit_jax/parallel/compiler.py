"""Compile train and eval steps with options of the XLA compiler."""

from collections.abc import Callable
import functools
from typing import Any

import jax


@functools.cache
def compiler_options(platform: str) -> dict[str, str | bool]:
  """Return the options to compile a step with, beyond XLA's defaults. Only 'cpu' has any.

  On CPUs, XLA leaves float32 products and reductions to YNNPACK. XLA's own products (Eigen) are
  faster, but its own reductions are slower (see RESULTS.md), so YNNPACK is kept for reductions.

  Args:
    platform: name of the backend, such as 'cpu'.
  """
  if platform != 'cpu':
    return {}
  options: dict[str, str | bool] = {
    'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_REDUCE'
  }
  try:
    jax.jit(lambda: 0).lower().compile(compiler_options=options)
  except jax.errors.JaxRuntimeError:  # this version of the compiler does not have the option
    return {}
  return options


def compile_with(pmapped: Any, options: dict[str, str | bool]) -> Callable[..., Any]:
  """Return a pmapped function that compiles with options, which jax.pmap itself does not take.

  Args:
    pmapped: the function that jax.pmap returned. All calls must pass arguments of the same shapes.
    options: options of the compiler.
  """
  # With several processes, a compiled pmap would take each process's batch for the global one.
  if not options or jax.process_count() > 1:
    return pmapped
  compiled = None

  def call(*args: Any) -> Any:
    nonlocal compiled
    compiled = compiled or pmapped.lower(*args).compile(compiler_options=options)
    return compiled(*args)

  return call
