"""Save training states, and restore them verified and complete, or raise an error.

Orbax writes checkpoints in the background and renames a finished directory into place, so that a
kill leaves either a whole checkpoint or none. Orbax does not notice a flipped byte. Therefore a
fingerprint of every array is stored beside the state and compared after reading.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import pathlib
import shutil
from typing import Any, NamedTuple

import jax

from vit_jax.errors import InputError, NotFinite, machine_failure, reason, shortlist
from vit_jax.files import AnyPath
from vit_jax.pretrained.fingerprint import Summary, fingerprint, named_leaves, summarize
from vit_jax.pretrained.orbax import ignore_late_reads, reading

_Shapes = dict[str, tuple[int, ...]]  # of the arrays of a tree, by name


class Restored(NamedTuple):
  """A checkpoint that has been read and verified."""

  state: Any  # a tree like the one that was asked for
  metadata: dict[str, Any]  # as given to `save`


class Checkpoints:
  """The checkpoints of one run, in `directory`/<step>/."""

  def __init__(self, directory: AnyPath, *, keep: int = 3, keep_every: int = 0):
    """Open the directory.

    Args:
      directory: created if it does not exist.
      keep: number of the newest checkpoints to keep.
      keep_every: checkpoints of multiples of this step are kept for good. 0 for none.
    """
    self._directory = directory
    self._failed = False
    self._manager = _open_manager(directory, keep, keep_every)

  def steps(self) -> list[int]:
    """Return the steps that can be restored, in ascending order."""
    return sorted(self._manager.all_steps())

  def save(self, step: int, state: Any, metadata: dict[str, Any]) -> None:
    """Start writing a state. Return when its arrays may be overwritten.

    Args:
      step: number of steps that the state has done.
      state: a tree of arrays.
      metadata: stored beside it as JSON.

    Raises:
      InputError: an array is not finite, there is no space, or this or an earlier write failed.
        Nothing is saved then.
    """
    import orbax.checkpoint as ocp

    summaries = summarize(state)
    self._check_finite(step, summaries)
    self.check_space(state)
    fingerprints = {name: summary.fingerprint for name, summary in summaries.items()}
    metadata = {**metadata, 'fingerprint': fingerprints}
    items = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(metadata))
    with self._writing():
      self._manager.save(step, force=True, args=items)

  def _check_finite(self, step: int, summaries: Mapping[str, Summary]) -> None:
    wrong = [name for name, summary in summaries.items() if not summary.finite]
    if wrong:
      raise NotFinite(
        f'The update of step {step} is not finite in {shortlist(wrong)}. {self.newest_good()} '
        'Try a lower lr, a longer warmup or clip_norm=1.'
      )

  def newest_good(self) -> str:
    """Return a sentence for error messages that names the newest good checkpoint."""
    steps = self.steps()
    return f'The checkpoint of step {steps[-1]} is good.' if steps else 'Nothing was saved.'

  def check_space(self, state: Any) -> None:
    """Raise InputError if another checkpoint will not fit on the disk."""
    if not isinstance(self._directory, pathlib.Path):
      return  # an object store does not fill up
    needed = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    free = shutil.disk_usage(self._directory).free
    if free < needed:
      raise InputError(
        f'There is no space left in {self._directory}: a checkpoint needs {needed / 1e6:,.1f} MB '
        f'and {free / 1e6:,.1f} MB are free. The checkpoints there are still good. Free some space '
        'and run the same command again.'
      )

  def restore(
    self, like: Any, check: Callable[[Mapping[str, Any]], None] = lambda metadata: None
  ) -> Restored | None:
    """Return the newest checkpoint, or None if there is none.

    Args:
      like: a tree of arrays or shapes. Those with a sharding are restored with that sharding.
      check: called with the metadata before the arrays are read. It may raise InputError.

    Raises:
      InputError: the checkpoint is of another architecture, damaged, or cannot be reached.
    """
    import orbax.checkpoint as ocp

    step = self._manager.latest_step()
    if step is None:
      return None
    path = self._directory / str(step)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=getattr(x, 'sharding', None) or device
      ),
      like,
    )
    items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
    only_meta = ocp.args.Composite(meta=ocp.args.JsonRestore())
    with self._reading(path):
      metadata = self._manager.restore(step, args=only_meta)['meta']
      saved = metadata['fingerprint']
    check(metadata)
    with self._reading(path):
      shapes = _shapes(self._manager.item_metadata(step)['state'])
    _check_architecture(path, shapes, _shapes(abstract))
    with self._reading(path), ignore_late_reads():
      state = self._manager.restore(step, args=items)['state']
    wrong = sorted(name for name, x in fingerprint(state).items() if x != saved.get(name))
    if wrong:
      raise InputError(self._damaged(path, f'changed after it was saved, in {shortlist(wrong)}'))
    return Restored(state, metadata)

  def _reading(self, path: AnyPath) -> contextlib.AbstractContextManager[None]:
    """Turn the errors of Orbax, for a checkpoint that cannot be read, into InputErrors."""
    return reading(path, lambda cause: self._damaged(path, f'cannot be read ({cause})'))

  def _damaged(self, path: AnyPath, how: str) -> str:
    others = [step for step in self.steps() if str(step) != path.name]
    result = f'continue from step {others[-1]}' if others else 'start again'
    return f'The checkpoint {path} {how}: it is damaged. Delete that directory to {result}.'

  def wait(self) -> None:
    """Wait until everything that was saved is on disk."""
    with self._writing():
      self._manager.wait_until_finished()

  def abandon(self) -> None:
    """Give up on a save that is being written, so that `close` does not wait for it."""
    self._failed = True

  def close(self) -> None:
    """Wait for the last save and stop the background threads."""
    if not self._failed:
      with self._writing():
        self._manager.close()

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    """Turn the errors of this write, or of an earlier one in the background, into InputErrors."""
    try:
      yield
    except jax.errors.JaxRuntimeError:  # not a disk error: a device or another process is gone
      self._failed = True
      raise
    except Exception as e:  # TensorStore raises ValueError, OSError and others for a full disk
      self._failed = True
      if machine_failure(e):
        raise
      raise InputError(
        f'Cannot write a checkpoint to {self._directory}: {reason(e)}. {self.newest_good()} '
        'Correct that and run the same command again.'
      ) from e


def _check_architecture(path: AnyPath, actual: _Shapes, expected: _Shapes) -> None:
  """Raise InputError if a checkpoint has other arrays than the model."""
  wrong = [
    f'{name} is {actual.get(name, "missing")}, the model has {expected.get(name, "none")}'
    for name in sorted(expected.keys() | actual.keys())
    if expected.get(name) != actual.get(name)
  ]
  if wrong:
    # The optimizer's moments only repeat the mismatches of the parameters.
    in_params = [text for text in wrong if text.startswith('params/')]
    raise InputError(
      f'The checkpoint {path} is of another architecture: {shortlist(in_params or wrong)}. '
      'Choose another workdir, or use the config that wrote it.'
    )


def _open_manager(directory: AnyPath, keep: int, keep_every: int) -> Any:
  """Return Orbax's CheckpointManager for a directory."""
  import orbax.checkpoint as ocp
  from orbax.checkpoint import checkpoint_managers

  class Manager(ocp.CheckpointManager):
    """A manager that leaves preemption to the training loop.

    JAX stops all hosts at a number larger than any that they have passed to its preemption service.
    Orbax would pass training steps to it, and the loop, which counts its own calls, might never
    reach such a number.
    """

    def reached_preemption(self, step: int) -> bool:
      return False

  policies: list[checkpoint_managers.PreservationPolicy] = [checkpoint_managers.LatestN(keep)]
  if keep_every:
    policies.append(checkpoint_managers.EveryNSteps(keep_every))
  return Manager(
    directory.absolute() if isinstance(directory, pathlib.Path) else directory,
    options=ocp.CheckpointManagerOptions(
      preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
      cleanup_tmp_directories=True,
    ),
    item_handlers={'state': ocp.StandardCheckpointHandler(), 'meta': ocp.JsonCheckpointHandler()},
  )


def _shapes(tree: Any) -> _Shapes:
  names, leaves = named_leaves(tree)
  return {name: tuple(x.shape) for name, x in zip(names, leaves, strict=True)}
