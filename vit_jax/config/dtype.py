"""Choose the type of the computation where a config leaves it open (dtype='auto')."""

from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from vit_jax.parallel.cpu_unit import cpu_unit

AUTO = 'auto'


def settle_dtype(
  config: ConfigDict, platform: str, recorded: Mapping[str, Any] | None = None
) -> str | None:
  """Replace dtype='auto' of a config, in place, by the type to compute in.

  Args:
    config: the config of a run.
    platform: name of the backend that the run uses, such as 'cpu'.
    recorded: the fields of the run being resumed, whose type is kept on any machine.

  Returns:
    A sentence for the log, or None if the config says the type.
  """
  if config.dtype != AUTO:
    return None
  if recorded is not None and recorded['dtype'] != AUTO:
    config.dtype, reason = recorded['dtype'], 'as recorded by the run being resumed'
  else:
    config.dtype, reason = fastest_dtype(platform)
  return f"config.dtype='auto' is {config.dtype} here: {reason}."


def fastest_dtype(
  platform: str, unit: str | None = None, version: tuple[int, ...] = jax.__version_info__
) -> tuple[str, str]:
  """Return the type in which a platform trains fastest, and the reason.

  RESULTS.md has the figures of CPUs ("Training steps on CPUs"). Where nobody has measured, it is
  float32.

  Args:
    platform: name of the backend, such as 'cpu'.
    unit: the unit of the CPU, as `cpu_unit` names it. Defaults to that of this machine.
    version: version of JAX.
  """
  if platform != 'cpu':
    return 'bfloat16', 'the matrix units of accelerators are fastest in it'
  unit = unit or cpu_unit()
  if unit == 'AMX' and version >= (0, 12):
    return 'bfloat16', 'the AMX unit of this CPU is fastest in it'
  return 'float32', f'with JAX {".".join(map(str, version))}, this CPU ({unit}) is fastest in it'
