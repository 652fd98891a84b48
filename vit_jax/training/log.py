"""The log of a training run, on the terminal and in a file."""

import logging
import math
import pathlib
import sys

import absl.logging

log = logging.getLogger('vit_jax')


def start_log(path: pathlib.Path | None, process: int = 0) -> None:
  """Send the log of the package to stderr and, if `path` is given, to that file.

  Process 0 of a job reports progress. The other processes report only warnings.
  """
  log.setLevel(logging.WARNING if process else logging.INFO)
  log.propagate = False
  log.handlers = [logging.StreamHandler(sys.stderr)]
  if path is not None:
    log.addHandler(logging.FileHandler(path, encoding='utf-8', errors='backslashreplace'))
  absl.logging.set_verbosity(absl.logging.FATAL)  # Orbax also logs every error that it raises
  prefix = f'process {process}: ' if process else ''
  for handler in log.handlers:
    handler.setFormatter(logging.Formatter(f'%(asctime)s {prefix}%(message)s', '%H:%M:%S'))


def duration(seconds: float) -> str:
  """Return a time in words: 93784 -> '1d 2h', 150 -> '2m 30s'."""
  if not math.isfinite(seconds):
    return '?'
  seconds = round(seconds)
  parts = [
    (seconds // 86400, 'd'),
    (seconds // 3600 % 24, 'h'),
    (seconds // 60 % 60, 'm'),
    (seconds % 60, 's'),
  ]
  first = next((i for i, (n, _) in enumerate(parts) if n), 3)
  return ' '.join(f'{n}{unit}' for n, unit in parts[first : first + 2])
