"""Local and remote files: paths, downloads, and writes that never leave half a file."""

from collections.abc import Iterator
import contextlib
import http.client
import importlib.util
import logging
import os
import pathlib
import platform
import re
import resource
import ssl
import time
from typing import Any, BinaryIO, Protocol
import urllib.error
import urllib.parse
import urllib.request

from etils import epath

from vit_jax.errors import InputError, first_line, machine_failure

AnyPath = pathlib.Path | epath.Path  # local, or in a bucket
log = logging.getLogger('vit_jax')
_TIMEOUT = 20  # seconds to wait for an answer, or for the next byte
_TRIES = 3  # how often a download may fail without receiving anything new
_WAIT = 1  # seconds before the second try; longer before the third
TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)  # HTTP status codes of failures that may pass
_CHUNK = 1 << 20  # bytes
_MAX_OPEN_FILES = 65536
# Some servers, such as Wikimedia's, refuse programs that do not give their name.
_USER_AGENT = f'vit_jax (Vision Transformers in JAX) Python-urllib/{platform.python_version()}'
_PUBLIC_BUCKETS = 'https://storage.googleapis.com/'  # serves public gs:// files without an account


class Missing(InputError):
  """The server answered, but the file does not exist or this user may not read it."""


class CannotStore(InputError):
  """A download cannot be written to the local disk."""


def is_remote(path: str | os.PathLike[str]) -> bool:
  """Return True for an address such as https://... or gs://..."""
  return '://' in os.fspath(path)


def user_path(path: str | os.PathLike[str]) -> pathlib.Path:
  """Return a local path with ~ replaced by the home directory.

  Raises:
    InputError: the path begins with ~/, but nothing says where the home directory is.
  """
  path = pathlib.Path(path)
  try:
    return path.expanduser()
  except RuntimeError:
    if path.parts[0] != '~':
      return path  # the name of a file that begins with ~, as in a shell
    raise InputError(
      f'Cannot find {path}: the home directory of this user is unknown. Set the environment '
      'variable HOME, or give a path without ~.'
    ) from None


def cache_directory() -> pathlib.Path:
  """Return this user's directory for what can be made again. It may not exist yet.

  Raises:
    InputError: nothing says where the home directory is.
  """
  return user_path(os.environ.get('XDG_CACHE_HOME') or '~/.cache') / 'vit_jax'


def any_path(path: str | os.PathLike[str]) -> AnyPath:
  """Return a path that is local or remote.

  Raises:
    InputError: it is on a kind of storage that cannot be written.
  """
  if not is_remote(path):
    return user_path(path)
  try:
    return epath.Path(path)
  except KeyError:
    raise InputError(
      f'{os.fspath(path)} cannot be written. Give a local path, gs:// or s3://.'
    ) from None


def printable(name: str) -> str:
  """Return the name of a file or class for a line of text or a picture.

  Bytes that are no character become U+FFFD. Line breaks and other control characters are escaped.
  """
  return ''.join(
    c if c.isprintable() else '\ufffd' if '\ud800' <= c <= '\udfff' else ascii(c)[1:-1]
    for c in name
  )


def allow_open_files() -> None:
  """Raise the soft limit on open files: every shard stays open, and ImageNet has 1,024."""
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  wanted = _MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_OPEN_FILES)
  if soft != resource.RLIM_INFINITY and soft < wanted:
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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
  """Write a text file, local or remote. A kill or a full disk never leaves half a file.

  Characters that UTF-8 cannot hold, such as those of odd file names, are escaped.
  """
  if is_remote(path):  # object stores replace a file as a whole
    path.write_bytes(text.encode('utf-8', 'backslashreplace'))
    return
  with _replacement(pathlib.Path(path)) as temporary:
    temporary.write_text(text, encoding='utf-8', errors='backslashreplace')


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Yield a temporary path that replaces the local `path` if the block succeeds.

  If the block fails, the temporary file is deleted and `path` stays as it was.

  Raises:
    InputError: the file cannot be written there.
  """
  path = local_path(path)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _replacement(path) as temporary:
      yield temporary
  except OSError as e:
    raise InputError(f'Cannot write {path}: {e.strerror or e}. Choose another path.') from e


@contextlib.contextmanager
def _replacement(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yield a temporary path. If the block succeeds, it replaces `path` once it is on the disk."""
  temporary = path.with_name(f'.{path.name[:40]}.{os.getpid()}.tmp')  # names have at most 255 bytes
  try:
    yield temporary
    _sync(temporary)
    os.replace(temporary, path)
    with contextlib.suppress(OSError):  # some file systems cannot sync a directory
      _sync(path.parent)
  finally:
    temporary.unlink(missing_ok=True)


def _sync(path: pathlib.Path) -> None:
  """Wait until a file is on the disk. Otherwise a power failure could leave an empty one."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def download(address: str, target: pathlib.Path) -> None:
  """Copy the file at `address` to `target`, a megabyte at a time.

  https:// addresses and public gs:// buckets need no other package. Private gs:// buckets need the
  package gcsfs, and s3:// needs s3fs. Every address that fsspec can open works, with the login of
  its package. When the connection breaks, the download goes on where it was. `target` is replaced
  as a whole.

  Raises:
    Missing: the file does not exist.
    CannotStore: the disk is full, or `target` cannot be written for another reason.
    InputError: the download failed, or a package is missing. The error is raised within a minute
      after the last byte, and names the address or the package.
  """
  log.info('Downloading %s.', address)
  scheme, rest = address.split('://', 1)
  if scheme == 'gs' and importlib.util.find_spec('gcsfs') is None:
    url = _PUBLIC_BUCKETS + urllib.parse.quote(rest, errors='surrogateescape')
    source = _HttpFile(url, address, ' If the bucket is private, run: pip install gcsfs')
  elif scheme in ('http', 'https'):
    source = _HttpFile(_quote(address), address)
  else:
    source = _FsspecFile(address)
  try:
    with _replacement(target) as temporary, open(temporary, 'wb') as f:
      _copy(source, f)
  except OSError as e:
    raise CannotStore(
      f'Cannot store {address} in {target.parent}: {e.strerror or e}. Free some space there, or '
      'set TMPDIR to a directory on another disk.'
    ) from e


def check_reachable(address: str) -> None:
  """Raise InputError unless fsspec finds a file or directory at `address` within _TIMEOUT."""
  with fsspec_errors(address):
    _file_system(address)


class _Broken(Exception):
  """A failure that another try may avoid. Carries the InputError to raise if none does."""

  def __init__(self, error: InputError, wait: float = 0):
    super().__init__()
    self.error, self.wait = error, wait  # seconds that the server asks to wait


class _RemoteFile(Protocol):
  """A remote file to copy. Its methods raise InputError, or _Broken if another try may help."""

  address: str
  size: int | None  # bytes; None if the server does not say

  def open(self, start: int) -> int:
    """Open the file again. Return the position that `read` starts from: `start` or 0."""
    ...

  def read(self) -> bytes:
    """Return up to _CHUNK bytes, or none at the end."""
    ...


def _copy(source: _RemoteFile, to: BinaryIO) -> None:
  """Copy a remote file to an open local one. An OSError always comes from the local one."""
  most, failures, last_progress = 0, 0, time.monotonic()
  while True:
    try:
      to.seek(source.open(to.tell()))
      to.truncate()
      while chunk := source.read():
        to.write(chunk)
      if source.size in (None, to.tell()):
        return
      broken = _Broken(
        InputError(
          f'The download of {source.address} ended after {to.tell():,} of {source.size:,} bytes. '
          'Try again.'
        )
      )
    except _Broken as e:
      broken = e
    if to.tell() > most:
      most, failures, last_progress = to.tell(), 0, time.monotonic()
    failures += 1
    if failures == _TRIES or time.monotonic() - last_progress > 2 * _TIMEOUT:
      raise broken.error from None
    time.sleep(max(broken.wait, _WAIT * failures))


class _HttpFile:
  """A file on a web server. If the server allows it, reading goes on in the middle of the file."""

  def __init__(self, url: str, address: str, hint: str = ''):
    """Remember the file.

    Args:
      url: where to read it.
      address: what the user calls it.
      hint: added to the error for a file that does not exist.
    """
    self.address, self._url, self._hint = address, url, hint
    self.size: int | None = None
    self._response: Any = None
    self._version: str | None = None  # of the file, to notice that it has changed meanwhile

  def open(self, start: int) -> int:
    """Send a request. Return where the answer starts."""
    headers = {'User-Agent': _USER_AGENT, 'Accept-Encoding': 'identity'}
    if start and self.size:
      headers['Range'] = f'bytes={start}-'
      if self._version:
        headers['If-Range'] = self._version
    with self._errors():
      request = urllib.request.Request(self._url, headers=headers)
      self._response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    answer = self._response.headers
    if self._response.status == 206:
      span = re.fullmatch(rf'bytes {start}-\d+/(\d+)', answer.get('Content-Range', ''))
      if span and int(span[1]) == self.size:
        return start
      return self.open(0)  # this is another file now, or the server confuses ranges
    tag = answer.get('ETag') or ''
    self._version = answer.get('Last-Modified') if tag.startswith('W/') or not tag else tag
    length = answer.get('Content-Length') or ''
    self.size = int(length) if length.isdecimal() else None
    return 0

  def read(self) -> bytes:
    """Return what has arrived."""
    with self._errors():
      return self._response.read1(_CHUNK)

  @contextlib.contextmanager
  def _errors(self) -> Iterator[None]:
    """Turn the errors of urllib into InputError, or into _Broken if another try may help."""
    try:
      yield
    except urllib.error.HTTPError as e:
      answer = f'Cannot download {self.address}: HTTP {e.code} {e.reason}.'
      if e.code in (403, 404, 410):
        raise Missing(f'{answer} Check the address.{self._hint}') from None
      if e.code == 416:  # the file is shorter now
        self.size = None
      elif e.code not in TRY_AGAIN:
        raise InputError(f'{answer} Check the address and your access to it.') from None
      wait = e.headers.get('Retry-After') or ''
      seconds = min(int(wait), _TIMEOUT) if wait.isdecimal() else 0
      raise _Broken(InputError(f'{answer} Try again later.'), seconds) from None
    except (OSError, ValueError, http.client.HTTPException) as e:
      cause = getattr(e, 'reason', e)
      error = InputError(
        f'Cannot download {self.address}: {cause}. Check the address and your network connection.'
      )
      if isinstance(e, ValueError) or isinstance(cause, ssl.SSLCertVerificationError):
        raise error from None
      raise _Broken(error) from None


class _FsspecFile:
  """A file on one of the file systems of fsspec."""

  def __init__(self, address: str):
    """Remember the address."""
    self.address = address
    self.size: int | None = None
    self._file: Any = None

  def open(self, start: int) -> int:
    """Open the file at a position."""
    with self._errors():
      fs, name = _file_system(self.address)
      self._file = fs.open(name, 'rb')
      self._file.seek(start)
      self.size = getattr(self._file, 'size', None)
    return start

  def read(self) -> bytes:
    """Return the next chunk."""
    with self._errors():
      return self._file.read(_CHUNK)

  @contextlib.contextmanager
  def _errors(self) -> Iterator[None]:
    """Turn the errors of fsspec into InputError, or into _Broken if another try may help."""
    try:
      with fsspec_errors(self.address):
        yield
    except InputError as e:
      # No such file, a missing package, an unknown kind of address.
      if isinstance(e.__context__, (FileNotFoundError, PermissionError, ImportError, ValueError)):
        raise
      raise _Broken(e) from e.__cause__


def _quote(address: str) -> str:
  """Encode the characters of an https:// address that a request cannot hold.

  Raises:
    InputError: the name of the server is not valid.
  """
  try:
    parts = urllib.parse.urlsplit(address)
    user, at, server = parts.netloc.rpartition('@')
    if not server.isascii():
      host, colon, port = server.partition(':')
      server = host.encode('idna').decode() + colon + port
  except ValueError as e:
    raise InputError(f'Cannot download {address}: {e}. Check the address.') from None
  path, query = (
    urllib.parse.quote(
      re.sub('%(?![0-9A-Fa-f]{2})', '%25', text), "%/:@!$&'()*+,;=?", errors='surrogateescape'
    )
    for text in (parts.path, parts.query)
  )
  return urllib.parse.urlunsplit((parts.scheme, user + at + server, path, query, ''))


def _file_system(address: str) -> tuple[Any, str]:
  """Return fsspec's file system for an address, and the name of the file in it."""
  import fsspec
  from fsspec.asyn import sync

  fs, name = fsspec.url_to_fs(address)
  if fs.async_impl:  # fsspec's own retries would go on for minutes
    sync(fs.loop, fs._info, name, timeout=_TIMEOUT)
  return fs, name


@contextlib.contextmanager
def fsspec_errors(address: str, verb: str = 'read') -> Iterator[None]:
  """Turn the errors of fsspec and its file systems into InputErrors that name the address.

  Args:
    address: of a file.
    verb: says what cannot be done with it.
  """
  from fsspec.exceptions import FSTimeoutError

  try:
    yield
  except FileNotFoundError:
    raise Missing(f'Cannot {verb} {address}: no such file. Check the address.') from None
  except ImportError as e:
    raise InputError(f'Cannot {verb} {address}: a package is missing ({e}).') from None
  except FSTimeoutError:
    raise InputError(
      f'Cannot {verb} {address}: no answer within {_TIMEOUT} seconds. Check your network '
      'connection.'
    ) from None
  except Exception as e:  # every file system of fsspec has errors of its own
    if machine_failure(e):
      raise
    raise InputError(
      f'Cannot {verb} {address}: {first_line(e)}. Check the address and your access to it.'
    ) from e
