"""Index the shards of a WebDataset once, and keep the index for the next run.

The index is a file beside the tars, or in the user's cache if that folder cannot be written. It is
used for a tar as long as its size stays the same and, on a disk, the time of its last change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent import futures
import contextlib
import dataclasses
import hashlib
import io
import logging
import os
from typing import Any
import zipfile

import numpy as np

from vit_jax.data import remote, storage
from vit_jax.data.tar_index import TarIndex, index_tar
from vit_jax.errors import InputError, last_line
from vit_jax.files import cache_directory, is_remote, replacing

log = logging.getLogger('vit_jax')

INDEX_FILE = 'vit_jax_index.npz'
_THREADS = 32  # tars that are looked at at the same time, because on a network latency decides
_FIELDS = [field.name for field in dataclasses.fields(TarIndex)]


def read_indices(paths: Sequence[str]) -> list[TarIndex]:
  """Return the indices of some tars. Those that are not known yet are read.

  Raises:
    InputError: a tar cannot be read, is damaged, or holds two files of the same name.
  """
  folders = sorted(set(map(os.path.dirname, paths)))
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    stamps = dict(zip(paths, pool.map(_stamp, paths)))
    known = {folder: _load_folder(folder, stamps) for folder in folders}
    is_known = lambda path: os.path.basename(path) in known[os.path.dirname(path)]
    new = [path for path in paths if not is_known(path)]
    if new:
      log.info('Indexing %s shards, which happens once: %s ...', f'{len(new):,}', new[0])
    try:
      indices = pool.map(index_tar, new, [stamps[path] for path in new])
      for done, (path, index) in enumerate(zip(new, indices), 1):
        known[os.path.dirname(path)][os.path.basename(path)] = index
        if done % 100 == 0:
          log.info('Indexed %s of %s shards.', f'{done:,}', f'{len(new):,}')
    finally:  # a run that is stopped now does not start again from the first shard
      for folder in sorted(set(map(os.path.dirname, new))):
        _save(folder, known[folder])
  return [known[os.path.dirname(path)][os.path.basename(path)] for path in paths]


def _stamp(path: str) -> tuple[int, int]:
  """Return the size of a tar and the time of its last change, or 0 for a remote tar."""
  if is_remote(path):
    return remote.file_size(path), 0
  try:
    status = os.stat(path)
  except OSError as e:
    raise InputError(f'Cannot read the shard {path}: {e.strerror}. Check the path.') from e
  return status.st_size, status.st_mtime_ns


def _files(folder: str) -> list[str]:
  """Return where the index of a folder may be, the best place first."""
  files = [os.path.join(folder, INDEX_FILE)]
  where = folder if is_remote(folder) else os.path.abspath(folder)
  digest = hashlib.sha256(where.encode(errors='surrogateescape')).hexdigest()[:16]
  with contextlib.suppress(InputError):  # the user has no home directory
    files.append(os.fspath(cache_directory() / 'shards' / f'{digest}.npz'))
  return files


def _load_folder(folder: str, stamps: Mapping[str, Sequence[int]]) -> dict[str, TarIndex]:
  """Return {name: index} of the tars of a folder, without those of `stamps` that have changed."""
  known: dict[str, TarIndex] = {}
  for file in _files(folder):
    for name, index in _load(file).items():
      stamp = stamps.get(os.path.join(folder, name))
      if stamp is None or index.stamp.tolist() == [list(stamp)]:
        known[name] = index
  return known


def _load(file: str) -> dict[str, TarIndex]:
  """Return what `_save` has written, or {} if there is no such file or it is damaged."""
  content = storage.read(file)
  if content is None:
    return {}
  try:
    with np.load(io.BytesIO(content)) as arrays:
      tars = arrays['tars'].tolist()
      ends = {field: np.cumsum(arrays[f'{field}_per_tar'])[:-1] for field in _FIELDS}
      fields = {field: np.split(arrays[field], ends[field]) for field in _FIELDS}
    return {name: TarIndex(**{f: fields[f][i] for f in _FIELDS}) for i, name in enumerate(tars)}
  except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as e:
    log.warning('%s is damaged (%s). It is made again.', file, last_line(e))
    return {}


def _save(folder: str, indices: Mapping[str, TarIndex]) -> None:
  """Write the index of a folder. If that is not possible anywhere, only warn."""
  if not indices:
    return
  arrays: dict[str, Any] = {'tars': np.array(list(indices), np.str_)}
  for field in _FIELDS:
    parts = [getattr(index, field) for index in indices.values()]
    arrays[field] = np.concatenate(parts)
    arrays[f'{field}_per_tar'] = np.array([len(part) for part in parts], np.int64)
  out = io.BytesIO()
  np.savez_compressed(out, **arrays)
  problem = None
  for file in _files(folder):
    try:
      _write(file, out.getvalue())
      return
    except InputError as e:
      problem = problem or e
  log.warning('The index of the shards is not kept, so the next run makes it again. %s', problem)


def _write(file: str, content: bytes) -> None:
  if is_remote(file):
    remote.write_file(file, content)
    return
  with replacing(file) as temporary:
    temporary.write_bytes(content)
