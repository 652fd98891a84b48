"""What pretraining is worth: a small ViT on few handwritten digits, transferred and from scratch.

  python -m benchmarks.transfer --checkpoint=runs/fashion_mnist --out=pictures/transfer.png

The checkpoint, pretrained on clothes at 28 px (configs/fashion_mnist.py), is fine-tuned at 36 px on
the first 100, 400 and all 1,437 training images of digits and evaluated on its 360 test images; so
is the same model from scratch, both in four times the steps too, the same checkpoint with new
position embeddings in place of the resized ones, and its head alone (a linear probe). Each
way has its own learning rate: the best of some after training on the first 400 images, on the
training images from the 1,000th on. The same command again goes on where it was stopped.
"""

import argparse
import copy
import pathlib
import statistics

import jax
import numpy as np

from vit_jax import create_model, load_params
from vit_jax.config.fields import default_config, model_overrides
from vit_jax.inference.load_checkpoint import checkpoint_run
from vit_jax.parallel import hosts
from vit_jax.pretrained.save import save_params
from vit_jax.transfer.runs import run_all
from vit_jax.transfer.sweep import best

STEPS = {100: 60, 400: 100, 1437: 200}  # by the number of training images
SIZE = 36
SCRATCH = dict(optimizer='adam', init_from=None, new_head=False)
WAYS = {  # learning rates to choose from, how many times STEPS, and what is particular
  'fine-tuned': ((0.003, 0.01, 0.03), 1, {}),
  'fine-tuned, new positions': ((0.003, 0.01, 0.03), 1, {}),
  'linear probe': ((0.03, 0.1, 0.3), 1, dict(trained_blocks=0)),
  'from scratch': ((1e-4, 3e-4, 1e-3, 3e-3), 1, SCRATCH),
  'fine-tuned, 4 times the steps': ((0.003, 0.01, 0.03), 4, {}),
  'from scratch, 4 times the steps': ((1e-4, 3e-4, 1e-3, 3e-3), 4, SCRATCH),
}


def config(pretrained, **fields):
  """Table 4's recipe at this scale: SGD with momentum, cosine, no decay, clipped to norm 1."""
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


def with_new_positions(pretrained, checkpoint, path):
  """Writes the checkpoint for images of SIZE with random position embeddings; returns the path."""
  model = create_model(
    pretrained['model'], num_classes=10, image_size=SIZE, **model_overrides(pretrained)
  )
  params = load_params(checkpoint, model)
  position = params['Transformer']['posembed_input']
  position['pos_embedding'] = (
    np.random.default_rng(0).normal(0, 0.02, position['pos_embedding'].shape).astype(np.float32)
  )
  path.parent.mkdir(parents=True, exist_ok=True)
  save_params(params, path, model=model)
  return str(path)


def compare(checkpoint, workdir, seeds):
  """{way: (learning rate, {training images: accuracies})}."""
  pretrained = checkpoint_run(checkpoint).config
  new_positions = with_new_positions(pretrained, checkpoint, workdir / 'new_positions.npz')
  tuning, final, chosen = {}, {}, {}
  for way, (lrs, times, fields) in WAYS.items():
    start = new_positions if 'positions' in way else checkpoint
    for lr in lrs:
      tuning[way, lr] = config(
        pretrained,
        **{
          'init_from': start,
          **fields,
          'lr': lr,
          'total_steps': times * STEPS[400],
          'train_split': 'train[:400]',
          'eval_split': 'train[1000:]',
        },
      )
  name = lambda key: '_'.join(map(str, key)).replace(' ', '_').replace(',', '')
  run = lambda configs: dict(
    zip(configs, run_all({name(k): c for k, c in configs.items()}, workdir).values())
  )
  tuned = run(tuning)
  for way, (lrs, times, _) in WAYS.items():
    chosen[way] = best({lr: tuned[way, lr].get('accuracy', 0.0) for lr in lrs})
    for count, steps in STEPS.items():
      for seed in range(seeds):
        c = final[way, count, seed] = copy.deepcopy(tuning[way, chosen[way]])
        c.update(
          dict(
            train_split=f'train[:{count}]', eval_split='test', total_steps=times * steps, seed=seed
          )
        )
  results = run(final)
  return {
    way: (
      chosen[way],
      {count: [results[way, count, seed]['accuracy'] for seed in range(seeds)] for count in STEPS},
    )
    for way in WAYS
  }


def spread(accuracies):
  return 100 * statistics.mean(accuracies), 100 * statistics.stdev(accuracies)


def table(found):
  lines = [
    '| | lr | ' + ' | '.join(f'{count:,} images' for count in STEPS) + ' |',
    '|---' * (2 + len(STEPS)) + '|',
  ]
  for way, (lr, by_count) in found.items():
    cells = ['%.1f ± %.1f' % spread(accuracies) for accuracies in by_count.values()]
    lines.append(f'| {way} | {lr} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def plot(found, path):
  from matplotlib.figure import Figure

  figure = Figure(figsize=(6.4, 5), dpi=110, layout='constrained')
  axes = figure.subplots()
  for way, (_, by_count) in found.items():
    means, deviations = zip(*map(spread, by_count.values()))
    axes.errorbar(list(by_count), means, deviations, label=way, marker='o', capsize=3)
  axes.set_xscale('log')
  axes.set_xticks(list(STEPS), [f'{count:,}' for count in STEPS])
  axes.minorticks_off()
  axes.set(xlabel='training images', ylabel='accuracy on 360 test digits, %')
  axes.set_title(f'Pretrained on clothes at 28 px, fine-tuned on digits at {SIZE} px', fontsize=11)
  axes.grid(alpha=0.3)
  figure.legend(loc='outside lower center', ncols=2)
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path)


def main():
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.transfer', description=__doc__.split('\n')[0]
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
    help='gets a directory for each run (default: %(default)s)',
  )
  parser.add_argument('--seeds', default=3, type=int, metavar='N', help='default: %(default)s')
  parser.add_argument('--out', type=pathlib.Path, metavar='FILE', help='a plot, as PNG')
  args = parser.parse_args()
  hosts.start()
  found = compare(args.checkpoint, args.workdir, args.seeds)
  print(
    f'accuracy in %, mean and standard deviation of {args.seeds} seeds; jax {jax.__version__}, '
    f'{jax.devices()[0].device_kind}'
  )
  print(table(found))
  if args.out:
    plot(found, args.out)


if __name__ == '__main__':
  main()
