"""The lengths of the records in remote TFRecord files, which say where each record is.

A TFRecord file has no table of contents: each record begins with its length. So the files are read
once, many at the same time, and the lengths are kept in a small file. It is written beside the data
if that is allowed, and otherwise to the user's cache.
"""

from __future__ import annotations

from collections.abc import Mapping
import concurrent.futures
import logging
import re
import struct
import sys

import numpy as np
import tqdm

from vit_jax.data.kept_file import Arrays, load_arrays, save_arrays
from vit_jax.data.ranges import RangeFile
from vit_jax.data.tfrecord import FOOTER, HEADER
from vit_jax.errors import InputError

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
  known: Lengths = {}

  def is_complete(arrays: Arrays) -> bool:
    parts = np.split(arrays['lengths'].astype(np.int64), np.cumsum(arrays['counts'])[:-1])
    for name, lengths in zip(arrays['names'].tolist(), parts, strict=True):
      if _total(lengths) == sizes.get(name, _total(lengths)):
        known[name] = lengths
    return sizes.keys() <= known.keys()

  if load_arrays(directory, index, is_complete) is None:
    known |= _scan_all(directory, {n: size for n, size in sizes.items() if n not in known})
    counts = np.array([len(lengths) for lengths in known.values()], np.int64)
    flat = np.concatenate(list(known.values()))
    save_arrays(directory, index, dict(names=np.array(list(known)), counts=counts, lengths=flat))
  return known


def _total(lengths: np.ndarray) -> int:
  """Return the size of a file whose records have these lengths."""
  return int(lengths.sum()) + len(lengths) * (HEADER + FOOTER)


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
