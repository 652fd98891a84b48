"""What a run left in its workdir: config, metrics, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
import datetime
import json
import pathlib
from typing import Any, NamedTuple

import numpy as np

from vit_jax.config.run import Curve

_SPEEDS = {  # metric -> (what it is called, how its value is written)
  'train/images_per_second': ('images per second', '{:,.1f}'),
  'train/images_per_second_per_device': ('images per second and device', '{:,.1f}'),
  'train/mfu': ('MFU, share of the peak FLOP/s', '{:.1%}'),
  'train/goodput': ('goodput, share of all time since the start', '{:.1%}'),
}


class Saved(NamedTuple):
  """A checkpoint on disk."""

  step: int
  size: int  # bytes
  date: datetime.datetime


def differing(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
  """(field, value, default) where the run is not as `defaults`, in their order."""
  defaults = json.loads(json.dumps(dict(defaults)))  # JSON has no tuples
  known = [f for f in defaults if f in config and config[f] != defaults[f]]
  return [(f, config[f], defaults[f]) for f in known] + [
    (f, config[f], 'no field of this version') for f in config if f not in defaults
  ]


def last_values(curves: Mapping[str, Curve]) -> list[tuple[str, int, float]]:
  """(metric, step, its newest value), those of evaluations first; without what is no result."""
  shown = [name for name in curves if name not in _SPEEDS and 'seconds' not in name]
  return [
    (name, int(curves[name][0][-1]), float(curves[name][1][-1]))
    for name in sorted(shown, key=lambda name: (name.startswith('train/'), name))
  ]


def speeds(curves: Mapping[str, Curve]) -> list[tuple[str, str, str]]:
  """(what, median over the run, newest) of each speed on record; goodput has no median."""
  rows = []
  for name, (what, form) in _SPEEDS.items():
    if name in curves:
      values = curves[name][1]
      # Goodput is of all the time until then, so that only the newest says something.
      median = '' if name == 'train/goodput' else form.format(np.median(values))
      rows.append((what, median, form.format(values[-1])))
  return rows


def find_checkpoints(workdir: pathlib.Path) -> list[Saved]:
  """The finished checkpoints, the newest first."""
  saved = []
  for path in workdir.glob('checkpoints/*/'):
    if path.name.isdecimal() and path.is_dir():
      size = sum(p.stat().st_size for p in path.rglob('*') if p.is_file())
      saved.append(
        Saved(int(path.name), size, datetime.datetime.fromtimestamp(path.stat().st_mtime))
      )
  return sorted(saved, reverse=True)
