"""Keep what was found out about remote data, beside it or in the user's cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import hashlib
import io
import logging
import pathlib
import zipfile

import numpy as np

from vit_jax.data import remote, storage
from vit_jax.errors import InputError
from vit_jax.files import cache_directory, replacing

log = logging.getLogger('vit_jax')

Arrays = Mapping[str, np.ndarray]


def load_arrays(
  directory: str, name: str, is_valid: Callable[[Arrays], bool]
) -> dict[str, np.ndarray] | None:
  """Return arrays that `save_arrays` has kept, or None if there are none that are valid.

  Args:
    directory: address of the directory that the arrays are about.
    name: of the file.
    is_valid: function that checks arrays. It may raise KeyError or ValueError.
  """
  for path in kept_paths(directory, name):
    content = storage.read(str(path))
    if content is None:
      continue
    try:
      with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
      if is_valid(arrays):
        return arrays
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as e:
      log.warning('%s is damaged (%s). It is made again.', path, e)
  return None


def save_arrays(directory: str, name: str, arrays: Arrays) -> None:
  """Write arrays to a file in a remote directory, or else to the user's cache, or nowhere."""
  out = io.BytesIO()
  np.savez_compressed(out, allow_pickle=False, **arrays)
  for path in kept_paths(directory, name):
    try:
      if isinstance(path, str):
        remote.write_file(path, out.getvalue())
      else:
        with replacing(path) as temporary:
          temporary.write_bytes(out.getvalue())
    except InputError:  # it is not allowed, as on a web server
      continue
    log.info('Wrote %s, so that the next run starts at once.', path)
    return


def kept_paths(directory: str, name: str) -> list[str | pathlib.Path]:
  """Return where the file may be: in the remote directory, or on this machine for this user."""
  digest = hashlib.sha256(directory.encode(errors='surrogateescape')).hexdigest()[:16]
  try:
    return [f'{directory}/{name}', cache_directory() / 'records' / digest / name]
  except InputError:  # the user has no home
    return [f'{directory}/{name}']
