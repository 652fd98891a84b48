"""Read TFRecord files by random access, without TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
import functools
import os
import struct

import numpy as np

from vit_jax.data.ranges import RangeFile
from vit_jax.errors import InputError

HEADER = 12  # bytes: payload length (uint64, little endian), masked CRC32C of the length
FOOTER = 4  # bytes: masked CRC32C of the payload


def index_records(fd: int) -> np.ndarray:
  """Return the offsets and lengths of the payloads of an open TFRecord file.

  This reads only the headers of the records, which takes about 2 us each.

  Args:
    fd: file descriptor, open for reading.

  Returns:
    (n, 2) int64, the offset and length of each payload in bytes.

  Raises:
    ValueError: the file is cut short or damaged. The headers do not add up to its size.
  """
  size = os.fstat(fd).st_size
  spans = []
  offset = 0
  while offset < size:
    header = os.pread(fd, HEADER, offset)
    if len(header) < HEADER:
      raise ValueError(f'it ends inside record {len(spans)}')
    (length,) = struct.unpack_from('<Q', header)
    spans.append((offset + HEADER, length))
    offset += HEADER + length + FOOTER
    if offset > size:
      raise ValueError(f'record {len(spans) - 1} reaches beyond its end')
  return np.array(spans, np.int64).reshape(-1, 2)


class TFRecordReader:
  """A TFRecord file that is indexed when it is opened. Many threads may call `read` at once.

  The headers must agree with the file's size. The checksums of the payloads are not verified:
  CRC32C in NumPy would take a fifth of the time that decoding a JPEG takes, and the parser and the
  decoder check the payload themselves.
  """

  _fd: int | None = None

  def __init__(self, path: str):
    """Open and index a file. Raise OSError, or ValueError if the file is damaged."""
    self._fd = os.open(path, os.O_RDONLY)
    try:
      self._spans = index_records(self._fd)
    except ValueError:
      self.close()
      raise

  def num_records(self) -> int:
    """Return the number of records."""
    return len(self._spans)

  def start(self, index: int) -> Callable[[], bytes]:
    """Return the function that reads a record: `read`."""
    return functools.partial(self.read, index)

  def read(self, index: int) -> bytes:
    """Return the payload of a record. Raise ValueError if the file has been cut short."""
    if self._fd is None:
      raise ValueError('the file is closed')
    offset, length = self._spans[index].tolist()
    payload = os.pread(self._fd, length, offset)
    if len(payload) != length:
      raise ValueError('the file ends inside the record')
    return payload

  def close(self) -> None:
    """Close the file."""
    if self._fd is not None:
      os.close(self._fd)
      self._fd = None

  def __del__(self) -> None:
    self.close()


class RemoteTFRecordReader:
  """A remote TFRecord file of which the lengths of the records are known."""

  def __init__(self, path: str, lengths: np.ndarray):
    """Remember where the records are.

    Args:
      path: address of the file.
      lengths: of the records' payloads in bytes, (n,) int64.
    """
    self._file, self._lengths = RangeFile(path), lengths
    self._ends = np.cumsum(lengths + HEADER + FOOTER)

  def num_records(self) -> int:
    """Return the number of records."""
    return len(self._lengths)

  def start(self, index: int) -> Callable[[], bytes]:
    """Start to read a record in the background. Call what is returned to get its payload."""
    length, end = int(self._lengths[index]), int(self._ends[index])
    wait = self._file.start(end - FOOTER - length - HEADER, HEADER + length)
    return functools.partial(self._payload, wait, length)

  def _payload(self, wait: Callable[[], bytes], length: int) -> bytes:
    record = wait()
    if struct.unpack_from('<Q', record) != (length,):
      raise InputError(
        f'The records of {self._file.path} are not where its index says, so the file has been '
        'replaced. Delete the index (*.lengths.npz beside the file, or records/ in the cache of '
        'vit_jax), which is then made again.'
      )
    return record[HEADER:]
