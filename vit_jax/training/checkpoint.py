"""Checkpoints that are complete, verified and of this model, or an error.

Orbax writes them in the background and renames a finished directory into place, so a kill
leaves either the whole checkpoint or none. What Orbax does not do is notice a flipped byte:
a fingerprint of every array is stored beside the state and compared after reading.
"""

import contextlib
import errno
import pathlib
import shutil
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from vit_jax.errors import InputError, NotFinite, os_error_code, reason, shortlist
from vit_jax.pretrained.fingerprint import fingerprint, named_leaves


@jax.jit
def _all_finite(leaves: list[jax.Array]) -> list[jax.Array]:
  return [jnp.all(jnp.isfinite(x)) for x in leaves]


def _of_the_job(state: Any) -> Any:
  """Arrays that each process holds copies of (pmap's) become one of all devices, uncopied."""
  if jax.process_count() == 1:
    return state
  everywhere = jax.NamedSharding(jax.make_mesh((jax.device_count(),), ('data',)), jax.P())
  return jax.tree.map(
    lambda x: (
      jax.make_array_from_single_device_arrays(
        x.shape, everywhere, [s.data for s in x.addressable_shards]
      )
      if x.is_fully_addressable
      else x
    ),
    state,
  )


class _Manager(ocp.CheckpointManager):
  """Leaves preemption to the training loop.

  jax's sync point is the call after the newest number that any host has passed to it. Orbax passes
  training steps, also late and from its own threads; the loop's numbers would then never be met.
  """

  def reached_preemption(self, step: int) -> bool:
    return False


class Checkpoints:
  """The checkpoints of one run, under `directory`/<step>/."""

  def __init__(self, directory: pathlib.Path | epath.Path, *, keep: int = 3, keep_every: int = 0):
    """Keeps the last `keep` checkpoints, and the multiples of `keep_every` for good."""
    policies = [checkpoint_managers.LatestN(keep)]
    if keep_every:
      policies.append(checkpoint_managers.EveryNSteps(keep_every))
    self._directory = directory
    self._failed = False
    local = isinstance(directory, pathlib.Path)
    self._manager = _Manager(
      directory.absolute() if local else directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
        cleanup_tmp_directories=True,
      ),
      item_handlers={'state': ocp.StandardCheckpointHandler(), 'meta': ocp.JsonCheckpointHandler()},
    )

  def steps(self) -> list[int]:
    """The steps that can be restored, ascending."""
    return sorted(self._manager.all_steps())

  def save(self, step: int, state: Any, about: dict[str, Any]) -> None:
    """Starts writing `state`; returns once it may be overwritten. `about` is kept as JSON.

    Raises:
      InputError: when an array is not finite, there is no space, or this or an earlier write
        failed; nothing is saved then.
    """
    state = _of_the_job(state)
    self._check_finite(step, state)
    self.check_space(state)
    meta = dict(about, fingerprint=fingerprint(state))
    with self._writing():
      self._manager.save(
        step,
        force=True,
        args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)),
      )

  def _check_finite(self, step, state):
    names, leaves = named_leaves(state)
    wrong = [n for n, finite in zip(names, jax.device_get(_all_finite(leaves))) if not finite]
    if wrong:
      raise NotFinite(
        f'the update of step {step} is not finite in {shortlist(wrong)}; '
        f'{self.newest_good()}; try a lower lr, a longer warmup or clip_norm=1'
      )

  def newest_good(self) -> str:
    """For an error: what can be gone back to."""
    steps = self.steps()
    return f'the checkpoint of step {steps[-1]} is good' if steps else 'nothing was saved'

  def check_space(self, state: Any) -> None:
    """Raises InputError when one more checkpoint will not fit on the disk."""
    if not isinstance(self._directory, pathlib.Path):
      return  # an object store has no end
    need = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    free = shutil.disk_usage(self._directory).free
    if free < need:
      raise InputError(
        f'no space left in {self._directory}: a checkpoint needs '
        f'{need / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free; what is there '
        'stays good, free some space and run the same command again'
      )

  def restore(self, like: Any) -> tuple[Any, dict[str, Any]] | None:
    """The newest checkpoint: (a tree like `like`, `about` of its save); None when there is none.

    Args:
      like: a tree of arrays or shapes; where they have shardings, the result has them too.

    Raises:
      InputError: when it is of another architecture (lists the arrays), damaged or out of reach.
    """
    step = self._manager.latest_step()
    if step is None:
      return None
    path = self._directory / str(step)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=getattr(x, 'sharding', None) or here
      ),
      like,
    )
    try:
      self._check_architecture(path, step, abstract)
      restored = self._manager.restore(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore()
        ),
      )
    except (InputError, jax.errors.JaxRuntimeError):  # which another process's end raises
      raise
    except Exception as e:  # Orbax, TensorStore and JSON raise all kinds on damaged files.
      if os_error_code(e) not in (None, errno.ENOENT):  # of a disk or network that may recover
        raise InputError(
          f'the checkpoint {path} cannot be read ({reason(e)}); mend that and run '
          'the same command again'
        ) from e
      raise InputError(self._damaged(path, f'cannot be read ({reason(e)})')) from e
    state = restored['state']
    found, saved = fingerprint(state), restored['meta']['fingerprint']
    wrong = sorted(k for k in found if found[k] != saved.get(k))
    if wrong:
      raise InputError(self._damaged(path, f'differs from what was saved in {shortlist(wrong)}'))
    return state, restored['meta']

  def _check_architecture(self, path, step, abstract):
    names, leaves = named_leaves(abstract)
    want = {n: tuple(x.shape) for n, x in zip(names, leaves)}
    names, leaves = named_leaves(self._manager.item_metadata(step)['state'])
    have = {n: tuple(x.shape) for n, x in zip(names, leaves)}
    is_param = lambda n: n.startswith('params/')  # the moments only repeat the same misfits
    wrong = [
      f'{n} is {have.get(n, "missing")}, the model has {want.get(n, "none")}'
      for n in sorted(want.keys() | have.keys())
      if want.get(n) != have.get(n)
    ]
    if wrong:
      raise InputError(
        f'the checkpoint {path} is of another architecture: '
        f'{shortlist(list(filter(is_param, wrong)) or wrong)}; give another workdir '
        'or the config that wrote it'
      )

  def _damaged(self, path, how):
    others = [s for s in self.steps() if str(s) != path.name]
    then = f'go on from step {others[-1]}' if others else 'start anew'
    return f'the checkpoint {path} {how}: it is damaged; delete that directory to {then}'

  def wait(self) -> None:
    """Returns when everything saved is on disk."""
    with self._writing():
      self._manager.wait_until_finished()

  def abandon(self) -> None:
    """`close` will not wait for a save that is being written."""
    self._failed = True

  def close(self) -> None:
    """Waits, and releases the background threads."""
    if not self._failed:
      with self._writing():
        self._manager.close()

  @contextlib.contextmanager
  def _writing(self):
    """Errors of this or an earlier write, in the background, as one sentence."""
    try:
      yield
    except jax.errors.JaxRuntimeError:  # no disk: the device, or another process is gone
      self._failed = True
      raise
    except Exception as e:  # TensorStore raises ValueError, OSError and others for a full disk
      self._failed = True
      raise InputError(
        f'cannot write a checkpoint to {self._directory} ({reason(e)}); '
        f'{self.newest_good()}; mend the disk and run the same command again'
      ) from e
