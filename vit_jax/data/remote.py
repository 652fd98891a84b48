"""Read and list files in buckets and on web servers, with many requests at once.

Every request goes through the event loop of fsspec, one thread of this process. A request that
fails for a reason that may pass, such as HTTP 503, is sent again for up to `_PATIENCE` seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
import concurrent.futures
import functools
import hashlib
import http
import logging
import os
import random
import threading
import time
from typing import Any, NamedTuple, TypeVar

from vit_jax.data.request_failures import (
  TIMEOUT,
  how_to_log_in,
  http_status,
  is_denied,
  may_pass,
  short_reason,
)
from vit_jax.errors import InputError
from vit_jax.files import Missing, fsspec_errors

log = logging.getLogger('vit_jax')
_T = TypeVar('_T')

IN_FLIGHT = 100  # requests at the same time; aiohttp opens this many connections
_PATIENCE = 120  # seconds in which a request is sent again after its first failure
_QUEUE = 120  # seconds to wait for a thread; all of them may hang in earlier calls
_WAIT = 0.5  # seconds before the second try; doubled before each of the next
_LONGEST_WAIT = 16  # seconds
# Fields of fsspec's `info` that name the version of a file, the most reliable first.
_VERSIONS = ('generation', 'etag', 'blobid', 'lastmodified', 'mtime', 'created')
_LONG = 5  # seconds without an answer that a user should know of


_connecting = threading.Lock()  # many threads begin to read at once, and fsspec is imported first


class _GaveUp(Exception):
  """A request went on failing for a reason that might have passed."""


class Denied(InputError):
  """The storage does not allow this user to read the file, or does not say that it is missing."""


def start_reading(address: str, start: int | None = None, stop: int | None = None) -> Pending:
  """Start to read the bytes [start:stop] of a file, or the whole file, in the background."""
  return Pending(address, _start('read', 'cat_file', address, start=start, end=stop))


class Pending:
  """Bytes that are on their way."""

  def __init__(self, address: str, future: concurrent.futures.Future[bytes]):
    """Remember the address for messages, and the future of its bytes."""
    self._address, self._future = address, future

  def __call__(self) -> bytes:
    """Wait for the bytes and return them. Raise InputError if they cannot be read."""
    try:
      return _result('read', self._address, self._future)
    except InputError as e:
      if http_status(e) == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return b''  # the file ends before
      raise


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
    found = _call('read', 'ls', address.rstrip('/') + '/', detail=True)
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
    found = _call('read', 'find', address)
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
    _call('read', 'info', address)
    return True
  except Missing:
    return False


def file_size(address: str) -> int:
  """Return the size of a remote file in bytes. Raise InputError if it cannot be found out."""
  return file_stamp(address)[0]


def file_stamp(address: str) -> tuple[int, int]:
  """Return the size of a remote file in bytes, and a number for its version.

  The number changes when the file is replaced. It is 0 if the server names no versions.

  Raises:
    InputError: the size cannot be found out.
  """
  info = _call('read', 'info', address)
  if info['size'] is None:
    raise InputError(
      f'Cannot read {address}: the server does not say how large the file is. Download the file.'
    )
  fields = {key.lower().replace('-', '').replace('_', ''): value for key, value in info.items()}
  version = next((str(fields[key]) for key in _VERSIONS if fields.get(key)), None)
  digest = hashlib.sha256(version.encode()).digest() if version else b''
  return info['size'], int.from_bytes(digest[:7], 'little')  # fits in int64


def write_file(address: str, content: bytes) -> None:
  """Replace a remote file as a whole. Raise InputError if it cannot be written."""
  if address.startswith(('http://', 'https://')):
    raise InputError(f'Cannot write {address}: it is on a web server. Write to another place.')
  if address.startswith('hf://'):  # each file would be a commit to the user's repository
    raise InputError(f'Cannot write {address}: it is on the hub. Write to another place.')
  _call('write', 'pipe_file', address, content)


def _call(verb: str, method: str, address: str, *args: Any, **options: Any) -> Any:
  """Return what a method of the file system of an address returns. The verb is for messages."""
  return _result(verb, address, _start(verb, method, address, *args, **options))


def _start(
  verb: str, method: str, address: str, *args: Any, **options: Any
) -> concurrent.futures.Future[Any]:
  """Call a method of the file system of an address in the background."""
  fs, loop = _file_system(address)

  def request() -> Awaitable[Any]:
    if fs.async_impl:
      coroutines = dict(
        cat_file=fs._cat_file, find=fs._find, info=fs._info, ls=fs._ls, pipe_file=fs._pipe_file
      )
      return asyncio.wait_for(coroutines[method](address, *args, **options), TIMEOUT)
    return _in_thread(functools.partial(getattr(fs, method), address, *args, **options))

  again = _keep_trying(request, f'{verb} {address}')
  return asyncio.run_coroutine_threadsafe(again, loop)


async def _in_thread(call: Callable[[], Any]) -> Any:
  """Return what a blocking call returns. Its time counts from when a thread begins with it."""
  loop, begun = asyncio.get_running_loop(), asyncio.Event()

  def run() -> Any:
    loop.call_soon_threadsafe(begun.set)
    return call()

  future = loop.run_in_executor(_threads(os.getpid()), run)
  try:
    await asyncio.wait_for(begun.wait(), _QUEUE)
  except TimeoutError:
    future.cancel()
    raise
  return await asyncio.wait_for(future, TIMEOUT)


@functools.cache
def _threads(process: int) -> concurrent.futures.ThreadPoolExecutor:
  """Return the threads for blocking requests. A forked process needs others."""
  del process
  pool = concurrent.futures.ThreadPoolExecutor(IN_FLIGHT, 'vit_jax_remote')
  # All threads start now. Later, the pool may take a busy one for idle, and start none instead.
  started = threading.Barrier(IN_FLIGHT)
  try:
    list(pool.map(lambda _: started.wait(), range(IN_FLIGHT)))
  except RuntimeError:  # the machine allows no more; those that wait must end
    started.abort()
    pool.shutdown(wait=False)
    raise
  return pool


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


async def _keep_trying(request: Callable[[], Awaitable[_T]], what: str) -> _T:
  """Return the answer to a request, which is repeated while it fails for passing reasons.

  Args:
    request: starts the request.
    what: says in the log what cannot be done.
  """
  first_failure, wait, tries, begin = None, _WAIT, 0, time.monotonic()
  async with _slots(asyncio.get_running_loop()):
    while True:
      tries += 1
      try:
        return await request()
      except Exception as e:  # every file system of fsspec has errors of its own
        now = time.monotonic()
        first_failure = first_failure or now
        if not may_pass(e):
          raise
        if now - first_failure + wait > _PATIENCE:
          raise _GaveUp(f'{short_reason(e)} ({tries} tries in {now - first_failure:.0f} s)') from e
        if tries == 3 or (tries == 1 and now - begin > _LONG):  # gcsfs itself tries for 30 s
          log.warning('Cannot %s: %s. Trying again.', what, short_reason(e))
      await asyncio.sleep(wait * random.uniform(0.75, 1.25))
      wait = min(2 * wait, _LONGEST_WAIT)


def _result(verb: str, address: str, future: concurrent.futures.Future[_T]) -> _T:
  """Wait for an answer. Raise InputError that names the address if there is none."""
  while not future.done():
    concurrent.futures.wait([future], timeout=1)
    if not threading.main_thread().is_alive():  # it waits for this thread to end
      raise InputError(f'Cannot {verb} {address}: the program ends.')
  try:
    with fsspec_errors(address, verb):
      return future.result()
  except InputError as e:
    cause = e.__cause__
    if isinstance(cause, _GaveUp):
      raise InputError(
        f'Cannot {verb} {address}: {cause}. Check your network connection and the state of the '
        'storage service, and run the same command again.'
      ) from cause
    if cause is not None and is_denied(cause):
      raise Denied(
        f'Cannot {verb} {address}: access denied ({short_reason(cause)}). {how_to_log_in(address)}'
      ) from cause
    raise
