"""Collect the warnings of decoders, so that the log can name the image."""

from collections.abc import Iterator
import contextlib
import contextvars
import logging
import threading
import warnings

log = logging.getLogger('vit_jax')

_collected: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar(
  '_collected', default=None
)
_lock = threading.Lock()


@contextlib.contextmanager
def collect_warnings() -> Iterator[list[str]]:
  """Collect the warnings about images that this thread decodes in the `with` block."""
  collected = []
  token = _collected.set(collected)
  try:
    yield collected
  finally:
    _collected.reset(token)


@contextlib.contextmanager
def log_warnings(name: str) -> Iterator[None]:
  """Log the warnings about the image `name`, which this thread decodes in the `with` block."""
  with collect_warnings() as collected:
    yield
  if collected:
    log.warning('Read %s with a warning: %s.', name, '; '.join(collected))


def warn(message: str) -> None:
  """Report something that is wrong with the image being decoded, although it can be read.

  Args:
    message: completes the sentence "Read x with a warning: ...".
  """
  collected = _collected.get()
  if collected is None:
    log.warning('Read an image with a warning: %s.', message)
  elif message not in collected:
    collected.append(message)


@contextlib.contextmanager
def pillow_warnings() -> Iterator[None]:
  """Report Python warnings that Pillow issues in the `with` block as warnings about the image.

  Python's filters of warnings belong to all threads, so only one thread at a time can be in such a
  block. Use it for the parts of the work that may warn.
  """
  with _lock, warnings.catch_warnings(record=True) as issued:
    warnings.filterwarnings('always', module=r'PIL\.')
    yield
  for warning in issued:
    if '/PIL/' in warning.filename.replace('\\', '/'):
      warn(' '.join(str(warning.message).split()).rstrip('.'))
    else:  # from another thread
      warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)
