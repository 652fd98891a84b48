"""Choose the type of the computation where a config leaves it open (dtype='auto')."""

from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from vit_jax.parallel.cpu_unit import cpu_unit

AUTO = 'auto'
_WITHOUT_BFLOAT16 = ('P100', 'V100', 'T4')  # in the names of GPUs
_MEASURED_UNITS = ('AMX', 'AVX2')  # with JAX 0.12


def settle_dtype(
  config: ConfigDict, platform: str, recorded: Mapping[str, Any] | None = None, *, kind: str = ''
) -> str | None:
  """Replace dtype='auto' of a config, in place, by the type to compute in.

  Args:
    config: the config of a run.
    platform: name of the backend that the run uses, such as 'cpu'.
    recorded: the fields of the run being resumed, whose type is kept on any machine.
    kind: name of the device, such as 'Tesla V100-SXM2-16GB'.

  Returns:
    A sentence for the log, or None if the config says the type.
  """
  if config.dtype != AUTO:
    return None
  if recorded is not None and (note := keep_recorded_dtype(config, recorded)):
    return note
  config.dtype, reason = fastest_dtype(platform, kind=kind)
  return f"config.dtype='auto' is {config.dtype} here: {reason}."


def keep_recorded_dtype(config: ConfigDict, recorded: Mapping[str, Any]) -> str | None:
  """Replace dtype='auto' of a config, in place, by what it meant when the run began.

  Returns:
    A sentence for the log, or None if the config or the run says nothing about it.
  """
  if config.dtype != AUTO or recorded['dtype'] == AUTO:
    return None
  config.dtype = recorded['dtype']
  return f"config.dtype='auto' is {config.dtype} here: as recorded by the run being resumed."


def fastest_dtype(
  platform: str,
  unit: str | None = None,
  version: tuple[int, ...] = jax.__version_info__,
  kind: str = '',
) -> tuple[str, str]:
  """Return the type in which a platform trains fastest, and the reason.

  RESULTS.md has the figures of CPUs ("Training steps on CPUs"). Where nobody has measured, it is
  float32.

  Args:
    platform: name of the backend, such as 'cpu'.
    unit: the unit of the CPU, as `cpu_unit` names it. Defaults to that of this machine.
    version: version of JAX.
    kind: name of the device.
  """
  if any(name in kind for name in _WITHOUT_BFLOAT16):
    return 'float32', f'{kind} has no bfloat16'
  if platform != 'cpu':
    return 'bfloat16', 'the matrix units of accelerators are fastest in it'
  unit = unit or cpu_unit()
  new = version >= (0, 12)
  if unit == 'AMX' and new:
    return 'bfloat16', 'the AMX unit of this CPU is fastest in it'
  with_jax = f'with JAX {".".join(map(str, version))}'
  if new and unit not in _MEASURED_UNITS:
    return 'float32', f'{with_jax}, bfloat16 has not been measured on this CPU ({unit})'
  return 'float32', f'{with_jax}, this CPU ({unit}) is fastest in it'
