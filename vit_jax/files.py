"""Local and remote files: paths, downloads, and writes that never leave half a file."""

from collections.abc import Iterator
import contextlib
import http.client
import importlib.util
import logging
import os
import pathlib
import shutil
from typing import Any, BinaryIO
import urllib.error
import urllib.parse
import urllib.request

from etils import epath

from vit_jax.errors import InputError, first_line

AnyPath = pathlib.Path | epath.Path  # local, or in a bucket
log = logging.getLogger('vit_jax')
_TIMEOUT = 20  # seconds to wait for an answer, or for the next byte
_CHUNK = 1 << 20  # bytes
_PUBLIC_BUCKETS = 'https://storage.googleapis.com/'  # serves public gs:// files without an account


class Missing(InputError):
  """The server answered, but the file does not exist or this user may not read it."""


def is_remote(path: str | os.PathLike[str]) -> bool:
  """Return True for an address such as https://... or gs://..."""
  return '://' in os.fspath(path)


def user_path(path: str | os.PathLike[str]) -> pathlib.Path:
  """Return a local path with ~ replaced by the home directory."""
  return pathlib.Path(path).expanduser()


def local_path(path: str | os.PathLike[str]) -> pathlib.Path:
  """Return the absolute path of a file to write.

  Raises:
    InputError: `path` is a remote address.
  """
  if is_remote(path):
    raise InputError(
      f'Cannot write to {os.fspath(path)}: it is a remote address. Write to a local path '
      'and copy the result there.'
    )
  return user_path(path).absolute()


def make_directory(path: str | os.PathLike[str]) -> pathlib.Path:
  """Return a local directory to write to, and create it if it does not exist.

  Raises:
    InputError: the directory cannot be created or written to.
  """
  directory = local_path(path)
  try:
    directory.mkdir(parents=True, exist_ok=True)
  except OSError as e:
    raise InputError(f'Cannot write to {directory}: {e.strerror or e}. Choose another path.') from e
  if not os.access(directory, os.W_OK):
    raise InputError(f'Cannot write to {directory}: permission denied. Choose another path.')
  return directory


def check_new(path: pathlib.Path, force: bool = False) -> None:
  """Raise InputError if `path` exists, unless `force` allows replacing it."""
  if os.path.lexists(path) and not force:
    raise InputError(f'{path} already exists. Choose another path, or replace it with --force.')


def write_whole(path: AnyPath, text: str) -> None:
  """Write a text file, local or remote. A kill or a full disk never leaves half a file."""
  replacement = path.with_suffix('.tmp')
  replacement.write_text(text)
  replacement.replace(path)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Yield a temporary path that replaces the local `path` if the block succeeds.

  If the block fails, the temporary file is deleted and `path` stays as it was.

  Raises:
    InputError: the file cannot be written there.
  """
  path = local_path(path)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      yield temporary
      os.replace(temporary, path)
    finally:
      temporary.unlink(missing_ok=True)
  except OSError as e:
    raise InputError(f'Cannot write {path}: {e.strerror or e}. Choose another path.') from e


def download(address: str, target: pathlib.Path) -> None:
  """Copy the file at `address` to `target`, a megabyte at a time.

  https:// addresses and public gs:// buckets need no other package. Private gs:// buckets need the
  package gcsfs, and s3:// needs s3fs. Every address that fsspec can open works, with the login of
  its package.

  Raises:
    Missing: the file does not exist.
    InputError: the download failed, or a package is missing. The error is raised within a minute
      and names the address or the package.
  """
  log.info('Downloading %s.', address)
  scheme, rest = address.split('://', 1)
  with open(target, 'wb') as f:
    if scheme == 'gs' and importlib.util.find_spec('gcsfs') is None:
      url = _PUBLIC_BUCKETS + urllib.parse.quote(rest)
      _download_http(url, f, address, ' If the bucket is private, run: pip install gcsfs')
    elif scheme in ('http', 'https'):
      _download_http(address, f, address)
    else:
      _download_fsspec(address, f)


def check_reachable(address: str) -> None:
  """Raise InputError unless fsspec finds a file or directory at `address` within _TIMEOUT."""
  with _fsspec_errors(address):
    _file_system(address)


def _download_http(url: str, to: BinaryIO, address: str, hint: str = '') -> None:
  """Copy `url` to an open file. `hint` is added to the error for a file that does not exist."""
  try:
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
      expected = response.headers.get('Content-Length')
      shutil.copyfileobj(response, to, _CHUNK)
  except urllib.error.HTTPError as e:
    answer = f'Cannot download {address}: HTTP {e.code} {e.reason}.'
    if e.code in (403, 404):
      raise Missing(f'{answer} Check the address.{hint}') from None
    raise InputError(f'{answer} Try again later.') from None
  except (OSError, ValueError, http.client.HTTPException) as e:
    cause = getattr(e, 'reason', e)
    raise InputError(
      f'Cannot download {address}: {cause}. Check the address and your network connection.'
    ) from None
  if expected is not None and to.tell() != int(expected):
    raise InputError(
      f'The download of {address} ended after {to.tell():,} of {int(expected):,} bytes. Try again.'
    )


def _download_fsspec(address: str, to: BinaryIO) -> None:
  with _fsspec_errors(address):
    fs, name = _file_system(address)
    with fs.open(name, 'rb') as f:
      shutil.copyfileobj(f, to, _CHUNK)


def _file_system(address: str) -> tuple[Any, str]:
  """Return fsspec's file system for an address, and the name of the file in it."""
  import fsspec
  from fsspec.asyn import sync

  fs, name = fsspec.url_to_fs(address)
  if fs.async_impl:  # fsspec's own retries would go on for minutes
    sync(fs.loop, fs._info, name, timeout=_TIMEOUT)
  return fs, name


@contextlib.contextmanager
def _fsspec_errors(address: str) -> Iterator[None]:
  """Turn the errors of fsspec and its file systems into InputErrors that name the address."""
  from fsspec.exceptions import FSTimeoutError

  try:
    yield
  except FileNotFoundError:
    raise Missing(f'Cannot read {address}: no such file. Check the address.') from None
  except ImportError as e:
    raise InputError(f'Cannot read {address}: a package is missing ({e}).') from None
  except FSTimeoutError:
    raise InputError(
      f'Cannot read {address}: no answer within {_TIMEOUT} seconds. Check your network connection.'
    ) from None
  except Exception as e:  # every file system of fsspec has errors of its own
    raise InputError(
      f'Cannot read {address}: {first_line(e)}. Check the address and your access to it.'
    ) from e
