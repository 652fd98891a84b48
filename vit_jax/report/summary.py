"""Summarize a run from its workdir: changed config fields, newest metrics, speed, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
import datetime
import json
import pathlib
from typing import Any, NamedTuple

import numpy as np

from vit_jax.config.run import CHECKPOINTS, Curve

UNKNOWN_FIELD = 'no field of this version'

_SPEEDS = {  # metric -> (description, format of its values)
  'train/images_per_second': ('images per second', '{:,.1f}'),
  'train/images_per_second_per_device': ('images per second and device', '{:,.1f}'),
  'train/mfu': ('MFU (fraction of peak FLOP/s)', '{:.1%}'),
  'train/goodput': ('goodput (fraction of wall time since the start)', '{:.1%}'),
}


class SavedCheckpoint(NamedTuple):
  """A checkpoint on disk."""

  step: int
  size: int  # bytes
  date: datetime.datetime


def changed_fields(
  config: Mapping[str, Any], defaults: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
  """Return (field, value, default) where a run's config differs from the defaults, in their order.

  Fields that this version does not have come last, with UNKNOWN_FIELD as their default.
  """
  defaults = json.loads(json.dumps(dict(defaults)))  # turns tuples into lists, as config.json does
  known = [f for f in defaults if f in config and config[f] != defaults[f]]
  unknown = [f for f in config if f not in defaults]
  return [(f, config[f], defaults[f]) for f in known] + [
    (f, config[f], UNKNOWN_FIELD) for f in unknown
  ]


def last_values(curves: Mapping[str, Curve]) -> list[tuple[str, int, float]]:
  """Return (metric, step, newest value) of all results, evaluations first, without timings."""
  results = [name for name in curves if name not in _SPEEDS and 'seconds' not in name]
  return [
    (name, int(curves[name][0][-1]), float(curves[name][1][-1]))
    for name in sorted(results, key=lambda name: (name.startswith('train/'), name))
  ]


def speeds(curves: Mapping[str, Curve]) -> list[tuple[str, str, str]]:
  """Return (description, median over the run, newest value) of each speed that was recorded."""
  rows = []
  for name, (description, form) in _SPEEDS.items():
    if name in curves:
      values = curves[name][1]
      # Each goodput covers all of the time before it, so only the newest is meaningful.
      median = '' if name == 'train/goodput' else form.format(np.median(values))
      rows.append((description, median, form.format(values[-1])))
  return rows


def find_checkpoints(workdir: pathlib.Path) -> list[SavedCheckpoint]:
  """Return the completed checkpoints of a run, newest first."""
  saved = []
  for path in workdir.glob(f'{CHECKPOINTS}/*/'):
    if path.name.isdecimal() and path.is_dir():
      size = sum(p.stat().st_size for p in path.rglob('*') if p.is_file())
      date = datetime.datetime.fromtimestamp(path.stat().st_mtime)
      saved.append(SavedCheckpoint(int(path.name), size, date))
  return sorted(saved, reverse=True)
