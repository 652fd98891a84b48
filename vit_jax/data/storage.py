"""Look at files and directories that may be on a disk, in a bucket or on a web server."""

from __future__ import annotations

import logging
import os

from vit_jax.data import remote
from vit_jax.files import Missing, is_remote

log = logging.getLogger('vit_jax')

_denied: set[str] = set()  # directories for which the log says that a file may not be read


def names(directory: str) -> list[str]:
  """Return the names of what is in a directory, or [] if there is no such directory."""
  if is_remote(directory):
    return list(remote.list_directory(directory))
  return os.listdir(directory) if os.path.isdir(directory) else []


def exists(path: str) -> bool:
  """Return True if there is a file at the path."""
  return remote.exists(path) if is_remote(path) else os.path.exists(path)


def read(path: str) -> bytes | None:
  """Return the content of a file that may be missing, or None if it does not exist.

  A remote file that may not be read counts as missing, because a storage that does not allow
  listing gives the same answer for both. The log says so, once for each directory.
  """
  try:
    if is_remote(path):
      return remote.start_reading(path)()
    with open(path, 'rb') as f:
      return f.read()
  except (FileNotFoundError, NotADirectoryError, Missing):
    return None
  except remote.Denied as e:
    directory = os.path.dirname(path)
    if directory not in _denied:
      _denied.add(directory)
      log.warning('%s The run goes on without it, as if it did not exist.', e)
    return None
