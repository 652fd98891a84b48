"""Look at files and directories that may be on a disk, in a bucket or on a web server."""

from __future__ import annotations

import os

from vit_jax.data import remote
from vit_jax.files import Missing, is_remote


def names(directory: str) -> list[str]:
  """Return the names of what is in a directory, or [] if there is no such directory."""
  if is_remote(directory):
    return list(remote.list_directory(directory))
  return os.listdir(directory) if os.path.isdir(directory) else []


def exists(path: str) -> bool:
  """Return True if there is a file at the path."""
  return remote.exists(path) if is_remote(path) else os.path.exists(path)


def read(path: str) -> bytes | None:
  """Return the content of a file, or None if it does not exist."""
  try:
    if is_remote(path):
      return remote.start_reading(path)()
    with open(path, 'rb') as f:
      return f.read()
  except (FileNotFoundError, NotADirectoryError, Missing):
    return None
