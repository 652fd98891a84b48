"""Transfers a checkpoint to the 19 tasks of VTAB-1k and prints the score (paper section 4.1).

  python -m vit_jax.transfer.vtab --checkpoint=ViT-B_16.npz --workdir=runs/vtab --data_dir=/data

Each task is fine-tuned on its 1,000 images and evaluated once on its whole test set. The same
command again goes on where it was stopped. Tasks whose data set is not prepared are named, with
the command that prepares it, and the others run. Exit code: 0 when all have a result, 1 when some
have none, 42 when stopped.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterable, Mapping, Sequence
import json
import logging
import os
import pathlib
import shutil
import sys
from typing import Any

from ml_collections import ConfigDict

from vit_jax import hosts
from vit_jax.config import check_config, default_config
from vit_jax.data import source
from vit_jax.data.vtab import GROUPS, TASKS, find_task
from vit_jax.errors import InputError, Interrupted
from vit_jax.pretrained.architecture import infer_model
from vit_jax.pretrained.formats import read_checkpoint
from vit_jax.train import train

log = logging.getLogger('vit_jax')

_EXIT_INTERRUPTED = 42
_RESULT = 'result.json'
_ELSEWHERE = ('data_dir', 'num_threads', 'num_workers', 'compile_cache', 'hang_seconds',
              'log_every', 'save_every')  # what of a config does not change the result
Result = dict[str, Any]  # accuracy, examples, config


def checkpoint_fields(checkpoint: str) -> dict[str, Any]:
  """The config fields that make a model of a checkpoint's kind, with a new head.

  Both layers of the pretraining head are dropped: there is no representation_size.

  Raises:
    InputError: it cannot be read, or is of no model that `create_model` makes.
  """
  arrays, about = read_checkpoint(checkpoint)
  try:
    name, found = infer_model(arrays, about)
  except InputError as e:
    raise InputError(f'{checkpoint}: {e}') from e
  dropped = ('representation_size', 'num_classes', 'image_size')  # the task says the others
  return {'model': name, 'init_from': checkpoint} | {
      field: value for field, value in found.items() if field not in dropped}


def task_config(name: str, fields: Mapping[str, Any]) -> ConfigDict:
  """The config that fine-tunes and evaluates on one task by the paper's protocol.

  2,500 steps of batch 512 at learning rate .01, SGD with momentum .9, no weight decay, gradients
  clipped to norm 1, 384 pixels; augmented as was tuned for each task.

  Args:
    name: of a task.
    fields: of the config, which win over the protocol's; 'model' and 'init_from' at least.

  Raises:
    InputError: no such task or field, or a value of another type.
  """
  task = find_task(name)
  c = default_config()
  c.dataset, c.preset, c.flip = f'vtab/{name}', 'bit', 'yes' if task.flip else 'no'
  c.image_size, c.dropout = 384, 0.
  c.optimizer, c.momentum, c.weight_decay, c.clip_norm = 'sgd', .9, 0., 1.
  c.new_head = True
  c.batch_size, c.total_steps, c.warmup_steps, c.lr, c.schedule = 512, 2500, 500, .01, 'cosine'
  c.eval_every, c.save_every, c.keep = 0, 500, 1
  for field, value in fields.items():
    if field not in c:
      raise InputError(f'unknown config field {field!r}')
    try:
      c[field] = value
    except TypeError as e:
      raise InputError(f'config.{field}={value!r}: {e}') from e
  if 'resize_size' not in fields:  # without random crops, images are resized to their final size
    c.resize_size = round(c.image_size * 448 / 384) if task.crop else c.image_size
  check_config(c)
  return c


def missing_data(tasks: Iterable[str], data_dir: str | None = None) -> dict[str, str]:
  """{task: what is missing and how to get it} of the tasks whose data cannot be read here."""
  missing = {}
  for name in tasks:
    try:
      for split in ('train800val200', 'test'):
        source.open_source(f'vtab/{name}', split, data_dir)
    except InputError as e:
      missing[name] = str(e)
  return missing


def run_tasks(configs: Mapping[str, ConfigDict], workdir: pathlib.Path, *,
              keep: bool = False) -> dict[str, Result]:
  """Trains on the tasks that have no result yet; returns the results of all.

  Args:
    configs: {task: config}.
    workdir: gets a run and a result.json for each task.
    keep: whether the fine-tuned checkpoints stay.

  Raises:
    InputError: a result in `workdir` is of another checkpoint or config; what `train` raises.
    Interrupted: stopped; the same call goes on.
  """
  results = read_results(configs, workdir)
  for name, config in configs.items():
    if name in results:
      log.info('%s: done before', name)
      continue
    log.info('%s: %d of %d', name, list(configs).index(name) + 1, len(configs))
    metrics = train(config, workdir / name)
    results[name] = {'accuracy': metrics['eval/accuracy'],
                     'examples': int(metrics['eval/examples']), 'config': _settings(config)}
    _write(workdir / name / _RESULT, results[name])
    if not keep:
      shutil.rmtree(workdir / name / 'checkpoints', ignore_errors=True)
  return {name: results[name] for name in configs}


def read_results(configs: Mapping[str, ConfigDict],
                 workdir: pathlib.Path) -> dict[str, Result]:
  """The results in `workdir` of the tasks of `configs`; raises InputError as `run_tasks`."""
  results = {}
  for name, config in configs.items():
    path = workdir / name / _RESULT
    if not path.exists():
      continue
    try:
      results[name] = json.loads(path.read_text())
      was = results[name]['config']
    except (OSError, ValueError, KeyError, TypeError) as e:
      raise InputError(f'{path} is no readable result ({e}): remove it') from e
    now = _settings(config)
    for field in sorted(set(was) | set(now)):
      if field not in _ELSEWHERE and was.get(field) != now.get(field):
        raise InputError(f'{path} is a result with {field}={was.get(field)!r}, not '
                         f'{now.get(field)!r}: give another --workdir')
  return results


def _settings(config: ConfigDict) -> dict[str, Any]:
  """The fields of a config as JSON knows them."""
  return json.loads(json.dumps(config.to_dict()))


def _write(path: pathlib.Path, result: Result) -> None:
  """In one piece: a kill leaves the whole file or none."""
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_suffix('.partial')
  partial.write_text(json.dumps(result, indent=2) + '\n')
  os.replace(partial, path)


def means(accuracies: Mapping[str, float]) -> dict[str, tuple[float | None, int, int]]:
  """{group: (mean accuracy, tasks that have one, tasks)} of each of GROUPS, and of 'all'.

  The benchmark's score is the mean over all 19 tasks, not over the groups.
  """
  found = {}
  for group in (*GROUPS, 'all'):
    tasks = [name for name, task in TASKS.items() if group in (task.group, 'all')]
    have = [accuracies[name] for name in tasks if name in accuracies]
    found[group] = sum(have) / len(have) if have else None, len(have), len(tasks)
  return found


def table(results: Mapping[str, Result]) -> str:
  """The 19 tasks and the means as text: accuracies in per cent; - where there is no result."""
  lines = [f'{"task":<22}{"group":<14}{"test images":>11}{"accuracy":>10}']
  for name, task in TASKS.items():
    result = results.get(name)
    examples, accuracy = (f'{result["examples"]:,}', f'{100 * result["accuracy"]:.2f}'
                          ) if result else ('-', '-')
    lines.append(f'{name:<22}{task.group:<14}{examples:>11}{accuracy:>10}')
  for group, (mean, have, total) in means({n: r['accuracy'] for n, r in results.items()}).items():
    shown = '-' if mean is None else f'{100 * mean:.2f}'
    lines.append(f'{"mean":<22}{group:<14}{f"{have} of {total}":>11}{shown:>10}')
  return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  args = _parser().parse_args(argv)
  try:
    return _run(args)
  except InputError as e:
    print(f'error: {e}', file=sys.stderr)
    return 1
  except Interrupted:
    return _EXIT_INTERRUPTED


def _run(args: argparse.Namespace) -> int:
  tasks = args.tasks.split(',') if args.tasks else list(TASKS)
  fields = checkpoint_fields(args.checkpoint) | {
      'data_dir': args.data_dir or '', 'seed': args.seed, **dict(args.set)}
  configs = {name: task_config(name, fields) for name in tasks}
  workdir = pathlib.Path(args.workdir).expanduser()
  done = read_results(configs, workdir)
  missing = missing_data([name for name in tasks if name not in done], args.data_dir)
  if len(missing) < len(tasks) - len(done):
    hosts.start()
  results = run_tasks({name: c for name, c in configs.items() if name not in missing}, workdir,
                      keep=args.keep)
  print(table(results))
  for why in dict.fromkeys(missing.values()):
    names = ', '.join(name for name in tasks if missing.get(name) == why)
    print(f'error: {names}: {why}', file=sys.stderr)
  return int(bool(missing))


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
      prog='python -m vit_jax.transfer.vtab', description=__doc__.split('\n')[0],
      epilog=f'tasks: {", ".join(TASKS)}')
  add = parser.add_argument
  add('--checkpoint', required=True, metavar='PATH',
      help='npz, safetensors or Orbax; local, https:// or gs://')
  add('--workdir', default='runs/vtab', metavar='DIR',
      help='gets a run for each task (default: %(default)s)')
  add('--tasks', metavar='NAME,...', help='default: all 19')
  add('--data_dir', metavar='DIR', help='where data sets lie (default: $TFDS_DATA_DIR or '
      '~/tensorflow_datasets)')
  add('--seed', type=int, default=0, help='of the new run on each task (default: %(default)s)')
  add('--set', action='append', default=[], type=_field, metavar='FIELD=VALUE',
      help='a field of the config, such as accumulate=8 or image_size=378; can be repeated')
  add('--keep', action='store_true', help='keep the fine-tuned checkpoint of each task')
  return parser


def _field(text):
  """'accumulate=8' -> ('accumulate', 8), 'parallel=mesh' -> ('parallel', 'mesh')."""
  field, equals, value = text.partition('=')
  if not equals:
    raise ValueError
  try:
    return field, ast.literal_eval(value)
  except (SyntaxError, ValueError):
    return field, value


_field.__name__ = 'FIELD=VALUE'  # in argparse's messages


if __name__ == '__main__':
  sys.exit(main())
