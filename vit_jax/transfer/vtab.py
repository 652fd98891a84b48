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
import sys
from typing import Any

import jax
from ml_collections import ConfigDict

from vit_jax.config.checks import check_config, unknown_field
from vit_jax.config.fields import default_config
from vit_jax.data.open_source import open_source
from vit_jax.data.vtab_tasks import GROUPS, TASKS, find_task
from vit_jax.errors import InputError
from vit_jax.parallel import hosts
from vit_jax.pretrained.architecture import infer_model
from vit_jax.pretrained.formats import read_checkpoint
from vit_jax.training import command_line
from vit_jax.transfer.runs import Result, read_results, run_all


def checkpoint_fields(checkpoint: str) -> dict[str, Any]:
  """The config fields that make a model of a checkpoint's kind, with a new head.

  Both layers of the pretraining head are dropped: there is no representation_size.

  Raises:
    InputError: it cannot be read, or is of no model that `create_model` makes.
  """
  arrays, metadata = read_checkpoint(checkpoint)
  try:
    name, found = infer_model(arrays, metadata)
  except InputError as e:
    raise InputError(f'{checkpoint}: {e}') from e
  dropped = ('representation_size', 'num_classes', 'image_size')  # the task says the others
  return {'model': name, 'init_from': checkpoint} | {
    field: value for field, value in found.items() if field not in dropped
  }


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
  c.image_size, c.dropout = 384, 0.0
  c.optimizer, c.momentum, c.weight_decay, c.clip_norm = 'sgd', 0.9, 0.0, 1.0
  c.new_head = True
  c.batch_size, c.total_steps, c.warmup_steps, c.lr, c.schedule = 512, 2500, 500, 0.01, 'cosine'
  c.eval_every, c.save_every, c.keep = 0, 500, 1
  for field, value in fields.items():
    if field not in c:
      raise unknown_field(field)
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
        open_source(f'vtab/{name}', split, data_dir)
    except InputError as e:
      missing[name] = str(e)
  return missing


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
    examples, accuracy = (
      (f'{result["examples"]:,}', f'{100 * result["accuracy"]:.2f}') if result else ('-', '-')
    )
    lines.append(f'{name:<22}{task.group:<14}{examples:>11}{accuracy:>10}')
  for group, (mean, have, total) in means({n: r['accuracy'] for n, r in results.items()}).items():
    shown = '-' if mean is None else f'{100 * mean:.2f}'
    lines.append(f'{"mean":<22}{group:<14}{f"{have} of {total}":>11}{shown:>10}')
  return '\n'.join(lines)


def main(argv: Sequence[str] | None = None, *, last: bool = False) -> int:
  """Runs the command line; returns the exit code; `last` as for `program.guard`."""
  args = _parser().parse_args(argv)
  return command_line.guard(lambda: _run(args), last=last)


def _run(args: argparse.Namespace) -> int:
  tasks = args.tasks.split(',') if args.tasks else list(TASKS)
  fields = checkpoint_fields(args.checkpoint) | {
    'data_dir': args.data_dir,
    'seed': args.seed,
    **dict(args.set),
  }
  configs = {name: task_config(name, fields) for name in tasks}
  workdir = command_line.directory(args.workdir)
  hosts.start()
  done = read_results(configs, workdir)
  missing = {}
  for found in hosts.gather(
    missing_data([name for name in tasks if name not in done], args.data_dir)
  ):
    missing |= found
  results = run_all(
    {name: c for name, c in configs.items() if name not in missing},
    workdir,
    titles={name: f'{name}: task {i} of {len(tasks)}' for i, name in enumerate(tasks, 1)},
    keep=args.keep,
  )
  diverged = {name: r['diverged'] for name, r in results.items() if 'diverged' in r}
  if jax.process_index() == 0:
    print(table({name: r for name, r in results.items() if name not in diverged}))
    for why in dict.fromkeys((missing | diverged).values()):
      names = ', '.join(name for name in tasks if (missing | diverged).get(name) == why)
      print(f'error: {names}: {why}', file=sys.stderr)
  return int(bool(missing or diverged))


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m vit_jax.transfer.vtab',
    description=__doc__.split('\n')[0],
    epilog=f'tasks: {", ".join(TASKS)}',
  )
  add = parser.add_argument
  add(
    '--checkpoint',
    required=True,
    metavar='PATH',
    help='npz, safetensors or Orbax; local, https:// or gs://',
  )
  add(
    '--workdir',
    default='runs/vtab',
    metavar='DIR',
    help='gets a run for each task (default: %(default)s)',
  )
  add('--tasks', metavar='NAME,...', help='default: all 19')
  add(
    '--data_dir',
    metavar='DIR',
    help='where data sets lie (default: $TFDS_DATA_DIR or ~/tensorflow_datasets)',
  )
  add('--seed', type=int, default=0, help='of the new run on each task (default: %(default)s)')
  add(
    '--set',
    action='append',
    default=[],
    type=_field,
    metavar='FIELD=VALUE',
    help='a field of the config, such as accumulate=8 or image_size=378; can be repeated',
  )
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
  command_line.leave(main(last=True))
