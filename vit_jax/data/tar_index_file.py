"""Index the shards of a WebDataset once, and keep the index for the next run.

The index is a file beside the tars, or in the user's cache if that folder cannot be written. It is
used for a tar as long as its size stays the same, and the time of its last change (on a disk) or
its version (elsewhere, if the server names one).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent import futures
import dataclasses
import logging
import os

import numpy as np

from vit_jax.data import remote
from vit_jax.data.kept_file import Arrays, load_arrays, save_arrays
from vit_jax.data.tar_index import TarIndex, index_tar
from vit_jax.errors import InputError
from vit_jax.files import is_remote

log = logging.getLogger('vit_jax')

INDEX_FILE = 'vit_jax_index.npz'
_THREADS = 32  # tars that are looked at at the same time, because on a network latency decides
_FIELDS = [field.name for field in dataclasses.fields(TarIndex)]


def read_indices(paths: Sequence[str]) -> list[TarIndex]:
  """Return the indices of some tars. Those that are not known yet are read.

  Raises:
    InputError: a tar cannot be read, is damaged, or holds two files of the same name.
  """
  places = {path: os.path.split(path) for path in paths}  # folder and name
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    stamps = dict(zip(places, pool.map(_stamp, places)))
    by_folder: dict[str, dict[str, tuple[int, int]]] = {}
    for path, (folder, name) in places.items():
      by_folder.setdefault(folder, {})[name] = stamps[path]
    known = {folder: _load_folder(folder, names) for folder, names in by_folder.items()}
    new = [path for path, (folder, name) in places.items() if name not in known[folder]]
    if new:
      log.info('Indexing %s shards, which happens once: %s ...', f'{len(new):,}', new[0])
    try:
      indices = pool.map(index_tar, new, [stamps[path] for path in new])
      for done, (path, index) in enumerate(zip(new, indices), 1):
        folder, name = places[path]
        known[folder][name] = index
        if done % 100 == 0:
          log.info('Indexed %s of %s shards.', f'{done:,}', f'{len(new):,}')
    finally:  # a run that is stopped now does not start again from the first shard
      for folder in sorted({places[path][0] for path in new}):
        _save(folder, known[folder])
  return [known[folder][name] for folder, name in (places[path] for path in paths)]


def _stamp(path: str) -> tuple[int, int]:
  """Return the size of a tar, and a number that changes when the tar is replaced."""
  if is_remote(path):
    return remote.file_stamp(path)
  try:
    status = os.stat(path)
  except OSError as e:
    raise InputError(f'Cannot read the shard {path}: {e.strerror}. Check the path.') from e
  return status.st_size, status.st_mtime_ns


def _load_folder(folder: str, stamps: Mapping[str, tuple[int, int]]) -> dict[str, TarIndex]:
  """Return {name: index} of the tars of a folder that have been indexed.

  Args:
    folder: path or address.
    stamps: {name: stamp} of the tars to read. An index with another stamp is left out. Tars that
      have no stamp here are kept, because another pattern may name them.
  """
  known: dict[str, TarIndex] = {}

  def collect(arrays: Arrays) -> bool:
    found = _unpack(arrays)
    for name, index in found.items():
      if index.stamp.tolist() == [list(stamps.get(name, index.stamp[0]))]:
        known[name] = index
    return stamps.keys() <= known.keys()

  load_arrays(folder, INDEX_FILE, collect)
  return known


def _unpack(arrays: Arrays) -> dict[str, TarIndex]:
  """Return {name: index} from what `_save` has written."""
  ends = {field: np.cumsum(arrays[f'{field}_per_tar'])[:-1] for field in _FIELDS}
  fields = {field: np.split(arrays[field], ends[field]) for field in _FIELDS}
  names = arrays['tars'].tolist()
  return {name: TarIndex(**{f: fields[f][i] for f in _FIELDS}) for i, name in enumerate(names)}


def _save(folder: str, indices: Mapping[str, TarIndex]) -> None:
  """Keep the index of a folder."""
  if not indices:
    return
  arrays: dict[str, np.ndarray] = {'tars': np.array(list(indices), np.str_)}
  for field in _FIELDS:
    parts = [getattr(index, field) for index in indices.values()]
    arrays[field] = np.concatenate(parts)
    arrays[f'{field}_per_tar'] = np.array([len(part) for part in parts], np.int64)
  save_arrays(folder, INDEX_FILE, arrays)
