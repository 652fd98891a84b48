"""The directory of a run's log and metrics; for a workdir on gs:// a local one, copied there.

Object stores cannot append to a file. So these files are written locally and copied every half a
minute, before each checkpoint and at the end.
"""

from collections.abc import Iterable
import logging
import pathlib
import tempfile
import threading

from etils import epath

from vit_jax.errors import InputError, reason

log = logging.getLogger('vit_jax')
_SECONDS = 30  # between copies; Google allows one a second


class Record:
  """Files that grow while a run goes on.

  Attributes:
    directory: where to write them.
  """

  def __init__(self, workdir: pathlib.Path | epath.Path, resume: Iterable[str] = ()):
    """Where `workdir` is no local pathlib.Path, fetches the files `resume` that are there.

    Raises:
      InputError: when it cannot be read.
    """
    self._remote = None if isinstance(workdir, pathlib.Path) else workdir
    self.directory = pathlib.Path(workdir)
    if self._remote is None:
      return
    self._temporary = tempfile.TemporaryDirectory(prefix='vit_jax_')
    self.directory = pathlib.Path(self._temporary.name)
    self._copied: dict[pathlib.Path, int] = {}  # file -> size when it was copied
    self._lock = threading.Lock()
    self._fetch(resume)
    self._closing = threading.Event()
    self._thread = threading.Thread(target=self._keep_copying, daemon=True)
    self._thread.start()

  def _fetch(self, names):
    try:
      for name in names:
        if (self._remote / name).exists():
          (self.directory / name).write_bytes((self._remote / name).read_bytes())
    except Exception as e:  # each store's package has its own
      raise InputError(f'cannot read the workdir {self._remote}: {reason(e)}') from e

  def copy(self) -> None:
    """Copies what has grown; returns when it is there.

    Raises:
      InputError: when the workdir cannot be written.
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
          raise InputError(f'cannot write {target}: {reason(e)}') from e
        self._copied[path] = len(content)

  def _keep_copying(self):
    while not self._closing.wait(_SECONDS):
      try:
        self.copy()
      except InputError as e:  # the next checkpoint insists
        log.warning('%s', e)

  def close(self) -> None:
    """Copies for the last time."""
    if self._remote is None:
      return
    self._closing.set()
    self._thread.join()
    self.copy()
    self._temporary.cleanup()
