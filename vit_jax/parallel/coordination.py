"""Messages between the processes of a job, through JAX's coordination service.

The service keeps values by key. Process 0 hosts it, and all processes reach it while devices are
busy or after another process is gone. JAX has no public name for it: this is the only file that
uses a private one, the same as Orbax.
"""

from typing import Any

import jax

from vit_jax.errors import InputError

_METHODS = ('key_value_set', 'key_value_dir_get', 'wait_at_barrier')


def check() -> None:
  """Disconnect from the other processes and raise InputError if this JAX has changed its names."""
  if not jax.distributed.is_initialized():
    return
  try:
    _ = _state().num_processes, *(getattr(_state().client, name) for name in _METHODS)
  except (ImportError, AttributeError) as e:
    jax.distributed.shutdown()
    raise InputError(
      f'vit_jax cannot connect several processes with JAX {jax.__version__}. Install the versions '
      'that it is tested with (pip install -c constraints.txt -e .), or run only one process.'
    ) from e


def alone() -> bool:
  """Return True if this is the only process of its job."""
  return not jax.distributed.is_initialized() or _state().num_processes == 1


def put(key: str, value: str) -> None:
  """Store a value for all processes."""
  _state().client.key_value_set(key, value)


def values(prefix: str) -> list[tuple[str, str]]:
  """Return the keys that start with a prefix that ends in '/', with their values."""
  return _state().client.key_value_dir_get(prefix)


def wait_for_all(name: str, seconds: float) -> None:
  """Wait until all processes have called this with the same name. Use each name only once.

  Raises:
    JaxRuntimeError: a process has not called this in time, or has ended.
  """
  _state().client.wait_at_barrier(name, int(1000 * seconds))


def _state() -> Any:
  from jax._src.distributed import global_state

  return global_state
