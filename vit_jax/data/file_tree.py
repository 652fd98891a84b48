"""The directories of a folder of images, on a disk or in a bucket.

A bucket is listed once, many directories at a time. The listing is kept in a file beside the images
if that is allowed, and otherwise in the user's cache. It holds as long as the folder has the same
directories on its first two levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
import concurrent.futures
import errno
import functools
import logging
import os
from typing import NamedTuple, Protocol

import numpy as np

from vit_jax.data import remote
from vit_jax.data.kept_file import kept_paths, load_arrays, save_arrays
from vit_jax.data.ranges import RangeFile
from vit_jax.errors import InputError
from vit_jax.files import Missing, is_remote

log = logging.getLogger('vit_jax')

LISTING_FILE = 'vit_jax_listing.npz'


class Entry(NamedTuple):
  """A file or directory in a directory."""

  name: str
  path: str
  is_directory: bool


class FileTree(Protocol):
  """Directories and the files in them."""

  def is_directory(self, path: str) -> bool:
    """Return True if there is a directory at the path."""
    ...

  def entries(self, directory: str) -> list[Entry]:
    """Return what is in a directory. Raise OSError if it cannot be read."""
    ...

  def first_bytes(self, path: str, length: int) -> bytes:
    """Return the begin of a file. Raise OSError if it cannot be read."""
    ...

  def identity(self, directory: str) -> tuple[int, ...] | str:
    """Return what tells a directory from all others, also if links lead to it."""
    ...


class LocalTree:
  """The directories of this machine."""

  def is_directory(self, path: str) -> bool:
    """Return True if there is a directory at the path."""
    return os.path.isdir(path)

  def entries(self, directory: str) -> list[Entry]:
    """Return what is in a directory. Raise OSError if it cannot be read."""
    with os.scandir(directory) as entries:
      return [Entry(e.name, e.path, e.is_dir()) for e in entries]

  def first_bytes(self, path: str, length: int) -> bytes:
    """Return the begin of a file. Raise OSError if it cannot be read."""
    if not os.path.isfile(path):  # opening a named pipe would wait for its other end
      raise FileNotFoundError(errno.ENOENT, 'It is not a file', path)
    with open(path, 'rb') as f:
      return f.read(length)

  def identity(self, directory: str) -> tuple[int, ...]:
    """Return what tells a directory from all others."""
    status = os.stat(directory)
    return status.st_dev, status.st_ino


class RemoteTree:
  """The directories below a remote address, from its listing."""

  def __init__(self, root: str, paths: Iterable[bytes]):
    """Sort the files into their directories.

    Args:
      root: address of the folder.
      paths: of all files in it, relative to it. Directories exist only as parts of them.
    """
    files: dict[str, list[bytes]] = {root: []}
    folders: dict[str, set[str]] = {root: set()}
    for path in paths:
      above, _, name = path.rpartition(b'/')
      directory = f'{root}/{os.fsdecode(above)}' if above else root
      files.setdefault(directory, []).append(name)
    for directory in list(files):
      while directory != root:
        directory, _, name = directory.rpartition('/')
        folders.setdefault(directory, set()).add(name)
    self._root = root
    self._files = {directory: np.array(names, np.bytes_) for directory, names in files.items()}
    self._folders = folders

  def is_directory(self, path: str) -> bool:
    """Return True if there is a directory at the path."""
    return bool(len(self._files.get(path, ())) or self._folders.get(path))

  def entries(self, directory: str) -> list[Entry]:
    """Return what is in a directory."""
    names = map(os.fsdecode, self._files.get(directory, np.empty(0, np.bytes_)).tolist())
    found = [Entry(name, f'{directory}/{name}', False) for name in names]
    return found + [
      Entry(name, f'{directory}/{name}', True) for name in sorted(self._folders.get(directory, ()))
    ]

  def first_bytes(self, path: str, length: int) -> bytes:
    """Return the begin of a file. Raise InputError if it cannot be read."""
    file = RangeFile(path)
    try:
      return file.read(0, min(length, file.size()))
    except Missing as e:
      raise InputError(f'Cannot read {path}: no such file. {how_to_list_again(self._root)}.') from e

  def identity(self, directory: str) -> str:
    """Return what tells a directory from all others: its address, because there are no links."""
    return directory


def how_to_list_again(directory: str) -> str:
  """Return what to do if a file in the listing of a remote directory is missing."""
  files = ' and '.join(map(str, kept_paths(directory, LISTING_FILE)))
  return f'If it was deleted on purpose, also delete the listing of the folder ({files})'


def open_tree(directory: str) -> FileTree:
  """Return the tree that a directory is in. Raise InputError if a bucket cannot be listed."""
  return _remote_tree(directory) if is_remote(directory) else LocalTree()


@functools.lru_cache(maxsize=1)
def _remote_tree(directory: str) -> RemoteTree:
  """Return the tree below an address, from its listing or a new one. Remember the last one."""
  top = _top(directory)
  if kept := load_arrays(directory, LISTING_FILE, _is_listing(top)):
    return RemoteTree(directory, kept['paths'].tolist())
  paths = sorted(_list_all(directory, top))
  if paths:
    arrays = dict(paths=np.array(paths, np.bytes_), top=np.array(sorted(top), np.bytes_))
    save_arrays(directory, LISTING_FILE, arrays)
  return RemoteTree(directory, paths)


def _top(directory: str) -> dict[bytes, bool]:
  """Return the files and directories on the first two levels: {relative path: is a directory}."""
  first = remote.list_directory(directory)
  first.pop(LISTING_FILE, None)
  folders = [name for name, entry in first.items() if entry.is_directory]
  top = {os.fsencode(name): entry.is_directory for name, entry in first.items()}
  with concurrent.futures.ThreadPoolExecutor(remote.IN_FLIGHT) as pool:
    below = pool.map(lambda name: remote.list_directory(f'{directory}/{name}'), folders)
    for folder, entries in zip(folders, below):
      top |= {os.fsencode(f'{folder}/{name}'): e.is_directory for name, e in entries.items()}
  return top


def _is_listing(top: Mapping[bytes, bool]) -> Callable[[Mapping[str, np.ndarray]], bool]:
  """Return the check that a listing is that of a folder with these first two levels."""
  return lambda arrays: arrays['top'].tolist() == sorted(top) and arrays['paths'].ndim == 1


def _list_all(directory: str, top: Mapping[bytes, bool]) -> list[bytes]:
  """List all directories on the second level, many at a time. Return the paths of all files."""
  folders = [
    os.fsdecode(path) for path, is_directory in top.items() if is_directory and b'/' in path
  ]
  log.info('Listing %s folders in %s, which happens once.', f'{len(folders):,}', directory)
  paths = [path for path, is_directory in top.items() if not is_directory]
  with concurrent.futures.ThreadPoolExecutor(remote.IN_FLIGHT) as pool:
    found = pool.map(lambda folder: remote.find_files(f'{directory}/{folder}'), folders)
    for done, (folder, files) in enumerate(zip(folders, found), 1):
      paths += [os.fsencode(f'{folder}/{file}') for file in files]
      if done % 1000 == 0:
        log.info('Listed %s of %s folders.', f'{done:,}', f'{len(folders):,}')
  return paths
