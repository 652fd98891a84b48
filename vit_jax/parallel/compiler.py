"""Compile with the options of XLA that are fastest on this machine."""

from collections.abc import Callable, Mapping
import functools
from typing import Any, ParamSpec, TypeVar

import jax

from vit_jax.models.placement import nvidia_generation
from vit_jax.parallel.cpu_unit import cpu_unit

Options = Mapping[str, str | bool]

_Parameters = ParamSpec('_Parameters')
_Result = TypeVar('_Result')

# Sets of options that choose who computes matrix products and reductions. Each is a way of
# `benchmarks/step.py`, which compares them: `--ways ours:default ours:eigen ...`.
OPTION_SETS: dict[str, Options] = {
  # XLA's own choice, which is YNNPACK for products and reductions in float32.
  'default': {},
  # Eigen for products, YNNPACK for reductions.
  'eigen': {'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_REDUCE'},
  # oneDNN for products, YNNPACK for reductions.
  'onednn': {
    'xla_cpu_use_onednn': True,
    'xla_cpu_experimental_onednn_custom_call': True,
    'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_REDUCE',
  },
  # NVIDIA's GPUs: cuBLAS, which adds biases and residuals and computes GELU in the same kernel,
  # instead of the faster of cuBLAS and Triton without these. Measured on an H200.
  'cublas': {'xla_gpu_enable_triton_gemm': False},
}
# The fastest set for training, by JAX (from this version on), unit of the CPU and type. None means
# any. The first row that fits counts. RESULTS.md, "Training steps on CPUs", has the figures. Those
# of AMX are older than these sets: the same options were set by hand. Nobody has measured JAX 0.12
# on other units than these two, so there the defaults of XLA stay.
_FASTEST = (
  ((0, 12), 'AMX', None, 'onednn'),
  ((0, 12), 'AVX2', 'bfloat16', 'onednn'),
  ((0, 12), None, None, 'default'),
  ((0, 0), None, None, 'eigen'),
)


@functools.cache
def compiler_options(platform: str, dtype: str = 'float32') -> Options:
  """Return the options to compile with, beyond XLA's defaults.

  CPUs have them, and NVIDIA's GPUs from Ampere on in bfloat16.

  Args:
    platform: name of the backend, such as 'cpu'.
    dtype: type of the computation.
  """
  if platform == 'cpu':
    return supported(OPTION_SETS[fastest_set(cpu_unit(), dtype)])
  if platform == 'gpu' and dtype == 'bfloat16' and nvidia_generation() >= 8:
    return supported(OPTION_SETS['cublas'])
  return {}


def fastest_set(unit: str, dtype: str, version: tuple[int, ...] = jax.__version_info__) -> str:
  """Return the name of the fastest set of options for a CPU, a type and a version of JAX."""
  return next(
    name
    for first, for_unit, for_dtype, name in _FASTEST
    if version[: len(first)] >= first and for_unit in (None, unit) and for_dtype in (None, dtype)
  )


def supported(options: Options) -> Options:
  """Return those of the options that this version of the compiler has."""
  return {name: value for name, value in options.items() if _has_option(name, value)}


def _has_option(name: str, value: str | bool) -> bool:
  try:
    jax.jit(lambda: 0).lower().compile(compiler_options={name: value})
  except jax.errors.JaxRuntimeError:  # the compiler does not know the option
    return False
  return True


def jit(function: Callable[_Parameters, _Result], **kwargs: Any) -> Callable[_Parameters, _Result]:
  """Return jax.jit of a function, compiled with the `compiler_options` of float32.

  They depend on the device, for which JAX looks when the function is first called. So a module can
  decorate its functions with this.

  Args:
    function: the function. It must not be called within another one that JAX traces.
    **kwargs: arguments of jax.jit.
  """

  @functools.cache
  def jitted() -> Callable[_Parameters, _Result]:
    options = compiler_options(jax.default_backend())
    return jax.jit(function, compiler_options=dict(options), **kwargs)

  @functools.wraps(function)
  def call(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
    return jitted()(*args, **kwargs)

  return call
