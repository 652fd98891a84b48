"""Fine-tunes with each of some learning rates, then with the best from several seeds.

  python -m vit_jax.transfer.sweep --config=configs/finetune.py:ViT-B/16,cifar10 \\
      --config.init_from=ViT-B_16.npz --workdir=runs/sweep [--lrs=.001,.003] [--seeds=3]

The paper's protocol (section 4.1, appendix B.1.1): each learning rate is trained on one part of the
training images (--tune_split) and evaluated on the rest of them (--dev_split). The best one (of
equals the lowest) is trained on all of config.train_split from config.seed and the seeds after it,
and evaluated on config.eval_split, which nothing was chosen on. Splits that are not given are the
data set's own.

The same command again goes on where it was stopped; what has a result is not trained again.
WORKDIR has a directory for each run (lr_0.003, seed_0) and, at the end, results.json. The
checkpoints of the final runs stay, unless --discard; those of the tried learning rates do not.

Exit code: 0 when all is done, 42 when stopped and saved, 1 on an error, named in the last line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import copy
import itertools
import json
import logging
import math
import statistics
import sys
from typing import Any, NamedTuple

from absl import flags
import jax
from ml_collections import ConfigDict, config_flags

from vit_jax.config.checks import check_config
from vit_jax.config.recipes import learning_rates
from vit_jax.data.open_source import describe_dataset, open_source, split_names
from vit_jax.data.splits import named_splits, split_ranges
from vit_jax.errors import InputError
from vit_jax.files import write_whole
from vit_jax.parallel import hosts
from vit_jax.training import command_line
from vit_jax.transfer.runs import Path, Result, run_all

log = logging.getLogger('vit_jax')


class Splits(NamedTuple):
  """Of a data set, in TFDS notation."""

  tune: str  # what each learning rate is trained on
  dev: str  # what chooses among them
  train: str  # what the final runs are trained on
  test: str  # what they are evaluated on


def find_splits(c: ConfigDict, tune: str | None = None, dev: str | None = None) -> Splits:
  """The splits of a sweep: as the flags and the config say, else the data set's own.

  Raises:
    InputError: there is nothing to evaluate on, a split does not exist, the images that choose or
      test are also trained on, or config.train_split is not the data set's own and no flags say
      which parts of it to tune on.
  """
  about = describe_dataset(c.dataset, c.data_dir)
  if c.train_split not in (None, about.train_split) and not (tune and dev):
    raise InputError(
      f'config.train_split={c.train_split!r} is not all of the training images of '
      f'{c.dataset}, so say which parts of it learning rates are trained and '
      'compared on: --tune_split=... --dev_split=...'
    )
  splits = Splits(
    tune or about.tune_split,
    dev or about.dev_split,
    c.train_split or about.train_split,
    c.eval_split or about.eval_split,
  )
  if splits.test == 'none':
    raise InputError(
      f'{c.dataset} has nothing to evaluate the final runs on; give --config.eval_split=SPLIT'
    )
  for split in splits:
    open_source(c.dataset, split, c.data_dir)
  for a, b in (('tune', 'dev'), ('tune', 'test'), ('dev', 'test'), ('train', 'test')):
    one, other = getattr(splits, a), getattr(splits, b)
    if _overlap(c, one, other):
      raise InputError(
        f'the {a} split {one!r} and the {b} split {other!r} of {c.dataset} have '
        'images in common, so that the result would be too good; set --tune_split, '
        '--dev_split, --config.train_split or --config.eval_split'
      )
  return splits


def _overlap(c: ConfigDict, one: str, other: str) -> bool:
  data_dir = c.data_dir
  names = named_splits(f'{one}+{other}')
  if 'all' in names:
    names = split_names(c.dataset, data_dir)
  sizes = {name: [len(open_source(c.dataset, name, data_dir))] for name in names}
  return any(
    a == b and max(start, begin) < min(stop, end)
    for (a, start, stop), (b, begin, end) in itertools.product(
      *(split_ranges(s, sizes) for s in (one, other))
    )
  )


def tuning_configs(c: ConfigDict, lrs: Sequence[float], splits: Splits) -> dict[str, ConfigDict]:
  """{'lr_0.003': the config of the run that tries it}."""
  return {
    f'lr_{lr}': _changed(c, lr=lr, train_split=splits.tune, eval_split=splits.dev) for lr in lrs
  }


def final_configs(c: ConfigDict, lr: float, seeds: int, splits: Splits) -> dict[str, ConfigDict]:
  """{'seed_0': the config of the final run from that seed}."""
  return {
    f'seed_{seed}': _changed(c, lr=lr, seed=seed, train_split=splits.train, eval_split=splits.test)
    for seed in range(c.seed, c.seed + seeds)
  }


def _changed(c: ConfigDict, **fields: Any) -> ConfigDict:
  c = copy.deepcopy(c)
  c.update(fields)
  check_config(c)
  return c


def best(accuracies: Mapping[float, float]) -> float:
  """The key with the highest value; of equals the lowest key."""
  return max(sorted(accuracies), key=accuracies.__getitem__)


def sweep(
  c: ConfigDict,
  workdir: Path,
  *,
  lrs: Sequence[float],
  splits: Splits,
  seeds: int = 3,
  keep: bool = True,
) -> dict[str, Any]:
  """Tries the learning rates, trains with the best; returns what `results.json` then holds.

  A learning rate at which the loss becomes infinite is out, and the others go on.

  Args:
    c: config of a run; lr, seed and the splits are set here. `seed` is the first of the seeds.
    workdir: gets a directory for each run; the same call goes on with what is there.
    lrs, seeds: how many seeds, and the learning rates to try.
    splits: see `find_splits`.
    keep: whether the checkpoints of the final runs stay.

  Raises:
    InputError: no learning rate, or not the best one from every seed, stays finite; what is in
      workdir is of another config; what `train` raises.
    Interrupted: stopped; the same call goes on.
  """
  total = len(lrs) + seeds
  tuning = tuning_configs(c, lrs, splits)
  tuned = run_all(
    tuning,
    workdir,
    titles={
      name: f'run {i} of {total}: lr={config.lr} on {splits.tune}, dev {splits.dev}'
      for i, (name, config) in enumerate(tuning.items(), 1)
    },
  )
  dev = {tuning[name].lr: result for name, result in tuned.items()}
  finite = {lr: result['accuracy'] for lr, result in dev.items() if 'accuracy' in result}
  if not finite:
    raise InputError(
      f'no learning rate of {", ".join(map(str, lrs))} stays finite: with the '
      f'lowest {dev[min(dev)]["diverged"]}; give lower ones with --lrs, a longer '
      'warmup or clip_norm=1'
    )
  lr = best(finite)
  final = final_configs(c, lr, seeds, splits)
  test = run_all(
    final,
    workdir,
    keep=keep,
    titles={
      name: f'run {i} of {total}: seed {config.seed}, lr={lr} on {splits.train}, test {splits.test}'
      for i, (name, config) in enumerate(final.items(), len(lrs) + 1)
    },
  )
  for name, result in test.items():
    if 'diverged' in result:
      raise InputError(
        f'{workdir / name}, the final run with lr={lr}: {result["diverged"]}; give '
        f'--lrs without it and another --workdir'
      )
  found = _summary(dev, lr, {final[name].seed: r for name, r in test.items()}, splits, workdir)
  if jax.process_index() == 0:
    write_whole(workdir / 'results.json', json.dumps(found, indent=2) + '\n')
  return found


def _summary(
  dev: Mapping[float, Result], lr: float, test: Mapping[int, Result], splits: Splits, workdir: Path
) -> dict[str, Any]:
  accuracies = {seed: result['accuracy'] for seed, result in test.items()}
  seed = best(accuracies)
  about = lambda r: {k: r[k] for k in ('accuracy', 'examples', 'diverged') if k in r}
  return {
    'config': dict(next(iter(test.values()))['config']),
    'splits': splits._asdict(),
    'lrs': [{'lr': x} | about(r) for x, r in sorted(dev.items())],
    'best_lr': lr,
    'seeds': [{'seed': x} | about(r) for x, r in test.items()],
    'mean': statistics.mean(accuracies.values()),
    'std': statistics.stdev(accuracies.values()) if len(accuracies) > 1 else None,
    'best_seed': seed,
    'checkpoint': str(workdir / f'seed_{seed}') if test[seed]['kept'] else None,
  }


def table(found: Mapping[str, Any]) -> str:
  """What `sweep` returns as text; accuracies in per cent."""
  splits, lrs, seeds = found['splits'], found['lrs'], found['seeds']
  lines = [
    f'{"learning rate":<16}{"dev accuracy":>12}   on {splits["dev"]}'
    f'{_images(lrs)}, trained on {splits["tune"]}'
  ]
  for row in lrs:
    shown = 'diverged' if 'diverged' in row else f'{100 * row["accuracy"]:.2f}'
    note = row.get('diverged', 'best' if row['lr'] == found['best_lr'] else '')
    lines.append(f'{row["lr"]:<16}{shown:>12}   {note}'.rstrip())
  lines += [
    '',
    f'{"seed":<16}{"accuracy":>12}   on {splits["test"]}{_images(seeds)}, trained on '
    f'{splits["train"]} with learning rate {found["best_lr"]}',
  ]
  lines += [f'{row["seed"]:<16}{100 * row["accuracy"]:>12.2f}' for row in seeds]
  lines.append(f'{"mean":<16}{100 * found["mean"]:>12.2f}')
  if found['std'] is not None:
    lines.append(f'{"std":<16}{100 * found["std"]:>12.2f}   of the sample (n - 1)')
  if found['checkpoint']:
    lines.append(f'\nbest checkpoint: {found["checkpoint"]}')
  return '\n'.join(lines)


def _images(rows: Sequence[Mapping[str, Any]]) -> str:
  return next((f' ({row["examples"]:,} images)' for row in rows if 'examples' in row), '')


def main(argv: Sequence[str] | None = None, *, last: bool = False) -> int:
  """Runs the command line; returns the exit code; `last` as for `program.guard`."""
  values = _flags()
  argv = sys.argv if argv is None else ['sweep', *argv]

  def work(config, workdir):
    if 'lr' in config_flags.get_override_values(values['config']):
      raise InputError(
        f'--config.lr is what a sweep finds; say which ones to try with --lrs={config.lr}'
      )
    lrs = parse_lrs(values.lrs) if values.lrs is not None else learning_rates(config.dataset)
    splits = find_splits(config, values.tune_split, values.dev_split)
    hosts.check_same(
      {
        '--lrs': list(lrs),
        '--seeds': values.seeds,
        '--discard': values.discard,
        'the workdir': str(workdir),
        **splits._asdict(),
      }
    )
    found = sweep(
      config, workdir, lrs=lrs, splits=splits, seeds=values.seeds, keep=not values.discard
    )
    if jax.process_index() == 0:
      print(table(found))

  return command_line.run(values, argv, __doc__, work, last=last)


def _flags() -> flags.FlagValues:
  values = command_line.define_flags()
  flags.DEFINE_string(
    'lrs',
    None,
    'Learning rates to try, such as .001,.003,.01. Default: those '
    "that the paper tries on the config's data set.",
    flag_values=values,
  )
  flags.DEFINE_integer(
    'seeds',
    3,
    'Final runs with the best of them: config.seed and the seeds after it.',
    1,
    flag_values=values,
  )
  flags.DEFINE_string(
    'tune_split',
    None,
    'What each learning rate is trained on, in TFDS notation. Default: train without --dev_split.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'dev_split',
    None,
    'What they are compared on. Default: 10 % of the training '
    'images, 2 % of CIFAR, 1 % of ImageNet.',
    flag_values=values,
  )
  flags.DEFINE_bool(
    'discard', False, 'Keep no checkpoints of the final runs, only results.', flag_values=values
  )
  return values


def parse_lrs(text: str) -> tuple[float, ...]:
  """'.001,.003' -> (.001, .003); raises InputError."""
  try:
    lrs = tuple(float(word) for word in text.split(','))
  except ValueError:
    raise InputError(
      f'--lrs={text} are no learning rates; they look like --lrs=.001,.003,.01'
    ) from None
  wrong = [lr for lr in lrs if not 0 < lr < math.inf]
  if wrong or len(set(lrs)) < len(lrs):
    why = f'{wrong[0]} is not positive' if wrong else 'one comes twice'
    raise InputError(f'--lrs={text}: {why}; they look like --lrs=.001,.003,.01')
  return lrs


if __name__ == '__main__':
  command_line.leave(main(last=True))
