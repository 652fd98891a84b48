"""Transfer a checkpoint to the 19 tasks of VTAB-1k and print the score (paper section 4.1).

  python -m vit_jax.transfer.vtab --checkpoint=ViT-B_16.npz --workdir=runs/vtab --data_dir=/data

Each task is fine-tuned on its 1,000 images and evaluated once on its whole test set. Run the same
command again to continue after a stop. If a task's dataset is not prepared, the other tasks run,
and an error at the end gives the command that prepares it. Exit code: 0 when all tasks have a
result, 1 when some have none, 42 when stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
import statistics
import sys
from typing import Any

import jax
from ml_collections import ConfigDict

from vit_jax.config.checks import check_config, unknown_field
from vit_jax.config.fields import default_config
from vit_jax.config.flags import field_value
from vit_jax.config.length import settle_length
from vit_jax.config.no_effect import check_effect
from vit_jax.data.open_source import open_source
from vit_jax.data.vtab_tasks import GROUPS, TASKS, find_task
from vit_jax.errors import InputError, last_line
from vit_jax.parallel import hosts
from vit_jax.parallel.preemption import stop_on_signals
from vit_jax.pretrained.architecture import infer_model
from vit_jax.pretrained.formats import read_checkpoint
from vit_jax.training import command_line
from vit_jax.training.log import log, start_log
from vit_jax.training.workdir import lock_workdir
from vit_jax.transfer.runs import Result, read_results, recorded_fields, run_all


def checkpoint_fields(checkpoint: str) -> dict[str, Any]:
  """Return the config fields that make the model of a checkpoint, with a new head.

  There is no representation_size, because both layers of the pretraining head are dropped.

  Raises:
    InputError: the checkpoint cannot be read, or `create_model` makes no such model.
  """
  arrays, metadata = read_checkpoint(checkpoint)
  try:
    model, inferred = infer_model(arrays, metadata)
  except InputError as e:
    raise InputError(f'{checkpoint}: {e}') from e
  # The number of classes and the image size come from the task.
  for field in ('representation_size', 'num_classes', 'image_size'):
    inferred.pop(field, None)
  return {'model': model, 'init_from': checkpoint} | inferred


def task_config(name: str, fields: Mapping[str, Any]) -> ConfigDict:
  """Return the config that fine-tunes and evaluates on one task by the paper's protocol.

  The protocol is 2,500 steps of batch size 512 at learning rate 0.01, SGD with momentum 0.9, no
  weight decay, gradients clipped to norm 1, images of 384 pixels, and crops and flips that were
  tuned for each task.

  Args:
    name: name of a task, such as 'pets'.
    fields: config fields that override those of the protocol, at least 'model' and 'init_from'.

  Raises:
    InputError: there is no such task or field, or a value has another type.
  """
  task = find_task(name)
  c = default_config()
  c.dataset, c.preset, c.flip = f'vtab/{name}', 'bit', 'yes' if task.flip else 'no'
  c.image_size, c.dropout = 384, 0.0
  c.optimizer, c.momentum, c.weight_decay, c.clip_norm = 'sgd', 0.9, 0.0, 1.0
  c.new_head = True
  c.batch_size, c.total_steps, c.warmup_steps, c.lr, c.schedule = 512, 2500, 500, 0.01, 'cosine'
  c.eval_every, c.save_every, c.keep = 0, 500, 1
  for field, value in fields.items():
    if field not in c:
      raise unknown_field(field)
    if field == 'dataset':
      raise InputError('config.dataset is that of each task. Choose the tasks with --tasks.')
    try:
      c[field] = value
    except TypeError as e:
      raise InputError(f'config.{field}={value!r} has the wrong type. {last_line(e)}.') from e
  settle_length(c, fields)
  if 'resize_size' not in fields:  # the final size, unless training crops at random
    c.resize_size = round(c.image_size * 448 / 384) if task.crop else c.image_size
  check_config(c)
  return c


def missing_data(tasks: Iterable[str], data_dir: str | None = None) -> dict[str, str]:
  """Return {task: error} for the tasks whose data cannot be read here."""
  missing = {}
  for name in tasks:
    try:
      for split in ('train800val200', 'test'):
        open_source(f'vtab/{name}', split, data_dir)
    except InputError as e:
      missing[name] = str(e)
  return missing


def means(accuracies: Mapping[str, float]) -> dict[str, tuple[float | None, int, int]]:
  """Return {group: (mean accuracy or None, tasks with an accuracy, tasks)} by GROUPS and 'all'.

  The benchmark's score is the mean over all 19 tasks, not over the groups.
  """
  rows = {}
  for group in (*GROUPS, 'all'):
    tasks = [name for name, task in TASKS.items() if group in (task.group, 'all')]
    values = [accuracies[name] for name in tasks if name in accuracies]
    rows[group] = (statistics.fmean(values) if values else None, len(values), len(tasks))
  return rows


def table(results: Mapping[str, Result]) -> str:
  """Return the 19 tasks and the means as text: accuracies in percent, or '-' without a result."""
  lines = [f'{"task":<22}{"group":<14}{"test images":>11}{"accuracy":>10}']
  for name, task in TASKS.items():
    examples = accuracy = '-'
    if result := results.get(name):
      examples, accuracy = f'{result["examples"]:,}', f'{100 * result["accuracy"]:.2f}'
    lines.append(f'{name:<22}{task.group:<14}{examples:>11}{accuracy:>10}')
  accuracies = {name: result['accuracy'] for name, result in results.items()}
  for group, (mean, count, total) in means(accuracies).items():
    percent = '-' if mean is None else f'{100 * mean:.2f}'
    lines.append(f'{"mean":<22}{group:<14}{f"{count} of {total}":>11}{percent:>10}')
  return '\n'.join(lines)


def main(argv: Sequence[str] | None = None, *, last: bool = False) -> int:
  """Run the command line and return the exit code. `last` is that of `command_line.exit_code`."""
  args = _parser().parse_args(argv)
  return command_line.exit_code(lambda: _run(args), last=last)


def _run(args: argparse.Namespace) -> int:
  tasks = args.tasks.split(',') if args.tasks else list(TASKS)
  given, flags = dict(args.set), {'data_dir': args.data_dir, 'seed': args.seed}
  for field in given.keys() & {'init_from', *(k for k, v in flags.items() if v is not None)}:
    flag = '--checkpoint' if field == 'init_from' else f'--{field}'
    raise InputError(f'{flag} and --set={field}={given[field]} say the same. Give only {flag}.')
  fields = checkpoint_fields(args.checkpoint) | {k: v for k, v in flags.items() if v is not None}
  configs = {name: task_config(name, fields | given) for name in tasks}
  workdir = command_line.workdir_path(args.workdir)
  notes = [
    note
    for name, config in configs.items()
    for note in check_effect(config, given.keys(), recorded_fields(workdir, [name]))
  ]
  hosts.start()
  start_log(None, jax.process_index())
  for note in dict.fromkeys(notes):
    log.warning('%s', note)
  done = read_results(configs, workdir)
  failed = {}  # task: why it has no accuracy
  for missing in hosts.gather(missing_data([n for n in tasks if n not in done], args.data_dir)):
    failed |= missing
  with stop_on_signals(), lock_workdir(workdir):
    results = run_all(
      {name: c for name, c in configs.items() if name not in failed},
      workdir,
      titles={name: f'{name}: task {i} of {len(tasks)}' for i, name in enumerate(tasks, 1)},
      keep=args.keep,
    )
  failed |= {name: r['diverged'] for name, r in results.items() if 'diverged' in r}
  if jax.process_index() == 0:
    print(table({name: r for name, r in results.items() if name not in failed}))
    for error in dict.fromkeys(failed.values()):
      names = ', '.join(name for name in tasks if failed.get(name) == error)
      print(f'error: {names}: {error}', file=sys.stderr)
  return int(bool(failed))


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m vit_jax.transfer.vtab',
    description=(__doc__ or '').split('\n')[0],
    epilog=f'tasks: {", ".join(TASKS)}',
  )
  add = parser.add_argument
  add(
    '--checkpoint',
    required=True,
    metavar='PATH',
    help='npz, safetensors or Orbax checkpoint: local, https:// or gs://',
  )
  add(
    '--workdir',
    default='runs/vtab',
    metavar='DIR',
    help='directory that gets a run for each task (default: %(default)s)',
  )
  add('--tasks', metavar='NAME,...', help='tasks to run (default: all 19)')
  add(
    '--data_dir',
    metavar='DIR',
    help='directory of the prepared datasets (default: $TFDS_DATA_DIR or ~/tensorflow_datasets)',
  )
  add('--seed', type=int, help='seed of the run on each task (default: 0)')
  add(
    '--set',
    action='append',
    default=[],
    type=field_value,
    metavar='FIELD=VALUE',
    help='config field to set, such as accumulate=8 or image_size=378; can be repeated',
  )
  add('--keep', action='store_true', help='keep the fine-tuned checkpoint of each task')
  return parser


if __name__ == '__main__':
  command_line.leave(main(last=True))
