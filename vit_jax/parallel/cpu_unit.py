"""Find the widest unit for matrix products that this machine's CPU has."""

import functools
import pathlib
import platform

_CPUINFO = pathlib.Path('/proc/cpuinfo')
# Flags of Linux, the fastest unit first, and what we call the unit.
_UNITS = {'amx_bf16': 'AMX', 'avx512_bf16': 'AVX-512 BF16', 'avx512f': 'AVX-512', 'avx2': 'AVX2'}


@functools.cache
def cpu_unit() -> str:
  """Return 'AMX', 'AVX-512 BF16', 'AVX-512' or 'AVX2', or else the architecture, such as 'arm64'.

  Only Linux on x86 says which units there are. Elsewhere it is always the architecture.
  """
  try:
    text = _CPUINFO.read_text()
  except OSError:
    return platform.machine()
  return find_unit(text) or platform.machine()


def find_unit(cpuinfo: str) -> str | None:
  """Return the fastest unit that the text of a /proc/cpuinfo lists, or None."""
  flags = next((line for line in cpuinfo.splitlines() if line.startswith('flags')), '').split()
  return next((unit for flag, unit in _UNITS.items() if flag in flags), None)
