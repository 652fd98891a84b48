"""Read and write parameters in Orbax directories of training runs and `save_params`.

Orbax does not notice a flipped byte. So a fingerprint of every array is saved, and verified after
reading.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import errno
import functools
import logging
import os
import pathlib
import sys
import tempfile
from typing import Any

from etils import epath
from flax import traverse_util
import jax
import numpy as np

from vit_jax.errors import InputError, machine_failure, os_error_code, reason, shortlist
from vit_jax.files import AnyPath, is_remote, local_path, user_path
from vit_jax.pretrained.fingerprint import fingerprint, named_leaves
from vit_jax.pretrained.metadata import Metadata

# Orbax takes a second to import, so the functions that use it import it.
_STATE, _PARAMS, _META = 'state', 'params', 'meta'  # items of Orbax's composite checkpoints
_AVERAGE = 'average'  # the averaged parameters in a training state, if the run keeps them


def find_checkpoint(path: str | os.PathLike[str]) -> epath.Path | None:
  """Return a checkpoint's directory: `path`, or the newest one of a run, or None.

  Args:
    path: a workdir, its checkpoints/, the directory of a step, or a directory of `write_orbax`.
  """
  if not is_remote(path):
    path = os.path.abspath(user_path(path))  # Orbax requires an absolute path
  path = epath.Path(path)
  if (path / _META).is_dir() and ((path / _STATE).is_dir() or (path / _PARAMS).is_dir()):
    return path
  if (path / 'checkpoints').is_dir():
    path = path / 'checkpoints'
  steps = [p for p in path.iterdir() if p.name.isdecimal() and (p / _STATE).is_dir()]
  return max(steps, key=lambda p: int(p.name), default=None)


def read_orbax(path: AnyPath) -> dict[str, np.ndarray]:
  """Read only the parameters, as {name: array}.

  If the run averages its parameters over the steps, the average is read.

  Args:
    path: a directory from `find_checkpoint`.

  Raises:
    InputError: the checkpoint is damaged.
  """
  with reading(path, functools.partial(_damaged, path)), ignore_late_reads():
    saved = _read_meta(path)['fingerprint']
    prefix, arrays = _restore(path)
  # Compute them one by one. All at once would hold a second copy of the arrays.
  wrong = [k for k, x in arrays.items() if fingerprint({k: x})[k] != saved.get(prefix + k)]
  if wrong:
    raise InputError(
      f'The checkpoint {path} is damaged: {shortlist(wrong)} changed after it was saved. Use '
      'another checkpoint.'
    )
  return arrays


def read_metadata(path: AnyPath) -> Metadata:
  """Read the properties of the model that the training run or `write_orbax` recorded.

  Raises:
    InputError: the checkpoint is damaged.
  """
  with reading(path, functools.partial(_damaged, path)):
    meta = _read_meta(path)
  fields = {field: meta[field] for field in Metadata._fields if meta.get(field)}
  for field, value in fields.items():
    if isinstance(value, list) and field != 'class_names':  # JSON has no tuples
      fields[field] = tuple(value)
  return Metadata(**fields)


def write_orbax(
  arrays: Mapping[str, np.ndarray], path: str | os.PathLike[str], metadata: Metadata
) -> None:
  """Write parameters as the directory `path`, which is replaced as a whole.

  Raises:
    InputError: `path` exists and is not such a directory, or it cannot be written.
  """
  import orbax.checkpoint as ocp

  path = local_path(path)
  if path.exists() and not (path / _PARAMS).is_dir() and (not path.is_dir() or any(path.iterdir())):
    raise InputError(
      f'{path} already exists and is not a directory of parameters. Choose another path.'
    )
  meta: dict[str, Any] = {
    k: v for k, v in metadata._asdict().items() if v is not None and k != 'format'
  }
  meta['fingerprint'] = {k: fingerprint({k: x})[k] for k, x in arrays.items()}
  tree = traverse_util.unflatten_dict(dict(arrays), sep='/')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{path.name}.', dir=path.parent) as temporary:
      new = pathlib.Path(temporary) / 'new'
      items = ocp.args.Composite(params=ocp.args.PyTreeSave(tree), meta=ocp.args.JsonSave(meta))
      with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(new, args=items)
      if path.exists():
        path.rename(new.with_name('old'))  # deleted with the temporary directory
      new.rename(path)
  except Exception as e:  # TensorStore raises ValueError, OSError and others for a full disk
    if machine_failure(e):
      raise
    raise InputError(f'Cannot write {path}: {reason(e)}. Choose another path.') from e


@contextlib.contextmanager
def ignore_late_reads() -> Iterator[None]:
  """Print nothing about other arrays when reading one array of a checkpoint fails.

  Orbax closes its event loop at the first failure. TensorStore's threads still deliver the other
  arrays to that loop, and Python would print each failed delivery, and each further read that
  fails, into the middle of the error that matters. This may happen long after the first failure,
  so the hook and the filter stay in place after a failure.
  """
  previous = sys.unraisablehook

  def hook(unraisable: Any) -> None:
    if not _is_late_read(unraisable.exc_value):
      previous(unraisable)

  sys.unraisablehook = hook
  logging.getLogger('asyncio').addFilter(_is_other)  # a second time changes nothing
  yield
  sys.unraisablehook = previous
  logging.getLogger('asyncio').removeFilter(_is_other)


def _is_late_read(error: BaseException | None) -> bool:
  return str(error) == 'Event loop is closed' or 'tensorstore' in str(error).lower()


def _is_other(record: logging.LogRecord) -> bool:
  return not (record.exc_info and _is_late_read(record.exc_info[1]))


def _restore(path: AnyPath) -> tuple[str, dict[str, np.ndarray]]:
  """Return (prefix of the names in the fingerprints, {name: array})."""
  import orbax.checkpoint as ocp

  handler = ocp.PyTreeCheckpointHandler()
  is_run = (path / _STATE).is_dir()
  item = epath.Path(path) / (_STATE if is_run else _PARAMS)
  tree = handler.metadata(item).tree
  part = _AVERAGE if _AVERAGE in tree else _PARAMS
  if is_run:
    tree = {part: tree[part]}
  like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
  numpy = jax.tree.map(lambda x: ocp.RestoreArgs(restore_type=np.ndarray), tree)
  args = ocp.args.PyTreeRestore(item=like, restore_args=numpy, partial_restore=True)
  restored = handler.restore(item, args=args)
  if not is_run:
    return '', dict(zip(*named_leaves(restored)))
  return f'{part}/', dict(zip(*named_leaves(restored[part])))


def _read_meta(path: AnyPath) -> dict[str, Any]:
  import orbax.checkpoint as ocp

  return dict(ocp.JsonCheckpointHandler().restore(epath.Path(path) / _META))


@contextlib.contextmanager
def reading(path: AnyPath, damaged: Callable[[str], str]) -> Iterator[None]:
  """Turn the errors of Orbax, for a checkpoint that cannot be read, into InputErrors.

  Errors that say nothing about the checkpoint stay as they are: the machine lacks memory, a device
  or a package, or another process of the job has ended.

  Args:
    path: directory of the checkpoint.
    damaged: returns the message for a damaged checkpoint, given the reason.
  """
  try:
    yield
  except (jax.errors.JaxRuntimeError, ImportError):
    raise
  except Exception as e:  # Orbax, TensorStore and JSON raise anything for damaged files
    if machine_failure(e):
      raise
    if os_error_code(e) not in (None, errno.ENOENT):  # a disk or network that may recover
      raise InputError(
        f'Cannot read the checkpoint {path}: {reason(e)}. Correct that and run the same command '
        'again.'
      ) from e
    raise InputError(damaged(reason(e))) from e


def _damaged(path: AnyPath, cause: str) -> str:
  return f'Cannot read the checkpoint {path}: it is damaged ({cause}). Use another checkpoint.'
