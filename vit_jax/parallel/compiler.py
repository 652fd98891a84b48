"""Options that the compiler gets for the steps."""

from collections.abc import Callable
import functools
from typing import Any

import jax


@functools.cache
def compiler_options(platform: str) -> dict[str, str]:
  """What the compiler is told for the steps, beyond its defaults; for 'cpu' alone there is any.

  There XLA leaves float32 products and reductions to YNNPACK. Its own products (Eigen) are
  faster, its own reductions are not: see RESULTS.md.
  """
  if platform != 'cpu':
    return {}
  options = {'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_REDUCE'}
  try:
    jax.jit(lambda: 0).lower().compile(compiler_options=options)
  except jax.errors.JaxRuntimeError:  # another version of the compiler, without this option
    return {}
  return options


def with_options(function: Callable[..., Any], options: dict[str, str]) -> Callable[..., Any]:
  """A jax.pmap, compiled with options, which it does not take; for arguments of one shape."""
  if not options or jax.process_count() > 1:  # whose batches a compiled pmap takes as global ones
    return function
  compiled = None

  def call(*args):
    nonlocal compiled
    compiled = compiled or function.lower(*args).compile(compiler_options=options)
    return compiled(*args)

  return call
