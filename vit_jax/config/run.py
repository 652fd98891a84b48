"""Read what a training run leaves in its workdir: its config and its metrics."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import json
import os
import pathlib
from typing import Any

from etils import epath
import numpy as np

from vit_jax.config.fields import default_config
from vit_jax.errors import InputError, last_line

Path = pathlib.Path | epath.Path
Curve = tuple[np.ndarray, np.ndarray]  # steps, values

CONFIG, METRICS, CHECKPOINTS = 'config.json', 'metrics.jsonl', 'checkpoints'


@dataclasses.dataclass(frozen=True)
class Run:
  """A training run, as its workdir records it.

  Attributes:
    workdir: the directory of the run.
    config: {field: value} of every config field. Fields that did not exist when the run was
      started have their defaults.
  """

  workdir: Path
  config: Mapping[str, Any]


def read_run(workdir: Path) -> Run:
  """Read the run in a workdir.

  Raises:
    InputError: the directory is not the workdir of a run, or its config cannot be read.
  """
  recorded = read_config(workdir)
  config = default_config()
  try:
    config.update({field: value for field, value in recorded.items() if field in config})
  except TypeError as e:
    raise InputError(f'Cannot read {workdir / CONFIG}: {last_line(e)}.') from e
  return Run(workdir, config.to_dict())


def find_run(checkpoint: Path | None) -> Run | None:
  """Return the run that wrote a checkpoint, or None if no run did.

  Args:
    checkpoint: directory of the checkpoint, such as WORKDIR/checkpoints/1000.

  Raises:
    InputError: the config of the run cannot be read.
  """
  if checkpoint is None or checkpoint.parent.name != CHECKPOINTS:
    return None
  workdir = checkpoint.parent.parent
  return read_run(workdir) if (workdir / CONFIG).exists() else None


def read_config(workdir: Path) -> dict[str, Any]:
  """Return the config fields that a run recorded, and no others.

  Raises:
    InputError: the directory is not the workdir of a run, or its config cannot be read.
  """
  path = workdir / CONFIG
  try:
    config = json.loads(path.read_text())
  except FileNotFoundError as e:
    raise InputError(
      f'{workdir} is not the workdir of a run: it has no {CONFIG}. Check the path.'
    ) from e
  except (OSError, ValueError) as e:
    raise InputError(f'Cannot read {path}: {last_line(e)}.') from e
  if not isinstance(config, dict) or not {'model', 'dataset'} <= config.keys():
    raise InputError(f'{path} is not the config of a run: it names no model and no dataset.')
  return config


def read_metrics(path: Path) -> list[dict[str, float]]:
  """Return the complete lines of a metrics.jsonl: [{'step': 50, 'train/loss': 2.3, ...}, ...].

  A last line that was cut short by a kill, or that the run is still writing, is left out.

  Raises:
    InputError: the file cannot be read, or a line of it is damaged.
  """
  try:
    lines = path.read_text().split('\n')[:-1]
  except (OSError, UnicodeDecodeError) as e:
    reason = getattr(e, 'strerror', None) or e
    raise InputError(f'Cannot read {path}: {reason}. Give the workdir of a run.') from e
  return [_parse_line(line, path, number) for number, line in enumerate(lines, 1)]


def _parse_line(line: str, path: Path, number: int) -> dict[str, float]:
  try:
    metrics = json.loads(line)
    if 'step' in metrics and all(isinstance(x, int | float) for x in metrics.values()):
      return metrics
  except (ValueError, TypeError, AttributeError):
    pass
  raise InputError(f'Cannot read {path}: line {number} is damaged, it holds no metrics.')


def read_curves(workdir: str | os.PathLike) -> dict[str, Curve]:
  """Return the metrics of a run: {name: (steps, values)}.

  Args:
    workdir: the directory of the run, or its metrics.jsonl.

  Raises:
    InputError: there is no such file, it cannot be read, or it has no lines yet.
  """
  path = pathlib.Path(workdir).expanduser()
  path = path / METRICS if path.is_dir() else path
  points: dict[str, list[tuple[float, float]]] = {}
  for metrics in read_metrics(path):
    step = metrics.pop('step')
    for name, value in metrics.items():
      points.setdefault(name, []).append((step, float(value)))
  if not points:
    raise InputError(f'{path} has no metrics yet: the run has not reached its first log_every.')
  return {name: _curve(values) for name, values in points.items()}


def _curve(points: list[tuple[float, float]]) -> Curve:
  steps, values = zip(*points, strict=True)
  return np.array(steps), np.array(values)
