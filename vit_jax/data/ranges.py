"""Read any range of bytes of a file that is on a disk, in a bucket or on a web server.

  file = RangeFile('gs://bucket/train.tar')
  pending = [file.start(offset, length) for offset, length in spans]  # many at once
  parts = [wait() for wait in pending]

On a disk, `start` reads nothing yet. The bytes are read when they are waited for.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
import os
import threading
from typing import Any

from vit_jax.data import remote
from vit_jax.errors import InputError
from vit_jax.files import is_remote


class RangeFile:
  """A file of which any range of bytes can be read, from many threads at once. Can be pickled."""

  _fd: int | None = None

  def __init__(self, path: str):
    """Remember a local path or a remote address. Nothing is opened yet."""
    self.path = path
    self.is_remote = is_remote(path)
    self._lock = threading.Lock()

  def __getstate__(self) -> dict[str, Any]:
    return {'path': self.path}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__init__(state['path'])

  def size(self) -> int:
    """Return the size in bytes. Raise OSError (on a disk) or InputError (elsewhere)."""
    return remote.file_size(self.path) if self.is_remote else os.stat(self.path).st_size

  def read(self, start: int, length: int) -> bytes:
    """Return `length` bytes from position `start`.

    Raises:
      ValueError: the file ends before.
      InputError: a remote file cannot be read, although this was tried again for minutes.
      OSError: a local file cannot be read.
    """
    return self.start(start, length)()

  def start(self, start: int, length: int) -> Callable[[], bytes]:
    """Start a remote read in the background. Call what is returned to get the bytes of `read`."""
    if self.is_remote and length:
      pending = remote.start_reading(self.path, start, start + length)
      return functools.partial(self._finish, pending, length)
    return functools.partial(self._read_local, start, length)

  def close(self) -> None:
    """Close the file. It is opened again when it is next read."""
    with self._lock:
      if self._fd is not None:
        os.close(self._fd)
        self._fd = None

  def __del__(self) -> None:
    self.close()

  def _finish(self, pending: Callable[[], bytes], length: int) -> bytes:
    data = pending()
    if len(data) > length:
      raise InputError(
        f'Cannot read parts of {self.path}: the server sends only whole files. Download the file.'
      )
    return _whole(data, length)

  def _read_local(self, start: int, length: int) -> bytes:
    if not length:
      return b''
    with self._lock:
      if self._fd is None:
        self._fd = os.open(self.path, os.O_RDONLY)
    return _whole(os.pread(self._fd, length, start), length)


def _whole(data: bytes, length: int) -> bytes:
  if len(data) < length:
    raise ValueError(f'the file ends after {len(data)} of the {length} bytes to read')
  return data
