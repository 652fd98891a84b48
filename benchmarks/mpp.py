"""Measure how much masked patch prediction helps when only 600 images of Fashion-MNIST have labels.

  python -m vit_jax.main --config=configs/fashion_mnist.py --config.pretext=masked_patches \\
    --config.num_epochs=4 --workdir=runs/fashion_mnist_mpp
  python -m benchmarks.mpp --checkpoint=runs/fashion_mnist_mpp --out=pictures/mpp.png

This fine-tunes the checkpoint, which was trained without labels, on 1 % of the training images. It
also trains the same model from scratch on the same images, for as many steps and for four times as
many steps, all with Adam. Each is evaluated on the 10,000 test images, at the learning rate that
was best on the last 1,000 training images. With --out, the patches that the checkpoint fills in are
drawn. If the benchmark is interrupted, run the same command again to continue.
"""

import argparse
import copy
import pathlib
import statistics

from flax import traverse_util
import jax
from ml_collections import ConfigDict
import numpy as np

from vit_jax import create_model
from vit_jax.config.fields import default_config, model_overrides
from vit_jax.data.decode import decode_image
from vit_jax.data.open_source import open_source
from vit_jax.figures.fill_in import fill_in
from vit_jax.inference.load_checkpoint import checkpoint_run
from vit_jax.models import masked_patches
from vit_jax.parallel import hosts
from vit_jax.pretrained import orbax
from vit_jax.transfer.runs import run_all
from vit_jax.transfer.sweep import best

DATASET, LABELED, DEV = 'fashion_mnist', 'train[:600]', 'train[59000:]'
LRS = (3e-4, 1e-3, 3e-3)
WAYS = {
  'fine-tuned': (True, 1),
  'from scratch': (False, 1),
  'from scratch, 4 times the steps': (False, 4),
}  # {name: (True to start from the checkpoint, multiple of --steps)}


def config(pretrained, steps, **fields):
  c = default_config()
  same = ('model', 'image_size', 'resize_size', 'preset', 'data_dir', *model_overrides(c))
  c.update(
    {field: pretrained[field] for field in same}
    | dict(
      dataset=DATASET,
      representation_size=None,
      batch_size=32,
      total_steps=steps,
      warmup_steps=50,
      weight_decay=0.0,
      eval_every=0,
      save_every=0,
      log_every=100,
      keep=1,
    )
    | fields
  )
  return c


def compare(checkpoint, workdir, steps, seeds):
  """Return {way: (learning rate, accuracies)}."""
  pretrained = checkpoint_run(checkpoint).config
  tuning = {
    (way, lr): config(
      pretrained,
      times * steps,
      lr=lr,
      train_split=LABELED,
      eval_split=DEV,
      init_from=checkpoint if starts else None,
      new_head=starts,
    )
    for way, (starts, times) in WAYS.items()
    for lr in LRS
  }
  tuned = run({f'{way}_{lr}': c for (way, lr), c in tuning.items()}, workdir)
  chosen = {way: best({lr: tuned[f'{way}_{lr}'] for lr in LRS}) for way in WAYS}
  final = {}
  for way in WAYS:
    for seed in range(seeds):
      c = final[f'{way}_{seed}'] = copy.deepcopy(tuning[way, chosen[way]])
      c.update(dict(eval_split='test', seed=seed))
  accuracies = run(final, workdir)
  return {
    way: (chosen[way], [accuracies[f'{way}_{seed}'] for seed in range(seeds)]) for way in WAYS
  }


def run(configs, workdir):
  """Train each config and return {name: accuracy}, with 0 for runs that diverged."""
  directory = lambda name: name.replace(',', '').replace(' ', '_')
  results = run_all({directory(name): c for name, c in configs.items()}, workdir)
  return {name: results[directory(name)].get('accuracy', 0.0) for name in configs}


def predict_patches(checkpoint, count):
  """Return images, corrupted images and filled-in images, (count, H, W, 3) uint8 each."""
  c = ConfigDict(checkpoint_run(checkpoint).config)
  model = masked_patches.make_model(
    create_model(c.model, num_classes=0, image_size=c.image_size, **model_overrides(c)),
    c.mpp_target,
    c.mpp_rate,
  )
  arrays = orbax.read_orbax(orbax.find_checkpoint(checkpoint))
  params = traverse_util.unflatten_dict(arrays, sep='/')
  source = open_source(DATASET, 'test', c.data_dir)
  images = np.stack([decode_image(source[i]['image']) for i in range(count)])
  return images, *fill_in(model, params, images, jax.random.key(0))


def accuracy_from_position(checkpoint):
  """Return the accuracy of predicting the commonest color at each position.

  No predictor that ignores the image does better.
  """
  c = ConfigDict(checkpoint_run(checkpoint).config)
  grid = create_model(c.model, num_classes=0, image_size=c.image_size).grid
  source = open_source(DATASET, 'test', c.data_dir)
  images = np.stack([decode_image(source[i]['image']) for i in range(len(source))])
  colors = masked_patches.make_targets(images, c.image_size // grid[0], 'mean_color')
  return statistics.mean(np.bincount(place).max() / len(place) for place in colors[..., 0].T)


def plot(rows, path):
  from matplotlib.figure import Figure

  count, size = len(rows[0]), rows[0].shape[1]
  figure = Figure(figsize=(count * 0.8, 3), dpi=110, layout='constrained')
  for axes, images, title in zip(figure.subplots(3), rows, ('images', 'corrupted', 'filled in')):
    gap = np.full((size, 2, 3), 255, np.uint8)
    axes.imshow(
      np.concatenate([x for image in images for x in (image, gap)][:-1], axis=1),
      interpolation='nearest',
    )
    axes.set_title(title, loc='left', fontsize=10)
    axes.set_axis_off()
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path)


def main():
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.mpp', description=__doc__.split('\n')[0]
  )
  parser.add_argument(
    '--checkpoint',
    default='runs/fashion_mnist_mpp',
    metavar='DIR',
    help='workdir of the pretraining run (default: %(default)s)',
  )
  parser.add_argument(
    '--workdir',
    default='runs/mpp',
    type=pathlib.Path,
    metavar='DIR',
    help='directory for the runs (default: %(default)s)',
  )
  parser.add_argument(
    '--steps', default=600, type=int, metavar='N', help='steps of a run (default: %(default)s)'
  )
  parser.add_argument(
    '--seeds', default=3, type=int, metavar='N', help='seeds of each run (default: %(default)s)'
  )
  parser.add_argument(
    '--out', type=pathlib.Path, metavar='FILE', help='PNG file to draw filled-in images to'
  )
  args = parser.parse_args()
  hosts.start()
  if args.out:
    plot(predict_patches(args.checkpoint, 10), args.out)
  if checkpoint_run(args.checkpoint).config['mpp_target'] == 'mean_color':
    print(
      'predicting the commonest color at each position is right for %.1f %% of the patches'
      % (100 * accuracy_from_position(args.checkpoint))
    )
  results = compare(args.checkpoint, args.workdir, args.steps, args.seeds)
  print('| | lr | accuracy, % |\n|---|---|---|')
  for way, (lr, accuracies) in results.items():
    mean, deviation = 100 * statistics.mean(accuracies), 100 * statistics.stdev(accuracies)
    print(f'| {way} | {lr:g} | {mean:.1f} ± {deviation:.1f} |')


if __name__ == '__main__':
  main()
