"""Let only one process at a time write to a directory.

A process that writes keeps a small file there, which says who it is. Another one that finds the
file refuses to start, unless the first process has died:

- The operating system of a machine knows which processes live, and frees the lock (flock) of one
  that ends, however it ends. The next process on that machine starts at once.
- A process on another machine is judged by its file, on a network file system or in a bucket. It
  renews the file while it lives. If it has not done so for _STALE_SECONDS, another takes over.
"""

import fcntl
import json
import logging
import os
import pathlib
import socket
import threading
import time
from types import TracebackType
from typing import NamedTuple
import uuid

from vit_jax.errors import InputError, reason
from vit_jax.files import AnyPath

log = logging.getLogger('vit_jax')

_RENEW_SECONDS = 15
_STALE_SECONDS = 90
_OLD_SECONDS = 600  # nobody needs to watch an older file: clocks do not differ by that much
_PATIENCE_SECONDS = 1  # for the lock of a process that has ended, and for a half-written file
_SETTLE_SECONDS = 2  # for two processes that write the file at once to see which came last


class Holder(NamedTuple):
  """The process that holds a lock, as its file describes it."""

  id: str  # differs between two locks of one process, too
  host: str
  boot: str  # see `_boot`
  namespace: str  # processes in other containers have other numbers
  pid: int
  birth: str  # see `_birth`
  started: int  # when it took the lock, in seconds since 1970
  renewed: int


class Lock:
  """Holds a lock file, as a context manager."""

  def __init__(self, path: AnyPath, name: str, advice: str):
    """Describe the lock. Entering the context manager takes it.

    Args:
      path: the lock file. It exists only while a process holds the lock or after it was killed.
      name: what is locked. It begins the sentence '... is in use by process 7 on host a'.
      advice: sentence that says what to do about it.
    """
    self._path, self._name, self._advice = path, name, advice
    self._descriptor: int | None = None  # of the open file, if its file system has locks
    self._closing = threading.Event()
    self._thread = threading.Thread(target=self._keep_renewing, daemon=True, name='lock')

  def __enter__(self) -> 'Lock':
    """Take the lock.

    Raises:
      InputError: another process holds it.
      Exception: the file cannot be written. Each kind of storage has errors of its own.
    """
    now = round(time.time())
    identity = uuid.uuid4().hex, socket.gethostname(), _boot(), _namespace(), os.getpid()
    self._mine = Holder(*identity, _birth(os.getpid()) or '', now, now)
    if isinstance(self._path, pathlib.Path):
      self._descriptor = self._open(self._path)
    try:
      holder = self._read() if self._descriptor is not None else self._read_settled()
      if holder is not None and not self._is_gone(holder):
        raise self._in_use(self._read() or holder)
      self._write()
      if self._descriptor is None:
        time.sleep(_SETTLE_SECONDS)
        self.check()
    except BaseException:
      self._close()
      raise
    self._thread.start()
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    self._closing.set()
    self._thread.join(_RENEW_SECONDS)
    try:
      if self._other() is None:
        self._path.unlink(missing_ok=True)
    except Exception as e:  # must not hide the error that ended the block
      log.warning('Cannot remove %s: %s', self._path, reason(e))
    self._close()

  def check(self) -> None:
    """Raise InputError if another process has taken the lock, because this one seemed dead."""
    try:
      other = self._other()
    except Exception as e:  # each kind of storage has errors of its own, which may pass
      log.warning('Cannot read %s: %s', self._path, reason(e))
      return
    if other is not None:
      raise self._in_use(other)

  def _open(self, path: pathlib.Path) -> int | None:
    """Return the descriptor of the locked file, or None if the file system has no locks.

    Raises:
      InputError: another process holds the lock.
    """
    # A process that was killed keeps its lock for a moment, and a new one may not be written yet.
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
      descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
      try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
          return descriptor
      except BlockingIOError:
        if time.monotonic() > until:
          os.close(descriptor)
          raise self._in_use(self._read()) from None
        time.sleep(0.05)
      except FileNotFoundError:
        pass  # its holder has just removed it
      except OSError:  # such as ENOLCK of a network file system
        os.close(descriptor)
        return None
      os.close(descriptor)

  def _is_gone(self, holder: Holder) -> bool:
    """Return True if the process that wrote the file has ended. This can take _STALE_SECONDS."""
    mine = self._mine
    if self._descriptor is not None and holder.boot == mine.boot:
      return True  # it would still have the lock
    if (holder.host, holder.boot, holder.namespace) == (mine.host, mine.boot, mine.namespace):
      birth = _birth(holder.pid)
      return birth is None or birth not in ('', holder.birth)
    if time.time() - holder.renewed > _OLD_SECONDS:
      return True
    log.warning(
      '%s was last used by process %d on %s. Waiting up to %d s to see if that process is still '
      'running.',
      *(self._name, holder.pid, holder.host, _STALE_SECONDS),
    )
    until = time.monotonic() + _STALE_SECONDS
    while time.monotonic() < until:
      time.sleep(_STALE_SECONDS / 30)
      now = self._read()
      if now is None and not self._path.exists():
        return True  # it has ended
      if now not in (None, holder):
        return False
    return True

  def _in_use(self, holder: Holder | None) -> InputError:
    if holder is None:
      return InputError(f'{self._name} is in use by another process. {self._advice}')
    started = time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime(holder.started))
    return InputError(
      f'{self._name} is in use by process {holder.pid} on {holder.host}, which started at '
      f'{started}. {self._advice}'
    )

  def _other(self) -> Holder | None:
    """Return the holder in the file if it is another one."""
    holder = self._read()
    return None if holder is None or holder.id == self._mine.id else holder

  def _read(self) -> Holder | None:
    """Return the holder in the file, or None if the file is missing or has not been written."""
    try:
      values = json.loads(self._path.read_text())
      return Holder(**{field: values[field] for field in Holder._fields})
    except (FileNotFoundError, ValueError, KeyError, TypeError):
      return None

  def _read_settled(self) -> Holder | None:
    """Like `_read`, but wait a moment for a file that is just being written."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while (holder := self._read()) is None and self._path.exists() and time.monotonic() < until:
      time.sleep(0.05)
    return holder

  def _write(self) -> None:
    self._mine = self._mine._replace(renewed=round(time.time()))
    text = json.dumps(self._mine._asdict()) + '\n'
    if self._descriptor is None:
      self._path.write_text(text)
    else:  # in place: another file would not have the lock
      os.pwrite(self._descriptor, text.encode(), 0)
      os.ftruncate(self._descriptor, len(text.encode()))

  def _keep_renewing(self) -> None:
    failed = False
    while not self._closing.wait(_RENEW_SECONDS):
      try:
        if self._other() is not None:
          return  # `check` tells the main thread
        self._write()
        failed = False
      except Exception as e:  # each kind of storage has errors of its own
        if not failed:
          log.warning('Cannot renew %s: %s', self._path, reason(e))
        failed = True

  def _close(self) -> None:
    if self._descriptor is not None:
      os.close(self._descriptor)
      self._descriptor = None


def _boot() -> str:
  """Return a name of this machine until its next boot, if the system has one, or its host name."""
  try:
    return pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
  except OSError:
    return socket.gethostname()


def _namespace() -> str:
  """Return a name of the group of processes that number their processes together."""
  try:
    return os.readlink('/proc/self/ns/pid')
  except OSError:
    return ''


def _birth(pid: int) -> str | None:
  """Return when a process of this machine started, which tells it from later ones of its number.

  Returns:
    The time in ticks since the boot, '' if the system does not tell, or None without such a
    process.
  """
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return None
  except PermissionError:
    pass  # it is another user's
  try:
    fields = pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
  except OSError:
    return ''
  return None if fields[0] in 'ZX' else fields[19]
