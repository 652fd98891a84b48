"""Keep what was found out about data: in a file beside it, or in the user's cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import contextlib
import hashlib
import io
import logging
import os
import tokenize
import zipfile
import zlib

import numpy as np

from vit_jax.data import remote, storage
from vit_jax.errors import InputError, reason
from vit_jax.files import cache_directory, is_remote, replacing

log = logging.getLogger('vit_jax')

Arrays = Mapping[str, np.ndarray]

# What reading a file and its arrays raises if any byte of it may be wrong.
_DAMAGED = (
  OSError,
  EOFError,
  ValueError,
  LookupError,
  TypeError,
  RuntimeError,
  zipfile.BadZipFile,
  zlib.error,
  tokenize.TokenError,
)


def load_arrays(
  directory: str, name: str, is_valid: Callable[[Arrays], bool]
) -> dict[str, np.ndarray] | None:
  """Return arrays that `save_arrays` has kept, or None if there are none that are valid.

  Args:
    directory: path or address of the directory that the arrays are about.
    name: of the file.
    is_valid: function that checks arrays. It may raise KeyError, IndexError or ValueError.

  Raises:
    InputError: a remote storage does not answer.
  """
  for path in kept_paths(directory, name):
    try:
      content = storage.read(path)
      if content is None:
        continue
      with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
      if is_valid(arrays):
        return arrays
    except InputError:
      raise
    except _DAMAGED as e:
      problem = 'cannot be read' if isinstance(e, OSError) and e.errno else 'is damaged'
      log.warning('%s %s (%s). It is made again.', path, problem, reason(e).rstrip('.'))
  return None


def save_arrays(directory: str, name: str, arrays: Arrays) -> None:
  """Write arrays to a file in a directory, or else to the user's cache. Warn if both fail."""
  out = io.BytesIO()
  np.savez_compressed(out, allow_pickle=False, **arrays)
  problem = None
  for path in kept_paths(directory, name):
    try:
      _write(path, out.getvalue())
      log.info('Wrote %s, so that the next run starts at once.', path)
      return
    except InputError as e:  # it is not allowed, as on a web server
      problem = problem or e
  log.warning('%s is not kept, so the next run makes it again. %s', name, problem)


def kept_paths(directory: str, name: str) -> list[str]:
  """Return where the file may be, the best place first: in the directory, and on this machine."""
  places = [os.path.join(directory, name)]
  where = directory if is_remote(directory) else os.path.abspath(directory)
  digest = hashlib.sha256(where.encode(errors='surrogateescape')).hexdigest()[:16]
  with contextlib.suppress(InputError):  # the user has no home directory
    places.append(os.fspath(cache_directory() / 'records' / digest / name))
  return places


def _write(path: str, content: bytes) -> None:
  if is_remote(path):
    remote.write_file(path, content)
    return
  with replacing(path) as temporary:
    temporary.write_bytes(content)
