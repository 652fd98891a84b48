"""Measure the value of pretraining, with a small ViT on a few digits, fine-tuned or from scratch.

  python -m benchmarks.transfer --checkpoint=runs/fashion_mnist --out=pictures/transfer.png

The checkpoint, pretrained on clothes at 28 px (configs/fashion_mnist.py), is fine-tuned at 36 px on
the first 100, 400 and all 1,437 training images of digits, and evaluated on its 360 test images. It
is compared with
- the same model trained from scratch, and both with four times as many steps
- the checkpoint with new position embeddings instead of resized ones
- a linear probe, which trains only the head of the checkpoint

Each method has its own learning rate: the one that gives the best accuracy on training images 1,000
and up, after training on the first 400. If the benchmark is interrupted, run the same command again
to continue.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
import copy
import pathlib
import statistics
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict
import numpy as np

from vit_jax import create_model, load_params
from vit_jax.config.fields import default_config, model_overrides
from vit_jax.inference.load_checkpoint import checkpoint_run
from vit_jax.parallel import hosts
from vit_jax.pretrained.save import save_params
from vit_jax.transfer.runs import run_all
from vit_jax.transfer.sweep import best

STEPS = {100: 60, 400: 100, 1437: 200}  # number of training images -> steps
SIZE = 36  # pixels


class Method(NamedTuple):
  """A way to train on digits."""

  lrs: tuple[float, ...]  # learning rates to choose from
  steps: int = 1  # multiple of STEPS
  fields: Mapping[str, Any] = {}  # config fields


FINE_TUNING, SCRATCH = (0.003, 0.01, 0.03), (1e-4, 3e-4, 1e-3, 3e-3)
FROM_SCRATCH = dict(optimizer='adam', init_from=None, new_head=False)
METHODS = {
  'fine-tuned': Method(FINE_TUNING),
  'fine-tuned, new positions': Method(FINE_TUNING),
  'linear probe': Method((0.03, 0.1, 0.3), fields=dict(trained_blocks=0)),
  'from scratch': Method(SCRATCH, fields=FROM_SCRATCH),
  'fine-tuned, 4 times the steps': Method(FINE_TUNING, steps=4),
  'from scratch, 4 times the steps': Method(SCRATCH, steps=4, fields=FROM_SCRATCH),
}

# {method: (learning rate, {number of training images: accuracies})}
Results = dict[str, tuple[float, dict[int, list[float]]]]


def config(pretrained: Mapping[str, Any], **fields: Any) -> ConfigDict:
  """Return the recipe of Table 4 at this scale: SGD, cosine, no weight decay, clipped to norm 1."""
  c = default_config()
  c.update({f: pretrained[f] for f in ('model', *model_overrides(c)) if f != 'representation_size'})
  c.update(
    dict(
      dataset='digits',
      preset='bit',
      image_size=SIZE,
      resize_size=SIZE,
      new_head=True,
      batch_size=32,
      warmup_steps=20,
      optimizer='sgd',
      weight_decay=0.0,
      eval_every=0,
      save_every=0,
      log_every=50,
      keep=1,
    )
    | fields
  )
  return c


def with_new_positions(pretrained: Mapping[str, Any], checkpoint: str, path: pathlib.Path) -> str:
  """Write the checkpoint for images of SIZE with random position embeddings. Return the path."""
  model = create_model(
    pretrained['model'], num_classes=10, image_size=SIZE, **model_overrides(pretrained)
  )
  params = load_params(checkpoint, model)
  position = params['Transformer']['posembed_input']
  shape = position['pos_embedding'].shape
  embedding = np.random.default_rng(0).normal(0, 0.02, shape)
  position['pos_embedding'] = embedding.astype(np.float32)
  path.parent.mkdir(parents=True, exist_ok=True)
  save_params(params, path, model=model)
  return str(path)


def compare(checkpoint: str, workdir: pathlib.Path, seeds: int) -> Results:
  """Choose the learning rate of each method, then train with every seed and number of images."""
  pretrained = checkpoint_run(checkpoint).config
  new_positions = with_new_positions(pretrained, checkpoint, workdir / 'new_positions.npz')
  tuning = {}
  for name, method in METHODS.items():
    for lr in method.lrs:
      fields = {
        'init_from': new_positions if 'positions' in name else checkpoint,
        **method.fields,
        'lr': lr,
        'total_steps': method.steps * STEPS[400],
        'train_split': 'train[:400]',
        'eval_split': 'train[1000:]',
      }
      tuning[name, lr] = config(pretrained, **fields)
  tuned = train_all(tuning, workdir)
  chosen, final = {}, {}
  for name, method in METHODS.items():
    chosen[name] = best({lr: tuned[name, lr].get('accuracy', 0.0) for lr in method.lrs})
    for count, steps in STEPS.items():
      for seed in range(seeds):
        c = final[name, count, seed] = copy.deepcopy(tuning[name, chosen[name]])
        c.train_split, c.eval_split = f'train[:{count}]', 'test'
        c.total_steps, c.seed = method.steps * steps, seed
  metrics = train_all(final, workdir)
  accuracies = lambda name, count: [metrics[name, count, s]['accuracy'] for s in range(seeds)]
  return {
    name: (chosen[name], {count: accuracies(name, count) for count in STEPS}) for name in METHODS
  }


def train_all(configs: Mapping[tuple, ConfigDict], workdir: pathlib.Path) -> dict[tuple, Any]:
  """Train every config in a directory named after its key. Return {key: metrics}."""
  name = lambda key: '_'.join(map(str, key)).replace(' ', '_').replace(',', '')
  runs = run_all({name(key): c for key, c in configs.items()}, workdir)
  return dict(zip(configs, runs.values(), strict=True))


def as_text(accuracies: Iterable[float]) -> str:
  return '{:.1f} ± {:.1f}'.format(*mean_and_deviation(accuracies))


def mean_and_deviation(accuracies: Iterable[float]) -> tuple[float, float]:
  """Return mean and standard deviation in percent."""
  values = list(accuracies)
  return 100 * statistics.mean(values), 100 * statistics.stdev(values)


def table(results: Results) -> str:
  """Return the results as a Markdown table."""
  lines = [
    '| | lr | ' + ' | '.join(f'{count:,} images' for count in STEPS) + ' |',
    '|---' * (2 + len(STEPS)) + '|',
  ]
  for name, (lr, by_count) in results.items():
    cells = [as_text(accuracies) for accuracies in by_count.values()]
    lines.append(f'| {name} | {lr} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def plot(results: Results, path: pathlib.Path) -> None:
  """Write a PNG with one curve per method."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(6.4, 5), dpi=110, layout='constrained')
  axes = figure.subplots()
  for name, (_, by_count) in results.items():
    means, deviations = zip(*map(mean_and_deviation, by_count.values()))
    axes.errorbar(list(by_count), means, deviations, label=name, marker='o', capsize=3)
  axes.set_xscale('log')
  axes.set_xticks(list(STEPS), [f'{count:,}' for count in STEPS])
  axes.minorticks_off()
  axes.set(xlabel='training images', ylabel='accuracy on 360 test digits, %')
  axes.set_title(f'Pretrained on clothes at 28 px, fine-tuned on digits at {SIZE} px', fontsize=11)
  axes.grid(alpha=0.3)
  figure.legend(loc='outside lower center', ncols=2)
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path)


def main() -> None:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.transfer', description=(__doc__ or '').split('\n')[0]
  )
  parser.add_argument(
    '--checkpoint',
    default='runs/fashion_mnist',
    metavar='DIR',
    help='workdir of the pretraining run (default: %(default)s)',
  )
  parser.add_argument(
    '--workdir',
    default='runs/transfer',
    type=pathlib.Path,
    metavar='DIR',
    help='directory for the runs, one subdirectory each (default: %(default)s)',
  )
  parser.add_argument(
    '--seeds', default=3, type=int, metavar='N', help='number of seeds (default: %(default)s)'
  )
  parser.add_argument('--out', type=pathlib.Path, metavar='FILE', help='write a plot, as PNG')
  args = parser.parse_args()
  hosts.start()
  results = compare(args.checkpoint, args.workdir, args.seeds)
  print(
    f'accuracy in %, mean and standard deviation of {args.seeds} seeds; jax {jax.__version__}, '
    f'{jax.devices()[0].device_kind}'
  )
  print(table(results))
  if args.out:
    plot(results, args.out)


if __name__ == '__main__':
  main()
