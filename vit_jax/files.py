"""Files: downloads, and replacement in one piece."""

from collections.abc import Iterator
import contextlib
import http.client
import importlib.util
import logging
import os
import pathlib
import shutil
import urllib.error
import urllib.parse
import urllib.request

from etils import epath
import fsspec

from vit_jax.errors import InputError

log = logging.getLogger('vit_jax')
_TIMEOUT = 20  # seconds without an answer or a byte
_GS = 'https://storage.googleapis.com/'  # where public buckets can be read without an account


def is_remote(path: str | os.PathLike) -> bool:
  """Whether `path` is an address such as https://... or gs://..."""
  return '://' in os.fspath(path)


class Missing(InputError):
  """The address answers, and holds no such file, or none for this user."""


def download(address: str, target: pathlib.Path) -> None:
  """Copies the file at `address` to `target`, a megabyte at a time.

  https:// needs nothing, nor does gs:// for public buckets; private ones need the package gcsfs,
  s3:// s3fs: whatever fsspec can open, with that package's own way to log in.

  Raises:
    Missing: there is no such file.
    InputError: naming the address, or the package that is missing; within a minute.
  """
  log.info('downloading %s', address)
  scheme, rest = address.split('://', 1)
  with open(target, 'wb') as f:
    if scheme == 'gs' and importlib.util.find_spec('gcsfs') is None:
      _download_http(
        _GS + urllib.parse.quote(rest), f, address, '; a private bucket needs: pip install gcsfs'
      )
    elif scheme in ('http', 'https'):
      _download_http(address, f, address)
    else:
      _download_fsspec(address, f)


def check_reachable(address: str) -> None:
  """Raises InputError unless fsspec finds something at `address`, within _TIMEOUT."""
  with _fsspec_errors(address):
    _file_system(address)


def _download_http(url, to, address, hint=''):
  try:
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
      expected = response.headers.get('Content-Length')
      shutil.copyfileobj(response, to, 1 << 20)
  except urllib.error.HTTPError as e:
    missing = e.code in (403, 404)
    raise (Missing if missing else InputError)(
      f'{address} cannot be downloaded (HTTP {e.code} {e.reason}){hint * missing}'
    ) from None
  except (OSError, ValueError, http.client.HTTPException) as e:
    reason = getattr(e, 'reason', e)
    raise InputError(f'{address} cannot be downloaded ({reason}); is the network up?') from None
  if expected is not None and to.tell() != int(expected):
    raise InputError(
      f'{address} broke off after {to.tell():,} of {int(expected):,} bytes; try again'
    )


def _download_fsspec(address, to):
  with _fsspec_errors(address):
    fs, name = _file_system(address)
    with fs.open(name, 'rb') as f:
      shutil.copyfileobj(f, to, 1 << 20)


def _file_system(address):
  fs, name = fsspec.url_to_fs(address)
  if fs.async_impl:  # whose own retries go on for minutes
    fsspec.asyn.sync(fs.loop, fs._info, name, timeout=_TIMEOUT)
  return fs, name


@contextlib.contextmanager
def _fsspec_errors(address):
  try:
    yield
  except FileNotFoundError:
    raise Missing(f'{address}: no such file') from None
  except ImportError as e:
    raise InputError(f'{address} needs a package that is not installed: {e}') from None
  except fsspec.exceptions.FSTimeoutError:
    raise InputError(f'{address} does not answer; is the network up?') from None
  except Exception as e:  # each of fsspec's file systems has its own
    raise InputError(f'{address} cannot be read ({_first_line(e)})') from e


def _first_line(e):
  return (str(e).strip().splitlines() or [type(e).__name__])[0]


def local(path: str | os.PathLike) -> pathlib.Path:
  """A path to write to; an address is an InputError."""
  if is_remote(path):
    raise InputError(f'{os.fspath(path)}: write to a local path and copy the result there')
  return pathlib.Path(path).expanduser().absolute()


def write_whole(path: pathlib.Path | epath.Path, text: str) -> None:
  """Write a text file that a kill or a full disk never leaves half written."""
  replacement = path.with_suffix('.tmp')
  replacement.write_text(text)
  replacement.replace(path)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """A temporary path that takes the place of `path` when all went well, else vanishes.

  Raises:
    InputError: when it cannot be written there.
  """
  path = local(path)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      yield temporary
      os.replace(temporary, path)
    finally:
      temporary.unlink(missing_ok=True)
  except OSError as e:
    raise InputError(f'cannot write {path}: {e.strerror or e}') from e
