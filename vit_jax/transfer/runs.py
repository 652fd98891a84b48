"""Train several runs in one workdir, each exactly once, even if the process is killed in between.

Each run has a directory of its own. Its result.json is written in one piece after the run has
ended. With several processes, process 0 reads and writes these files and tells the others.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
import json
from typing import Any

from etils import epath
import jax
from ml_collections import ConfigDict

from vit_jax.config.dtype import AUTO, settle_dtype
from vit_jax.config.run import (
  CHECKPOINTS,
  MAY_CHANGE,
  Damaged,
  complete,
  has_checkpoint,
  keep_fields,
  read_config,
  read_run,
)
from vit_jax.data.dataset_names import absolute_path, may_have_moved
from vit_jax.errors import InputError, NotFinite, last_line
from vit_jax.files import AnyPath, write_whole
from vit_jax.parallel import hosts
from vit_jax.training.log import log, start_log
from vit_jax.training.loop import train

RESULT = 'result.json'
# A result has all fields of one of these sets.
_FIELDS = ({'config', 'accuracy', 'examples'}, {'config', 'diverged'})


# The content of a result.json:
#   accuracy: on the evaluation split; of the averaged parameters if the run keeps them
#   examples: number of images in that split
#   first_loss, last_loss: training loss of the first step, and the last one logged; earlier
#     versions did not record them
#   diverged: instead of these, the value that was not finite and its step
#   config: the fields of the run
#   kept: true if the checkpoints of the run stay
Result = dict[str, Any]


def run_all(
  configs: Mapping[str, ConfigDict],
  workdir: AnyPath,
  *,
  titles: Mapping[str, str] | None = None,
  keep: bool = False,
) -> dict[str, Result]:
  """Train the runs that have no result yet, and return the results of all.

  A run whose loss, gradient or parameters become infinite is not trained again, either. Its result
  has 'diverged' in place of 'accuracy' and 'examples'.

  Args:
    configs: {name of the run: config}, the same in all processes.
    workdir: directory that gets a directory with a run and a result.json for each name.
    titles: {name of the run: line to log when its turn comes}. Defaults to the name.
    keep: keep the checkpoints of the runs that are trained now.

  Raises:
    InputError: a result or a checkpoint in `workdir` has another config, or `train` failed.
    Interrupted: the user stopped it. The same call continues.
  """
  results = read_results(configs, workdir)
  if any(config.dtype == AUTO for config in configs.values()):
    recorded = hosts.gather(recorded_fields(workdir, configs))[0]
    device = jax.devices()[0]
    for config in configs.values():  # all runs in the same type
      settle_dtype(config, device.platform, recorded, kind=device.device_kind)
  for name, config in configs.items():
    title = (titles or {}).get(name, name)
    start_log(None, jax.process_index())  # only the terminal, because train adds its own file
    if name in results:
      log.info('%s: already done', title)
    else:
      log.info('%s', title)
      results[name] = _train(config, workdir / name, keep) | {'kept': keep}
      _write(workdir / name / RESULT, results[name])
    if not results[name]['kept']:
      _discard(workdir / name / CHECKPOINTS)
  return {name: results[name] for name in configs}


def _train(config: ConfigDict, workdir: AnyPath, keep: bool) -> Result:
  try:
    metrics = train(config, workdir, keep=keep)
  except NotFinite as e:
    log.warning('%s', e if keep else f'{_first_sentence(e)}.')  # the rest is about checkpoints
    return {'diverged': _first_sentence(e), 'config': _as_json(config)}
  accuracy = metrics.get('eval/average_accuracy', metrics['eval/accuracy'])
  losses = {}
  if 'train/first_loss' in metrics:
    losses = {'first_loss': metrics['train/first_loss'], 'last_loss': metrics['train/loss']}
  return {
    'accuracy': accuracy,
    'examples': int(metrics['eval/examples']),
    **losses,
    'config': _as_json(config),
  }


def _first_sentence(e: NotFinite) -> str:
  """Return 'The loss is nan at step 7' of 'The loss is nan at step 7. Nothing was saved.'."""
  return str(e).split('. ')[0].removesuffix('.')


def keep_recorded(
  config: ConfigDict, workdir: AnyPath, names: Iterable[str], given: Container[str]
) -> list[str]:
  """Set config fields, in place, to the values of a run in `workdir` that has been started before.

  See `config.run.keep_recorded`. Only the first run is read, because all have the same fields
  besides those in `given`.

  Args:
    config: the config of the runs.
    workdir: directory of all runs.
    names: names of runs, in the order in which they are trained.
    given: fields that the user or the protocol sets.

  Returns:
    A sentence for each field that changed.

  Raises:
    InputError: the config of the run cannot be read.
  """
  recorded = recorded_fields(workdir, names)
  return [] if recorded is None else keep_fields(config, recorded, given)


def recorded_fields(workdir: AnyPath, names: Iterable[str]) -> Mapping[str, Any] | None:
  """Return the config of the first of these runs that has been started before, or None.

  Raises:
    InputError: the config of the run cannot be read.
  """
  for directory in (workdir / name for name in names):
    if (directory / RESULT).exists() or has_checkpoint(directory):
      try:
        recorded = _read(directory / RESULT)['config'] if (directory / RESULT).exists() else None
        return complete(recorded or read_config(directory))
      except Damaged:
        continue  # `read_results` warns of it
  return None


def read_results(configs: Mapping[str, ConfigDict], workdir: AnyPath) -> dict[str, Result]:
  """Return the results in `workdir` of those `configs` that have one.

  Raises:
    InputError: a result or a checkpoint in `workdir` has another config, or cannot be read. A
      damaged result does not count as one.
  """
  results = None
  if jax.process_index() == 0:
    results = {}
    for name, config in configs.items():
      directory = workdir / name
      try:
        if (directory / RESULT).exists():
          results[name] = _read(directory / RESULT)
          _check_same(results[name]['config'], config, directory / RESULT)
        elif has_checkpoint(directory):
          _check_same(read_run(directory).config, config, directory)
      except Damaged as e:
        log.warning('%s Training this run again, from its last checkpoint if it has one.', e)
  return hosts.gather(results)[0]


def _read(path: AnyPath) -> Result:
  try:
    result = json.loads(path.read_bytes())
    if not isinstance(result, dict) or not any(fields <= result.keys() for fields in _FIELDS):
      raise ValueError('it is not the result of a run')
    return {'kept': True} | result | {'config': _as_json(complete(result['config']))}
  except OSError as e:
    raise InputError(f'Cannot read {path}: {e.strerror or e}. Remove it to train again.') from e
  except (ValueError, TypeError, AttributeError, RecursionError) as e:
    raise Damaged(f'Cannot read {path}: {last_line(e)}.') from e


def _check_same(recorded: Mapping[str, Any], config: ConfigDict, path: AnyPath) -> None:
  """Raise InputError for a field that changes the result and differs from the recorded one."""
  before, now = _as_json(recorded), _as_json(config)
  if may_have_moved(before['dataset'], now['dataset']):
    now['dataset'] = before['dataset']  # it may have moved, and `train` checks what is in it
  for field in sorted(now):
    if field == 'dtype' and now[field] == AUTO:
      continue  # `train` keeps the recorded one
    if field not in MAY_CHANGE and before[field] != now[field]:
      directory = path.parent if path.name == RESULT else path
      raise InputError(
        f'{path} has {field}={before[field]!r}, not {now[field]!r}. Give another --workdir, or '
        f'remove {directory} to train it again.'
      )


def _as_json(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
  """Return the fields as they are read back from JSON, with the absolute path of a dataset."""
  fields = json.loads(json.dumps(dict(config.items())))
  return fields | {'dataset': absolute_path(fields['dataset'])}


def _write(path: AnyPath, result: Result) -> None:
  hosts.gather(None)  # wait until no process uses the directory of the run any more
  if jax.process_index() == 0:
    write_whole(path, json.dumps(result, indent=2) + '\n')


def _discard(checkpoints: AnyPath) -> None:
  if jax.process_index() == 0 and checkpoints.exists():
    epath.Path(checkpoints).rmtree()
