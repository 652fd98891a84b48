"""Several training runs in one workdir, each done once, also when a kill comes between.

Each run has a directory of its own with a result.json, written whole after the run has ended. Of
several processes, process 0 reads and writes these; all of them go by what it found.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
import logging
import pathlib
from typing import Any

from etils import epath
import jax
from ml_collections import ConfigDict

from vit_jax.errors import InputError, NotFinite
from vit_jax.files import write_whole
from vit_jax.parallel import hosts
from vit_jax.training.loop import train
from vit_jax.training.metrics import start_log

log = logging.getLogger('vit_jax')

RESULT = 'result.json'
# What of a config does not change the result of a run, beyond rounding.
_ELSEWHERE = (
  'data_dir',
  'num_threads',
  'num_workers',
  'compile_cache',
  'hang_seconds',
  'profile_steps',
  'log_every',
  'eval_every',
  'save_every',
  'keep',
  'keep_every',
  'parallel',
  'mesh',
  'accumulate',
  'scan',
  'remat',
)
# accuracy and examples, or diverged: what was not finite, and when; config; kept: whether the
# checkpoints stay.
Result = dict[str, Any]
Path = pathlib.Path | epath.Path


def run_all(
  configs: Mapping[str, ConfigDict],
  workdir: Path,
  *,
  titles: Mapping[str, str] | None = None,
  keep: bool = False,
) -> dict[str, Result]:
  """Trains the runs that have no result yet; returns the results of all.

  A run of which the loss, the gradient or the parameters become infinite has ended, too: its
  result has 'diverged' in place of 'accuracy' and 'examples'.

  Args:
    configs: {name of the run: config}; all processes have the same.
    workdir: gets a run and a result.json for each name.
    titles: {name: what to say when its turn comes}; the name where there is none.
    keep: whether the checkpoints of what is trained now stay.

  Raises:
    InputError: a result or a checkpoint in `workdir` is of another config; what `train` raises.
    Interrupted: stopped; the same call goes on.
  """
  results = read_results(configs, workdir)
  for name, config in configs.items():
    title = (titles or {}).get(name, name)
    start_log(None, jax.process_index())  # to the terminal alone: train adds its own file
    if name in results:
      log.info('%s: done before', title)
    else:
      log.info('%s', title)
      results[name] = _train(config, workdir / name) | {'kept': keep}
      _write(workdir / name / RESULT, results[name])
    if not results[name]['kept']:
      _discard(workdir / name / 'checkpoints')
  return {name: results[name] for name in configs}


def _train(config: ConfigDict, workdir: Path) -> Result:
  try:
    metrics = train(config, workdir)
  except NotFinite as e:
    log.warning('%s', e)
    return {'diverged': str(e).split(';')[0], 'config': _settings(config)}
  accuracy = metrics.get('eval/average_accuracy', metrics['eval/accuracy'])  # what is exported
  return {
    'accuracy': accuracy,
    'examples': int(metrics['eval/examples']),
    'config': _settings(config),
  }


def read_results(configs: Mapping[str, ConfigDict], workdir: Path) -> dict[str, Result]:
  """The results in `workdir` of those of `configs` that have one; raises as `run_all`."""
  found = None
  if jax.process_index() == 0:
    found = {}
    for name, config in configs.items():
      if (workdir / name / RESULT).exists():
        found[name] = _read(workdir / name / RESULT)
        _check_config(found[name]['config'], config, workdir / name / RESULT, 'a result')
      elif any((workdir / name).glob('checkpoints/[0-9]*')):
        path = workdir / name / 'config.json'
        _check_config(_json(path, 'config'), config, path, 'of a run')
  return hosts.gather(found)[0]


def _read(path: Path) -> Result:
  result = _json(path, 'result')
  fields = ('config', 'diverged') if 'diverged' in result else ('config', 'accuracy', 'examples')
  if missing := [field for field in fields if field not in result]:
    raise InputError(f'{path} is no readable result (there is no {missing[0]}): remove it')
  return {'kept': True} | result


def _json(path: Path, what: str) -> dict[str, Any]:
  try:
    return dict(json.loads(path.read_text()))
  except (OSError, ValueError, TypeError) as e:
    raise InputError(f'{path} is no readable {what} ({e}): remove it') from e


def _check_config(was: Mapping[str, Any], config: ConfigDict, path: Path, what: str) -> None:
  now = _settings(config)
  for field in sorted(set(was) | set(now)):
    if field not in _ELSEWHERE and was.get(field) != now.get(field):
      raise InputError(
        f'{path} is {what} with {field}={was.get(field)!r}, not '
        f'{now.get(field)!r}: give another --workdir, or remove {path.parent} to '
        'train it again'
      )


def _settings(config: ConfigDict) -> dict[str, Any]:
  """The fields of a config as JSON knows them."""
  return json.loads(json.dumps(config.to_dict()))


def _write(path: Path, result: Result) -> None:
  hosts.gather(None)  # all are done with the run's directory
  if jax.process_index() == 0:
    write_whole(path, json.dumps(result, indent=2) + '\n')


def _discard(checkpoints: Path) -> None:
  if jax.process_index() == 0 and checkpoints.exists():
    epath.Path(checkpoints).rmtree()
