"""Read what a training run leaves in its workdir: its config and its metrics."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
import dataclasses
import json
import logging
import math
import os
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from vit_jax.config.dtype import keep_recorded_dtype
from vit_jax.config.fields import default_config
from vit_jax.config.old_spellings import later_fields, upgrade
from vit_jax.data.dataset_names import may_have_moved
from vit_jax.errors import InputError, last_line, machine_failure, reason, shortlist
from vit_jax.files import AnyPath, user_path

Curve = tuple[np.ndarray, np.ndarray]  # steps, values

CONFIG, METRICS, CHECKPOINTS = 'config.json', 'metrics.jsonl', 'checkpoints'
# Fields that do not change what is trained. They say where data lies, how the devices are used, and
# what is logged, saved and evaluated on the way.
MAY_CHANGE = (
  'data_dir',
  'max_bad_records',
  'allow_empty_classes',
  'parallel',
  'mesh',
  'accumulate',
  'scan',
  'remat',
  'attention_implementation',
  'compile_cache',
  'num_threads',
  'num_workers',
  'hang_seconds',
  'eval_every',
  'fewshot',
  'fewshot_every',
  'fewshot_shots',
  'save_every',
  'keep',
  'keep_every',
  'log_every',
  'figures_every',
  'profile_steps',
)


log = logging.getLogger('vit_jax')


class Damaged(InputError):
  """A small file of a run holds garbage, as after a power failure. The run can go on without it."""


@dataclasses.dataclass(frozen=True)
class Run:
  """A training run, as its workdir records it.

  Attributes:
    workdir: the directory of the run.
    config: {field: value} of every config field. Fields that did not exist when the run was
      started have their defaults.
  """

  workdir: AnyPath
  config: Mapping[str, Any]


def read_run(workdir: AnyPath) -> Run:
  """Read the run in a workdir.

  Raises:
    Damaged: the config holds garbage.
    InputError: the directory is not the workdir of a run, or its config cannot be read.
  """
  try:
    return Run(workdir, complete(read_config(workdir)))
  except TypeError as e:
    raise Damaged(f'Cannot read {workdir / CONFIG}: {last_line(e)}.') from e


def complete(recorded: Mapping[str, Any]) -> dict[str, Any]:
  """Return the value of every config field of a run, from the fields that it recorded.

  Missing fields get their defaults, or values with which the run goes on as it was. Fields that no
  longer exist are left out.

  Raises:
    TypeError: a field has a value of the wrong type.
  """
  config = default_config()
  known = {field: value for field, value in upgrade(recorded).items() if field in config}
  config.update(known | later_fields(recorded))
  return config.to_dict()


def has_checkpoint(workdir: AnyPath) -> bool:
  """Return whether a run in this workdir would resume from a checkpoint."""
  return newest_step(workdir) >= 0


def newest_step(workdir: AnyPath) -> int:
  """Return the step of the newest checkpoint of a run, or -1 if it has none."""
  # Orbax adds a suffix to the name of a checkpoint that it has not finished.
  names = (path.name for path in (workdir / CHECKPOINTS).glob('[0-9]*'))
  return max((int(name) for name in names if name.isdecimal()), default=-1)


def find_run(checkpoint: AnyPath | None) -> Run | None:
  """Return the run that wrote a checkpoint, or None if no run did or its config is damaged.

  Args:
    checkpoint: directory of the checkpoint, such as WORKDIR/checkpoints/1000.

  Raises:
    InputError: the config of the run cannot be read.
  """
  if checkpoint is None or checkpoint.parent.name != CHECKPOINTS:
    return None
  workdir = checkpoint.parent.parent
  try:
    return read_run(workdir) if (workdir / CONFIG).exists() else None
  except Damaged as e:
    log.warning('%s Going on without the config of the run.', e)
    return None


def read_config(workdir: AnyPath) -> dict[str, Any]:
  """Return the config fields that a run recorded, and no others.

  Old spellings of "not set" become None.

  Raises:
    Damaged: the config holds garbage.
    InputError: the directory is not the workdir of a run, or its config cannot be read.
  """
  path = workdir / CONFIG
  try:
    text = path.read_bytes()
    config = json.loads(text) if text.strip(b'\0 \t\r\n') else {}
    if config == {}:
      raise ValueError('it is empty')
  except FileNotFoundError as e:
    raise InputError(
      f'{workdir} is not the workdir of a run: it has no {CONFIG}. Check the path.'
    ) from e
  except OSError as e:
    raise InputError(f'Cannot read {path}: {last_line(e)}.') from e
  except (ValueError, RecursionError) as e:
    raise Damaged(f'Cannot read {path}: {last_line(e)}.') from e
  if not isinstance(config, dict) or not {'model', 'dataset'} <= config.keys():
    kind = InputError if isinstance(config, dict) else Damaged  # an object is of another program
    raise kind(f'{path} is not the config of a run: it does not name a model and a dataset.')
  return upgrade(config)


def keep_recorded(config: ConfigDict, workdir: AnyPath, given: Container[str]) -> list[str]:
  """Set config fields, in place, to the values that the run recorded before it was interrupted.

  Fields in `given` and in MAY_CHANGE keep the value they have in `config`. Nothing changes if
  there is no checkpoint to resume from, or if the recorded config is damaged.

  Args:
    config: the config to resume the run with.
    workdir: the directory of the run.
    given: fields that the user set on the command line.

  Returns:
    A sentence for each field that changed.

  Raises:
    InputError: the workdir cannot be read.
  """
  recorded = recorded_fields(workdir)
  return [] if recorded is None else keep_fields(config, recorded, given)


def recorded_fields(workdir: AnyPath) -> Mapping[str, Any] | None:
  """Return the config of the run that would be resumed, or None without one that can be read.

  Raises:
    InputError: the workdir cannot be read.
  """
  try:
    if has_checkpoint(workdir) and (workdir / CONFIG).exists():
      return read_run(workdir).config
  except Damaged:
    pass  # training.workdir.write_config warns of it
  except InputError:
    raise
  except Exception as e:  # OSError, or any error of a remote file system's package
    if machine_failure(e):
      raise
    raise InputError(
      f'Cannot read the workdir {workdir}: {reason(e)}. Give another with --workdir=DIR.'
    ) from e
  return None


def keep_fields(
  config: ConfigDict, recorded: Mapping[str, Any], given: Container[str]
) -> list[str]:
  """Set config fields, in place, as `keep_recorded` does, to those that a run has recorded."""
  note = keep_recorded_dtype(config, recorded)  # even if 'auto' is given again
  notes = [note] if note else []
  kept = set(recorded) - {*MAY_CHANGE, *_settled(config, recorded, given)}
  for field, value in recorded.items():
    if field in kept and field not in given and config[field] != value:
      if not (field == 'num_epochs' and recorded['total_steps']):  # has no effect
        notes.append(
          f'config.{field}: keeping {value!r} from the run being resumed. The config file now says '
          f'{config[field]!r}. Pass --config.{field}=... to change it.'
        )
      config[field] = value
  return notes


def _settled(
  config: ConfigDict, recorded: Mapping[str, Any], given: Container[str]
) -> Iterator[str]:
  """Yield the fields that follow the command line although it does not set them by name."""
  # A new number of epochs replaces the recorded steps. The recorded number does not: earlier
  # versions ignored it beside total_steps, and the same command continues their run.
  if 'num_epochs' in given and config.num_epochs != recorded['num_epochs']:
    yield 'total_steps'
  # Your own data may be in another place, because disks are mounted elsewhere. The names of the
  # images are checked, and their labels where that needs no image.
  if may_have_moved(recorded['dataset'], config.dataset):
    yield 'dataset'


def read_metrics(path: AnyPath, *, keep_damaged: bool = False) -> list[dict[str, float]]:
  """Return the complete lines of a metrics.jsonl: [{'step': 50, 'train/loss': 2.3, ...}, ...].

  A last line that was cut short by a kill, or that the run is still writing, is left out. So are
  damaged and empty lines, and a warning names them.

  Args:
    path: the file.
    keep_damaged: copy the file if it has damaged lines, because the caller will replace it.

  Raises:
    InputError: the file cannot be read.
  """
  try:
    lines = [_parse_line(line) for line in path.read_bytes().split(b'\n')[:-1]]
  except OSError as e:
    raise InputError(f'Cannot read {path}: {e.strerror or e}. Give the workdir of a run.') from e
  damaged = [str(number) for number, line in enumerate(lines, 1) if line is None]
  if damaged:
    log.warning('%s: Left out damaged or empty lines: %s.', path, shortlist(damaged))
    if keep_damaged:
      log.warning('The file with these lines is kept as %s.', set_aside(path))
  return [line for line in lines if line is not None]


def _parse_line(line: bytes) -> dict[str, float] | None:
  """Return the metrics in a line, or None if it is damaged."""
  try:
    metrics = json.loads(line)
    if math.isfinite(metrics['step']) and all(isinstance(x, int | float) for x in metrics.values()):
      for x in metrics.values():
        float(x)  # an integer may be too large
      return metrics
  except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError):
    pass
  return None


def set_aside(path: AnyPath) -> AnyPath:
  """Copy a damaged file of a run, which is about to be replaced. Return the path of the copy."""
  copy = path.with_name(f'{path.name}.damaged')
  copy.write_bytes(path.read_bytes())
  return copy


def read_curves(workdir: str | os.PathLike) -> dict[str, Curve]:
  """Return the metrics of a run: {name: (steps, values)}.

  Args:
    workdir: the directory of the run, or its metrics.jsonl.

  Raises:
    InputError: there is no such file, it cannot be read, or it has no lines yet.
  """
  path = user_path(workdir)
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
