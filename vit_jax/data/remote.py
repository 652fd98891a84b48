"""Read and list files in buckets and on web servers, with many requests at once.

Every request goes through the event loop of fsspec, one thread of this process. A request that
fails for a reason that may pass, such as HTTP 503, is sent again for up to `_PATIENCE` seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
import concurrent.futures
import functools
import http
import logging
import os
import random
import threading
import time
from typing import Any, NamedTuple, TypeVar

from vit_jax.errors import InputError, causes, first_line
from vit_jax.files import TRY_AGAIN, Missing, fsspec_errors

log = logging.getLogger('vit_jax')
_T = TypeVar('_T')

IN_FLIGHT = 100  # requests at the same time; aiohttp opens this many connections
_TIMEOUT = 60  # seconds to wait for a whole answer; gcsfs repeats requests for 30 s by itself
_PATIENCE = 120  # seconds in which a request is sent again after its first failure
_WAIT = 0.5  # seconds before the second try; doubled before each of the next
_LONGEST_WAIT = 16  # seconds
_LONG = 5  # seconds without an answer that a user should know of


_connecting = threading.Lock()  # many threads begin to read at once, and fsspec is imported first


class _GaveUp(Exception):
  """A request went on failing for a reason that might have passed."""


def start_reading(address: str, start: int | None = None, stop: int | None = None) -> Pending:
  """Start to read the bytes [start:stop] of a file, or the whole file, in the background."""
  fs, loop = _file_system(address)

  async def read() -> bytes:
    if not fs.async_impl:
      return await asyncio.to_thread(fs.cat_file, address, start=start, end=stop)
    try:
      return await fs._cat_file(address, start=start, end=stop)
    except Exception as e:  # every file system of fsspec has errors of its own
      if _status(e) == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return b''  # the file ends before
      raise

  return Pending(address, asyncio.run_coroutine_threadsafe(_keep_trying(read, address), loop))


class Pending:
  """Bytes that are on their way."""

  def __init__(self, address: str, future: concurrent.futures.Future[bytes]):
    """Remember the address for messages, and the future of its bytes."""
    self._address, self._future = address, future

  def __call__(self) -> bytes:
    """Wait for the bytes and return them. Raise InputError if they cannot be read."""
    return _result(self._address, self._future)


class Entry(NamedTuple):
  """A file or a directory.

  Attributes:
    is_directory: True if it is a directory.
    size: of a file, in bytes, or None if the server does not say.
  """

  is_directory: bool
  size: int | None


def list_directory(address: str) -> dict[str, Entry]:
  """Return {name: entry} of what is in a remote directory, or {} if there is no such directory.

  Web servers have no directories. Their pages list the links below the address, if any.

  Raises:
    InputError: the storage cannot be reached, or does not allow listing.
  """
  try:
    found = _call(address, lambda fs: fs.ls(address.rstrip('/') + '/', detail=True))
  except Missing:
    return {}
  entries = {}
  for entry in found:
    above, _, name = entry['name'].rstrip('/').rpartition('/')
    is_directory = entry['type'] == 'directory'
    # An object that is called like the directory may mark it, or be listed instead of it.
    if is_directory or not address.rstrip('/').endswith(f'{above}/{name}'.lstrip('/')):
      entries[name] = Entry(is_directory, None if is_directory else entry['size'])
  return entries


def find_files(address: str) -> list[str]:
  """Return the paths of all files below a remote directory, relative to it.

  Raises:
    InputError: the storage cannot be reached, or does not allow listing.
  """
  directory = address.rstrip('/').split('://', 1)[1]
  try:
    found = _call(address, lambda fs: fs.find(address))
  except Missing:
    return []
  return [
    path.partition(f'{directory}/')[2]
    for path in found
    if path.partition(f'{directory}/')[2] and not path.endswith('/')
  ]


def exists(address: str) -> bool:
  """Return True if there is a file at the address. Raise InputError if nobody answers."""
  try:
    _call(address, lambda fs: fs.info(address))
    return True
  except Missing:
    return False


def file_size(address: str) -> int:
  """Return the size of a remote file in bytes. Raise InputError if it cannot be found out."""
  size = _call(address, lambda fs: fs.info(address)['size'])
  if size is None:
    raise InputError(
      f'Cannot read {address}: the server does not say how large the file is. Download the file.'
    )
  return size


def write_file(address: str, content: bytes) -> None:
  """Replace a remote file as a whole. Raise InputError if it cannot be written."""
  if address.startswith(('http://', 'https://')):
    raise InputError(f'Cannot write {address}: it is on a web server. Write to another place.')
  if address.startswith('hf://'):  # each file would be a commit to the user's repository
    raise InputError(f'Cannot write {address}: it is on the hub. Write to another place.')
  _call(address, lambda fs: fs.pipe_file(address, content))


def _call(address: str, request: Callable[[Any], _T]) -> _T:
  """Return what a blocking request to the file system of an address returns."""
  fs, loop = _file_system(address)
  again = _keep_trying(lambda: asyncio.to_thread(request, fs), address)
  return _result(address, asyncio.run_coroutine_threadsafe(again, loop))


def _file_system(address: str) -> tuple[Any, asyncio.AbstractEventLoop]:
  """Return fsspec's file system for an address, and the event loop that its requests run in."""
  with fsspec_errors(address), _connecting:
    return connect(address.split('://', 1)[0], os.getpid())


@functools.cache
def connect(protocol: str, process: int) -> tuple[Any, asyncio.AbstractEventLoop]:
  """Make a file system. A forked process needs another one, because threads do not survive."""
  del process
  import fsspec
  from fsspec.asyn import get_loop

  options: dict[str, Any] = dict(use_listings_cache=False, skip_instance_cache=True)
  if protocol in ('s3', 's3a'):
    options['config_kwargs'] = dict(max_pool_connections=IN_FLIGHT)  # 10 by default
  if protocol in ('gs', 'gcs'):
    # gcsfs would ask for the type of the bucket before every request, and log a warning each time
    # that this is not allowed. Zonal buckets need it: set the variable to true.
    os.environ.setdefault('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')
    logging.getLogger('gcsfs').setLevel(logging.CRITICAL)  # it logs what it also raises
  fs = fsspec.filesystem(protocol, **options)
  return fs, fs.loop if fs.async_impl else get_loop()


@functools.cache
def _slots(loop: asyncio.AbstractEventLoop) -> asyncio.Semaphore:
  """Return the semaphore that limits the requests in flight."""
  del loop
  return asyncio.Semaphore(IN_FLIGHT)


async def _keep_trying(request: Callable[[], Awaitable[_T]], address: str) -> _T:
  """Return the answer to a request, which is repeated while it fails for passing reasons."""
  first_failure, wait, tries, begin = None, _WAIT, 0, time.monotonic()
  async with _slots(asyncio.get_running_loop()):
    while True:
      tries += 1
      try:
        return await asyncio.wait_for(request(), _TIMEOUT)
      except Exception as e:  # every file system of fsspec has errors of its own
        now = time.monotonic()
        first_failure = first_failure or now
        if not _may_pass(e):
          raise
        if now - first_failure + wait > _PATIENCE:
          raise _GaveUp(f'{_reason(e)} ({tries} tries in {now - first_failure:.0f} s)') from e
        if tries == 3 or (tries == 1 and now - begin > _LONG):  # gcsfs itself tries for 30 s
          log.warning('Reading %s failed: %s. Trying again.', address, _reason(e))
      await asyncio.sleep(wait * random.uniform(0.75, 1.25))
      wait = min(2 * wait, _LONGEST_WAIT)


def _result(address: str, future: concurrent.futures.Future[_T]) -> _T:
  """Wait for an answer. Raise InputError that names the address if there is none."""
  while not future.done():
    concurrent.futures.wait([future], timeout=1)
    if not threading.main_thread().is_alive():  # it waits for this thread to end
      raise InputError(f'Cannot read {address}: the program ends.')
  try:
    with fsspec_errors(address):
      return future.result()
  except InputError as e:
    cause = e.__cause__
    if isinstance(cause, _GaveUp):
      raise InputError(
        f'Cannot read {address}: {cause}. Check your network connection and the state of the '
        'storage service, and run the same command again.'
      ) from cause
    if cause is not None and _is_denied(cause):
      raise InputError(
        f'Cannot read {address}: access denied ({_reason(cause)}). {_login(address)}'
      ) from cause
    raise


def _is_denied(error: BaseException) -> bool:
  """Return True if the storage wants another login."""
  return (
    _status(error) in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN)
    or isinstance(error, PermissionError)
    or 'Credentials' in type(error).__name__
    or first_line(error).startswith('Forbidden')
  )


def _login(address: str) -> str:
  """Return what to do if access to an address is denied."""
  commands = {
    'gs': 'gcloud auth application-default login',
    'hf': 'hf auth login',
    's3': 'aws configure',
  }
  command = commands.get(address.split('://', 1)[0])
  login = f', or log in with `{command}`' if command else ''
  return f'Check the address{login}.'


def _status(error: BaseException) -> int | None:
  """Return the HTTP status that an error of a file system carries, or None."""
  for cause in causes(error):
    response = getattr(cause, 'response', None)  # of botocore
    metadata = response.get('ResponseMetadata', {}) if isinstance(response, dict) else {}
    status = getattr(cause, 'status', None) or metadata.get('HTTPStatusCode')
    status = status or getattr(response, 'status_code', None)  # of huggingface_hub
    status = status or getattr(cause, 'code', None)  # of gcsfs; in aiohttp it is deprecated
    if str(status).isdecimal():
      return int(str(status))
  return None


def _may_pass(error: BaseException) -> bool:
  """Return True if the same request may succeed later."""
  if status := _status(error):
    return status in TRY_AGAIN
  if 'Credentials' in type(error).__name__ or getattr(error, 'retryable', True) is False:
    return False  # botocore and google.auth find no login, or one that has expired
  never = (
    FileNotFoundError,
    PermissionError,
    ImportError,
    ValueError,
    TypeError,
    NotImplementedError,
  )
  return not isinstance(error, never) and not first_line(error).startswith('Forbidden')


def _reason(error: BaseException) -> str:
  """Return in a few words why a request failed."""
  if status := _status(error):
    names = {int(s): s.phrase for s in http.HTTPStatus}
    return f'HTTP {status} {names.get(status, "")}'.rstrip()
  if isinstance(error, TimeoutError) and not str(error):
    return f'no answer within {_TIMEOUT} seconds'
  return first_line(error).rstrip('.')
