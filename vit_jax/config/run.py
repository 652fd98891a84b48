"""Learning curves, as the runs recorded them."""

import json
import os
import pathlib

import numpy as np

from vit_jax.errors import InputError

Curve = tuple[np.ndarray, np.ndarray]  # steps, values


def read_curves(workdir: str | os.PathLike) -> dict[str, Curve]:
  """The metrics of a run: {name: (steps, values)}.

  Args:
    workdir: its directory, or its metrics.jsonl. A last line that is cut short is left out, as
      when the run is still writing.
  Raises:
    InputError: there is no such file, it cannot be read, or it has no lines.
  """
  path = pathlib.Path(workdir).expanduser()
  path = path / 'metrics.jsonl' if path.is_dir() else path
  try:
    lines = path.read_text().split('\n')[:-1]
  except (OSError, UnicodeDecodeError) as e:
    raise InputError(
      f'{path} cannot be read: {getattr(e, "strerror", e)}; give the workdir of a run'
    ) from e
  points: dict[str, list[tuple[int, float]]] = {}
  for number, line in enumerate(lines, 1):
    try:
      values = json.loads(line)
      step = values.pop('step')
      for name, value in values.items():
        points.setdefault(name, []).append((step, float(value)))
    except (ValueError, TypeError, KeyError, AttributeError) as e:
      raise InputError(f'{path}, line {number}, is not a line of metrics') from e
  if not points:
    raise InputError(f'{path} has no metrics yet: the run has not reached its first log_every')
  return {name: tuple(np.array(column) for column in zip(*of)) for name, of in points.items()}
