"""Keep a copy of a run's log and metrics in an object store.

Object stores cannot append to a file. For a workdir on gs:// or s3://, these files are written to a
local directory and copied every half minute, before each checkpoint, and at the end.
"""

from collections.abc import Iterable
import logging
import pathlib
import tempfile
import threading

from etils import epath

from vit_jax.errors import InputError, explain, machine_failure, reason
from vit_jax.files import AnyPath

log = logging.getLogger('vit_jax')
_SECONDS = 30  # between two copies. Google Cloud Storage allows one write per second and object.


class WorkdirMirror:
  """A local directory whose files are copied to the workdir as they grow.

  If the workdir is itself local, nothing is copied.

  Attributes:
    directory: where to write files.
    workdir: where they are in the end.
  """

  def __init__(self, workdir: AnyPath, resume: Iterable[str] = ()):
    """Start copying.

    Args:
      workdir: an epath.Path if it lies in an object store, else a pathlib.Path.
      resume: names of files to fetch from the workdir, where they exist.

    Raises:
      InputError: the workdir cannot be read.
    """
    self.workdir = workdir
    self._remote = None if isinstance(workdir, pathlib.Path) else workdir
    self.directory = pathlib.Path(workdir)
    if self._remote is None:
      return
    self._temporary = tempfile.TemporaryDirectory(prefix='vit_jax_')
    self.directory = pathlib.Path(self._temporary.name)
    self._copied: dict[pathlib.Path, int] = {}  # file -> its size when it was last copied
    self._lock = threading.Lock()
    self._fetch(self._remote, resume)
    self._closing = threading.Event()
    self._thread = threading.Thread(target=self._keep_copying, daemon=True)
    self._thread.start()

  def _fetch(self, workdir: epath.Path, names: Iterable[str]) -> None:
    for name in names:
      try:
        content = (workdir / name).read_bytes() if (workdir / name).exists() else None
      except Exception as e:  # every store's package has errors of its own
        if machine_failure(e):
          raise
        raise InputError(f'Cannot read the workdir {workdir}: {reason(e)}.') from e
      if content is not None:
        (self.directory / name).write_bytes(content)

  def copy(self) -> None:
    """Copy the files that have grown. Returns when they are in the store.

    Raises:
      InputError: the workdir cannot be written.
    """
    if self._remote is None:
      return
    with self._lock:
      for path in sorted(self.directory.rglob('*')):
        if not path.is_file() or path.suffix == '.tmp':
          continue
        content = path.read_bytes()
        if self._copied.get(path) == len(content):
          continue
        target = self._remote / path.relative_to(self.directory).as_posix()
        try:
          target.parent.mkdir(parents=True, exist_ok=True)
          target.write_bytes(content)
        except Exception as e:
          if machine_failure(e):
            raise
          raise InputError(f'Cannot write {target}: {reason(e)}.') from e
        self._copied[path] = len(content)

  def _keep_copying(self) -> None:
    while not self._closing.wait(_SECONDS):
      try:
        self.copy()
      except Exception as e:  # the next checkpoint tries again, and fails if it cannot
        message = explain(e)
        if message is None:
          raise
        log.warning('%s', message)

  def close(self) -> None:
    """Copy for the last time and stop."""
    if self._remote is None:
      return
    self._closing.set()
    self._thread.join()
    self.copy()
    self._temporary.cleanup()
