"""Keep compiled programs for the next process."""

import logging
import os

import jax

from vit_jax.errors import InputError
from vit_jax.files import cache_directory, user_path

log = logging.getLogger('vit_jax')


def use_compile_cache(directory: str | None = None) -> None:
  """Read programs that an earlier process compiled instead of compiling them again.

  Args:
    directory: where compiled programs are kept. None for JAX's own setting, or else a directory in
      the user's cache, if the user has a home. 'none' to compile always.
  """
  if directory == 'none':
    return
  if not directory:
    if jax.config.jax_compilation_cache_dir:  # pyright: ignore (JAX does not declare it)
      return
    try:
      directory = os.fspath(cache_directory())
    except InputError as e:
      log.info('Compiled programs are not kept for the next run. %s', e)
      return
  if '://' in directory:
    jax.config.update('jax_compilation_cache_dir', directory)
    return
  jax.config.update('jax_compilation_cache_dir', os.fspath(user_path(directory)))
  # JAX keeps only what takes a second to compile, but a start has dozens of smaller programs.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
