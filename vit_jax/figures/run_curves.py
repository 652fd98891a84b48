"""Find and read the learning curves to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import os

from vit_jax.config.run import METRICS, Curve, read_curves
from vit_jax.files import AnyPath, user_path
from vit_jax.pretrained import orbax


def find_own_run(checkpoint: str) -> AnyPath | None:
  """Return the workdir of the run that wrote a checkpoint, or None if it has no metrics."""
  step = orbax.find_checkpoint(checkpoint) if user_path(checkpoint).is_dir() else None
  if step is None or not (step.parent.parent / METRICS).exists():
    return None
  return step.parent.parent


def read_runs(workdirs: Sequence[str | os.PathLike]) -> dict[str, Mapping[str, Curve]]:
  """Return the curves of several runs by name.

  A run's name is the last part of its path, or the whole path if two runs end alike.

  Raises:
    InputError: the metrics of a run cannot be read.
  """
  names = [user_path(workdir).resolve().name for workdir in workdirs]
  if len(set(names)) < len(names):
    names = [str(workdir) for workdir in workdirs]
  return {name: read_curves(workdir) for name, workdir in zip(names, workdirs)}
