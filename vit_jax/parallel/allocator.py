"""Keep the memory that a step on CPUs frees in the process, for the next step.

By default, glibc returns large blocks to the operating system when they are freed. XLA frees the
arrays of a step at its end, so each page of the next step would be a page fault. These are slow,
most of all on a virtual machine, whose host may have to find the memory again.
"""

import ctypes
import glob
import os
import sys

import jax

# Parameters of mallopt, from malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_NEVER = -1  # the largest size_t
_ACCELERATORS = ('/dev/accel*', '/dev/vfio/[0-9]*', '/dev/nvidia[0-9]*', '/dev/kfd', '/dev/dxg')


def keep_freed_memory() -> bool:
  """Tell glibc's allocator to keep freed memory, in one arena that all threads share.

  Programs call this when they start. After JAX has started its threads, which have arenas of their
  own, it has little effect. Nothing changes

  - with another C library: macOS, musl, Windows
  - on a machine with an accelerator, unless JAX is told to use the CPU
  - if the user has set up the allocator with GLIBC_TUNABLES=glibc.malloc...

  Returns:
    True if glibc was told.
  """
  if sys.platform != 'linux' or 'glibc.malloc.' in os.environ.get('GLIBC_TUNABLES', ''):
    return False
  libc = ctypes.CDLL(None)
  if not hasattr(libc, 'gnu_get_libc_version') or not _computes_on_cpus():
    return False
  settings = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER))
  return all(libc.mallopt(parameter, value) for parameter, value in settings)


def _computes_on_cpus() -> bool:
  """Return whether JAX will compute on CPUs, without asking it, because that starts threads."""
  platforms = jax.config.jax_platforms  # pyright: ignore (JAX does not declare it)
  if platforms:
    return platforms == 'cpu'
  return not any(glob.glob(files) for files in _ACCELERATORS)
