"""The lengths of the records in remote TFRecord files, which say where each record is.

A TFRecord file has no table of contents: each record begins with its length. So the files are read
once, many at the same time, and the lengths are kept in a small file. It is written beside the data
if that is allowed, and otherwise to the user's cache.
"""

from __future__ import annotations

from collections.abc import Mapping
import concurrent.futures
import contextlib
import hashlib
import io
import logging
import pathlib
import re
import struct
import sys
import zipfile

import numpy as np
import tqdm

from vit_jax.data import remote, storage
from vit_jax.data.ranges import RangeFile
from vit_jax.data.tfrecord import FOOTER, HEADER
from vit_jax.errors import InputError
from vit_jax.files import cache_directory, replacing

log = logging.getLogger('vit_jax')
_FILES_AT_ONCE = 32
_CHUNK = 2**22  # bytes to read at a time

# {name of a file: (n,) int64, the length of each record's payload in bytes}
Lengths = dict[str, np.ndarray]


def record_lengths(directory: str, sizes: Mapping[str, int]) -> Lengths:
  """Return the lengths of the records in files of a remote directory.

  Args:
    directory: address of the directory that holds the files.
    sizes: size of each file in bytes, by its name. Lengths from earlier are used only for files
      that still have the size that these add up to.

  Raises:
    InputError: a file cannot be read, or is not a TFRecord file.
  """
  splits: dict[str, dict[str, int]] = {}
  for name in sorted(sizes):
    splits.setdefault(re.sub(r'-\d+-of-\d+$', '', name), {})[name] = sizes[name]
  lengths: Lengths = {}
  for name, files in splits.items():
    lengths |= _split_lengths(directory, f'{name}.lengths.npz', files)
  return lengths


def _split_lengths(directory: str, index: str, sizes: Mapping[str, int]) -> Lengths:
  """Return the lengths of the records in files of a split. `index` is the name of its index."""
  beside, cached = f'{directory}/{index}', _cache_path(directory, index)
  lengths: Lengths = {}
  for path in filter(None, (beside, cached)):
    known = _load(str(path))
    lengths |= {name: n for name, n in known.items() if _total(n) == sizes.get(name, _total(n))}
    if sizes.keys() <= lengths.keys():
      return lengths
  lengths |= _scan_all(directory, {n: size for n, size in sizes.items() if n not in lengths})
  _keep(lengths, beside, cached)
  return lengths


def _total(lengths: np.ndarray) -> int:
  """Return the size of a file whose records have these lengths."""
  return int(lengths.sum()) + len(lengths) * (HEADER + FOOTER)


def _cache_path(directory: str, name: str) -> pathlib.Path | None:
  """Return where the lengths are kept on this machine, or None if the user has no home."""
  digest = hashlib.sha256(directory.encode(errors='surrogateescape')).hexdigest()[:16]
  try:
    return cache_directory() / 'records' / digest / name
  except InputError:
    return None


def _load(path: str) -> Lengths:
  """Return the lengths in a file, or {} if it does not exist or is damaged."""
  content = storage.read(path)
  if content is None:
    return {}
  try:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
      names, counts, lengths = (arrays[key] for key in ('names', 'counts', 'lengths'))
    parts = np.split(lengths.astype(np.int64), np.cumsum(counts)[:-1])
    return dict(zip(names.tolist(), parts, strict=True))
  except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as e:
    log.warning('%s is damaged (%s). It is made again.', path, e)
    return {}


def _keep(lengths: Lengths, beside: str, cached: pathlib.Path | None) -> None:
  """Write the lengths beside the data or else to the user's cache."""
  out = io.BytesIO()
  np.savez_compressed(
    out,
    names=np.array(list(lengths)),
    counts=np.array([len(n) for n in lengths.values()], np.int64),
    lengths=np.concatenate(list(lengths.values())),
  )
  try:
    remote.write_file(beside, out.getvalue())
    log.info('Wrote %s, so that the next run starts at once.', beside)
    return
  except InputError:  # it is not allowed, as on a web server
    pass
  with contextlib.suppress(InputError):  # the next run reads all files again
    if cached is not None:
      with replacing(cached) as temporary:
        temporary.write_bytes(out.getvalue())
      log.info('Wrote %s, so that the next run starts at once.', cached)


def _scan_all(directory: str, sizes: Mapping[str, int]) -> Lengths:
  """Read files from their begin to their end. Return the lengths of their records."""
  total = sum(sizes.values())
  log.info('Indexing %s files (%.1f GB) in %s.', f'{len(sizes):,}', total / 1e9, directory)
  hidden = not sys.stderr.isatty()
  with (
    tqdm.tqdm(total=total, unit='B', unit_scale=True, desc='index', disable=hidden) as bar,
    concurrent.futures.ThreadPoolExecutor(_FILES_AT_ONCE) as pool,
  ):
    scan = lambda name: _scan(RangeFile(f'{directory}/{name}'), sizes[name], bar)
    return dict(zip(sizes, pool.map(scan, sizes), strict=True))


def _scan(file: RangeFile, size: int, bar: tqdm.tqdm) -> np.ndarray:
  """Return the lengths of the records in a file: (n,) int64."""
  lengths, offset = [], 0
  while offset < size:
    begin = offset
    try:
      data = file.read(begin, min(_CHUNK, size - begin))
      while len(header := data[offset - begin : offset - begin + HEADER]) == HEADER:
        lengths.append(struct.unpack_from('<Q', header)[0])
        offset += HEADER + lengths[-1] + FOOTER
      if offset > size:
        raise ValueError(f'record {len(lengths) - 1} reaches beyond its end')
      if offset == begin:
        raise ValueError(f'it ends inside record {len(lengths)}')
    except ValueError as e:
      if isinstance(e, InputError):
        raise
      raise InputError(f'Cannot read {file.path}: {e}. Prepare the dataset again.') from e
    bar.update(offset - begin)
  return np.array(lengths, np.int64)
