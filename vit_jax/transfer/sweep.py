r"""Fine-tune with several learning rates, then with the best one from several seeds.

  python -m vit_jax.transfer.sweep --config=configs/finetune.py:ViT-B/16,cifar10 \
      --config.init_from=ViT-B_16.npz --workdir=runs/sweep [--lrs=.001,.003] [--seeds=3]

This is the paper's protocol (section 4.1, appendix B.1.1). Each learning rate is trained on one
part of the training images (--tune_split) and evaluated on the rest of them (--dev_split). The best
one of those that did not diverge (if several are equal, the lowest) is trained on all of
config.train_split, from config.seed and the seeds after it, and evaluated on config.eval_split,
which played no part in the choice. Splits that are not given are the dataset's own.

Run the same command again to continue after a stop. Runs that have a result are not trained again.
WORKDIR gets a directory for each run (lr_0.003, seed_0) and, at the end, results.json. The
checkpoints of the final runs stay, unless you pass --discard. Those of the learning rates do not.

Exit code: 0 when all is done, 42 when stopped and saved, 1 on an error, which the last line
explains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import copy
import json
import math
import statistics
import sys
from typing import Any, TypeVar

from absl import flags
import jax
from ml_collections import ConfigDict

from vit_jax.config.checks import check_config
from vit_jax.config.flags import given_fields, learning_rate_hint
from vit_jax.config.no_effect import check_effect
from vit_jax.config.recipes import learning_rates
from vit_jax.data.open_source import open_source
from vit_jax.errors import InputError
from vit_jax.files import AnyPath, write_whole
from vit_jax.parallel import hosts
from vit_jax.training import command_line
from vit_jax.training.log import log, start_log
from vit_jax.training.workdir import lock_workdir
from vit_jax.transfer.runs import Result, keep_recorded, recorded_fields, run_all
from vit_jax.transfer.sweep_splits import Splits, find_splits

Number = TypeVar('Number', int, float)

_RISE = 1.1  # the loss at the end over that of the first step, which is noise up to this factor
_FEW_IMAGES = 200  # a dev split with fewer is called small


def sweep(
  c: ConfigDict,
  workdir: AnyPath,
  *,
  lrs: Sequence[float],
  splits: Splits,
  seeds: int = 3,
  keep: bool = True,
) -> dict[str, Any]:
  """Try the learning rates and train with the best. Return the content of results.json.

  A learning rate diverges if the loss becomes infinite, or ends above both that of the first step
  and that of guessing. It is not chosen. A final run that diverges is left out of the mean. The
  others continue.

  Args:
    c: config of a run. lr, seed and the splits are set here.
    workdir: directory that gets a directory for each run. The same call continues an earlier one.
    lrs: learning rates to try.
    splits: see `find_splits`.
    seeds: number of final runs. Their seeds are c.seed and the ones after it.
    keep: keep the checkpoints of the final runs.

  Raises:
    InputError: every learning rate or every final run diverges, a run in `workdir` has another
      config, another sweep uses `workdir`, or `train` failed.
    Interrupted: the user stopped it. The same call continues.
  """
  final_configs(c, lrs[0], seeds, splits)  # raises InputError now if a seed is out of range
  dev_source = open_source(c.dataset, splits.dev, c.data_dir)
  num_classes = dev_source.num_classes
  if note := _small_dev(splits.dev, len(dev_source)):
    log.warning('%s', note)
  total = len(lrs) + seeds
  tuning = tuning_configs(c, lrs, splits)
  titles = {
    name: f'run {i} of {total}: lr={config.lr} on {splits.tune}, dev {splits.dev}'
    for i, (name, config) in enumerate(tuning.items(), 1)
  }
  with lock_workdir(workdir):
    tuned = run_all(tuning, workdir, titles=titles)
    dev = {tuning[name].lr: judge(result, num_classes) for name, result in tuned.items()}
    lr = _choose(dev, num_classes)
    final = final_configs(c, lr, seeds, splits)
    titles = {
      name: f'run {i} of {total}: seed {config.seed}, lr={lr} on {splits.train}, test {splits.test}'
      for i, (name, config) in enumerate(final.items(), len(lrs) + 1)
    }
    tested = run_all(final, workdir, titles=titles, keep=keep)
    test = {final[name].seed: judge(result, num_classes) for name, result in tested.items()}
    diverged = {seed: result['diverged'] for seed, result in test.items() if 'diverged' in result}
    if len(diverged) == seeds:
      raise InputError(
        f'The final run {workdir / f"seed_{c.seed}"} with lr={lr} diverged: {diverged[c.seed]}. '
        f'Give --lrs without {lr} and another --workdir.'
      )
    for seed, why in diverged.items():
      log.warning('Seed %d diverged: %s. It is left out of the mean.', seed, why)
    results = _summary(dev, lr, test, splits, workdir)
    if jax.process_index() == 0:
      write_whole(workdir / 'results.json', json.dumps(results, indent=2) + '\n')
  return results


def tuning_configs(c: ConfigDict, lrs: Sequence[float], splits: Splits) -> dict[str, ConfigDict]:
  """Return {'lr_0.003': config of the run that tries this learning rate, ...}."""
  fields = {'train_split': splits.tune, 'eval_split': splits.dev}
  return {f'lr_{lr}': _changed(c, fields | {'lr': lr}) for lr in lrs}


def final_configs(c: ConfigDict, lr: float, seeds: int, splits: Splits) -> dict[str, ConfigDict]:
  """Return {'seed_0': config of the final run from this seed, ...}."""
  fields = {'lr': lr, 'train_split': splits.train, 'eval_split': splits.test}
  return {
    f'seed_{seed}': _changed(c, fields | {'seed': seed}) for seed in range(c.seed, c.seed + seeds)
  }


def _changed(c: ConfigDict, fields: Mapping[str, Any]) -> ConfigDict:
  c = copy.deepcopy(c)
  c.update(fields)
  check_config(c)
  return c


def best(accuracies: Mapping[Number, float]) -> Number:
  """Return the key with the highest value, or the lowest such key if several are equal."""
  return max(sorted(accuracies), key=accuracies.__getitem__)


def judge(result: Result, num_classes: int) -> Result:
  """Return the result of a run, with 'diverged' if its loss has risen above the first and chance.

  Args:
    result: result of a run. Without 'first_loss', which earlier versions did not record, it stays.
    num_classes: number of classes. A model that guesses has a loss of at least its logarithm.
  """
  first, last = result.get('first_loss'), result.get('last_loss')
  if 'diverged' in result or first is None or last is None:
    return result
  if last <= max(_RISE * first, math.log(num_classes)):
    return result
  return {**result, 'diverged': f'The loss rose from {first:.4g} to {last:.4g}'}


def _choose(dev: Mapping[float, Result], num_classes: int) -> float:
  """Return the learning rate with the best accuracy on the dev split of those that converged."""
  converged = {lr: result for lr, result in dev.items() if 'diverged' not in result}
  if not converged:
    lowest = min(dev)
    raise InputError(
      f'Every learning rate of {", ".join(map(str, dev))} diverged. With the lowest, {lowest}: '
      f'{dev[lowest]["diverged"]}. Give lower ones with --lrs, a longer warmup, or clip_norm=1.'
    )
  lr = best({lr: result['accuracy'] for lr, result in converged.items()})
  if converged[lr]['accuracy'] <= 1 / num_classes:
    log.warning(
      'No learning rate is better than chance on the dev split: with the best, %s, the accuracy is '
      '%.2f%%, and one of %d classes is %.2f%%. Train longer, or give others with --lrs.',
      lr,
      100 * converged[lr]['accuracy'],
      num_classes,
      100 / num_classes,
    )
  return lr


def _small_dev(split: str, images: int) -> str | None:
  """Return a sentence if the dev split is too small to tell similar learning rates apart."""
  if images >= _FEW_IMAGES:
    return None
  return (
    f'The dev split {split} is small: it has {images:,} images, so one of them is '
    f'{1 / images:.1%} of the accuracy. Differences of a few images are chance. A larger '
    '--dev_split tells more.'
  )


def _summary(
  dev: Mapping[float, Result],
  lr: float,
  test: Mapping[int, Result],
  splits: Splits,
  workdir: AnyPath,
) -> dict[str, Any]:
  accuracies = {s: result['accuracy'] for s, result in test.items() if 'diverged' not in result}
  best_seed = best(accuracies)
  return {
    'config': dict(next(iter(test.values()))['config']),
    'splits': splits._asdict(),
    'lrs': [{'lr': x} | _outcome(result) for x, result in sorted(dev.items())],
    'best_lr': lr,
    'seeds': [{'seed': seed} | _outcome(result) for seed, result in test.items()],
    'mean': statistics.mean(accuracies.values()),
    'std': statistics.stdev(accuracies.values()) if len(accuracies) > 1 else None,
    'best_seed': best_seed,
    'checkpoint': str(workdir / f'seed_{best_seed}') if test[best_seed]['kept'] else None,
  }


def _outcome(result: Result) -> dict[str, Any]:
  return {k: v for k, v in result.items() if k in ('accuracy', 'examples', 'diverged')}


def table(results: Mapping[str, Any]) -> str:
  """Return the results of `sweep` as text, with accuracies in percent."""
  splits, lrs, seeds = results['splits'], results['lrs'], results['seeds']
  lines = [
    f'{"learning rate":<16}{"dev accuracy":>12}   on {splits["dev"]}{_images(lrs)}, '
    f'trained on {splits["tune"]}'
  ]
  lines += [_row(row['lr'], row, 'best' * (row['lr'] == results['best_lr'])) for row in lrs]
  images = next((row['examples'] for row in lrs if 'examples' in row), _FEW_IMAGES)
  if small := _small_dev(splits['dev'], images):
    lines.append(f'note: {small}')
  lines += [
    '',
    f'{"seed":<16}{"accuracy":>12}   on {splits["test"]}{_images(seeds)}, '
    f'trained on {splits["train"]} with learning rate {results["best_lr"]}',
  ]
  lines += [_row(row['seed'], row) for row in seeds]
  converged = sum('diverged' not in row for row in seeds)
  note = f'   of {converged} of {len(seeds)} seeds, because the others diverged'
  lines.append(f'{"mean":<16}{100 * results["mean"]:>12.2f}' + note * (converged < len(seeds)))
  if results['std'] is not None:
    lines.append(f'{"std":<16}{100 * results["std"]:>12.2f}   of the sample (n - 1)')
  if results['checkpoint']:
    lines.append(f'\nbest checkpoint: {results["checkpoint"]}')
  return '\n'.join(lines)


def _row(name: float, result: Mapping[str, Any], note: str = '') -> str:
  accuracy = 'diverged' if 'diverged' in result else f'{100 * result["accuracy"]:.2f}'
  return f'{name:<16}{accuracy:>12}   {result.get("diverged", note)}'.rstrip()


def _images(rows: Sequence[Mapping[str, Any]]) -> str:
  return next((f' ({row["examples"]:,} images)' for row in rows if 'examples' in row), '')


def main(argv: Sequence[str] | None = None, *, last: bool = False) -> int:
  """Run the command line and return the exit code. `last` is that of `command_line.run`."""
  values = _define_flags()
  argv = sys.argv if argv is None else ['sweep', *argv]

  def work(config: ConfigDict, workdir: AnyPath) -> None:
    if 'lr' in given_fields(values):
      raise InputError(
        f'A sweep chooses --config.lr itself. Give the learning rates to try, as --lrs={config.lr}.'
      )
    lrs = learning_rates(config.dataset) if values.lrs is None else parse_lrs(values.lrs)
    start_log(None, jax.process_index())
    given = given_fields(values) | {'lr', 'train_split', 'eval_split'}
    names = [f'lr_{lr}' for lr in lrs]
    for note in keep_recorded(config, workdir, names, given):
      log.info('%s', note)
    for note in check_effect(config, given, recorded_fields(workdir, names)):
      log.warning('%s', note)
    splits = find_splits(config, values.tune_split, values.dev_split)
    if values.lrs is None and (hint := learning_rate_hint(values, lrs)):
      log.info('%s', hint)
    same = {'--lrs': list(lrs), '--seeds': values.seeds, '--discard': values.discard}
    hosts.check_same(same | {'the workdir': str(workdir)} | splits._asdict())
    keep = not values.discard
    results = sweep(config, workdir, lrs=lrs, splits=splits, seeds=values.seeds, keep=keep)
    if jax.process_index() == 0:
      print(table(results))

  return command_line.run(values, argv, __doc__ or '', work, last=last)


def _define_flags() -> flags.FlagValues:
  values = command_line.define_flags()
  flags.DEFINE_string(
    'lrs',
    None,
    'Learning rates to try, such as .001,.003,.01. Default: those that the paper tries on the '
    "config's dataset.",
    flag_values=values,
  )
  flags.DEFINE_integer(
    'seeds',
    3,
    'Number of final runs with the best learning rate, from config.seed and the seeds after it.',
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_string(
    'tune_split',
    None,
    'Split to train each learning rate on, in TFDS notation. Default: train without --dev_split.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'dev_split',
    None,
    'Split to compare the learning rates on. Default: 10 % of the training images, 2 % for CIFAR, '
    '1 % for ImageNet.',
    flag_values=values,
  )
  flags.DEFINE_bool(
    'discard', False, 'Keep only the results of the final runs, no checkpoints.', flag_values=values
  )
  return values


def parse_lrs(text: str) -> tuple[float, ...]:
  """Return the learning rates in a text: '.001,.003' -> (.001, .003).

  Raises:
    InputError: they are not numbers, not positive, or not all different.
  """
  example = 'They look like --lrs=.001,.003,.01.'
  try:
    lrs = tuple(float(word) for word in text.split(','))
  except ValueError:
    raise InputError(f'--lrs={text} is not a list of learning rates. {example}') from None
  for i, lr in enumerate(lrs):
    if not 0 < lr < math.inf:
      raise InputError(f'--lrs={text}: {lr} is not positive and finite. {example}')
    if lr in lrs[:i]:
      raise InputError(f'--lrs={text} contains {lr} twice. {example}')
  return lrs


if __name__ == '__main__':
  command_line.leave(main(last=True))
