"""Parameters in Orbax directories: of a training run, or written by `save_params`.

Orbax does not notice a flipped byte, so that every array's fingerprint is compared after reading.
"""

from collections.abc import Mapping
import os
import pathlib
import tempfile

from etils import epath
from flax import traverse_util
import jax
import numpy as np
import orbax.checkpoint as ocp

from vit_jax.errors import InputError, reason, shortlist
from vit_jax.files import local_path
from vit_jax.pretrained.fingerprint import fingerprint, named_leaves
from vit_jax.pretrained.metadata import Metadata

_STEP, _PARAMS, _META = 'state', 'params', 'meta'  # items of Orbax's composite checkpoints
_AVERAGE = 'average'  # of the parameters, in the state of a run that keeps one


def find(path: str | os.PathLike) -> epath.Path | None:
  """The directory of one checkpoint in `path`: itself, or the newest of a run; None if none.

  Args:
    path: a workdir, its checkpoints/, the directory of a step, or what `write_orbax` wrote.
  """
  path = epath.Path(path).expanduser()
  path = path if '://' in os.fspath(path) else epath.Path(os.path.abspath(path))  # Orbax insists
  if (path / _META).is_dir() and ((path / _STEP).is_dir() or (path / _PARAMS).is_dir()):
    return path
  if (path / 'checkpoints').is_dir():
    path = path / 'checkpoints'
  steps = [p for p in path.iterdir() if p.name.isdecimal() and (p / _STEP).is_dir()]
  return max(steps, key=lambda p: int(p.name), default=None)


def read_orbax(path: epath.Path) -> dict[str, np.ndarray]:
  """Reads the parameters, and nothing else, of what `find` found: {canonical name: array}.

  Of a run that averages its parameters over the steps, that is the average.

  Raises:
    InputError: naming the directory, when it is damaged.
  """
  try:
    saved = _meta(path)['fingerprint']
    prefix, arrays = _restore(path)
  except Exception as e:  # Orbax, TensorStore and JSON raise all kinds on damaged files
    raise InputError(f'the checkpoint {path} cannot be read ({reason(e)}): it is damaged') from e
  # One by one: all at once would hold a second copy.
  wrong = [k for k, x in arrays.items() if fingerprint({k: x})[k] != saved.get(prefix + k)]
  if wrong:
    raise InputError(
      f'the checkpoint {path} differs from what was saved in {shortlist(wrong)}: it is damaged'
    )
  return arrays


def _restore(path):
  """The parameters, after what precedes their names in the list of fingerprints."""
  handler = ocp.PyTreeCheckpointHandler()
  of_run = (path / _STEP).is_dir()
  item = path / (_STEP if of_run else _PARAMS)
  tree = handler.metadata(item).tree
  if of_run:
    which = _AVERAGE if _AVERAGE in tree else _PARAMS
    tree = {which: tree[which]}
  like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
  numpy = jax.tree.map(lambda x: ocp.RestoreArgs(restore_type=np.ndarray), tree)
  restored = handler.restore(
    item, args=ocp.args.PyTreeRestore(item=like, restore_args=numpy, partial_restore=True)
  )
  if not of_run:
    return '', dict(zip(*named_leaves(restored)))
  return f'{which}/', dict(zip(*named_leaves(restored[which])))


def _meta(path):
  return ocp.JsonCheckpointHandler().restore(path / _META)


def read_metadata(path: epath.Path) -> Metadata:
  """What the run or the writer recorded of the model."""
  try:
    meta = _meta(path)
  except Exception as e:
    raise InputError(f'the checkpoint {path} cannot be read ({reason(e)}): it is damaged') from e
  metadata = Metadata(**{field: meta[field] for field in Metadata._fields if meta.get(field)})
  return metadata._replace(
    **{
      field: tuple(value)
      for field, value in metadata._asdict().items()
      if isinstance(value, list) and field != 'class_names'
    }
  )


def write_orbax(
  arrays: Mapping[str, np.ndarray], path: str | os.PathLike, metadata: Metadata
) -> None:
  """Writes parameters as the directory `path`, which appears in one piece.

  Raises:
    InputError: when `path` is there and is not of this kind, or cannot be written.
  """
  path = local_path(path)
  if path.exists() and not (path / _PARAMS).is_dir() and (not path.is_dir() or any(path.iterdir())):
    raise InputError(
      f'{path} is there already, and no directory of parameters that may be replaced'
    )
  meta = {k: v for k, v in metadata._asdict().items() if v is not None and k != 'format'}
  meta['fingerprint'] = {k: fingerprint({k: x})[k] for k, x in arrays.items()}
  tree = traverse_util.unflatten_dict(dict(arrays), sep='/')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{path.name}.', dir=path.parent) as temporary:
      new = pathlib.Path(temporary) / 'new'
      with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(
          new,
          args=ocp.args.Composite(params=ocp.args.PyTreeSave(tree), meta=ocp.args.JsonSave(meta)),
        )
      if path.exists():
        path.rename(new.with_name('old'))  # goes with the temporary directory
      new.rename(path)
  except Exception as e:  # TensorStore raises ValueError, OSError and others for a full disk
    raise InputError(f'cannot write {path} ({reason(e)})') from e
