"""Prints the few-shot accuracy of a checkpoint (paper section 4.1).

python -m vit_jax.transfer.fewshot --checkpoint=ViT-B_16.npz --dataset=cifar100,oxford_iiit_pet
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
import sys
from typing import Any

import jax
import numpy as np
import tqdm

from vit_jax.errors import InputError
from vit_jax.evaluation.fewshot import SEEDS, SHOTS, FewShot, make_represent_step
from vit_jax.inference import checkpoint_args
from vit_jax.parallel.mesh import MeshPartitioner


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  args = _parser().parse_args(argv)
  try:
    _run(args)
  except InputError as e:
    print(f'error: {e}', file=sys.stderr)
    return 1
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m vit_jax.transfer.fewshot',
    description="Few-shot evaluation: linear classifiers of a model's frozen representation,\n"
    'fitted to a few images of each class (paper section 4.1).',
    formatter_class=argparse.RawDescriptionHelpFormatter,
    epilog="""examples:
  python -m vit_jax.transfer.fewshot --checkpoint=ViT-B_16.npz --dataset=cifar100,oxford_iiit_pet
  python -m vit_jax.transfer.fewshot --checkpoint=runs/mine --dataset=./photos --shots=1,5""",
  )
  checkpoint_args.add_arguments(parser)
  add = parser.add_argument
  add(
    '--dataset',
    required=True,
    metavar='NAME,...',
    help='TFDS names, or folders with {train,val}/<class>/',
  )
  add(
    '--data_dir',
    metavar='DIR',
    help='where data sets lie (default: $TFDS_DATA_DIR or ~/tensorflow_datasets)',
  )
  add(
    '--shots',
    type=_numbers,
    default=SHOTS,
    metavar='K,...',
    help='images of each class (default: 1,5,10,25)',
  )
  add(
    '--seeds',
    type=int,
    default=SEEDS,
    metavar='N',
    help='draws of the images to average over (default: %(default)s)',
  )
  add(
    '--batch_size',
    type=int,
    metavar='N',
    help='images computed at once, over all devices (default: 32 a device)',
  )
  add(
    '--max_bad_records',
    type=int,
    default=0,
    metavar='N',
    help='damaged images that are left out; one more is an error (default: %(default)s)',
  )
  add(
    '--json',
    action='store_true',
    help='print one JSON object a line for each data set and number of shots',
  )
  return parser


def _numbers(text):
  """'1,5' -> (1, 5)."""
  return tuple(int(number) for number in text.split(','))


_numbers.__name__ = 'K,...'  # in argparse's messages


def _run(args: argparse.Namespace) -> None:
  model, params, _ = checkpoint_args.load(args)[0]
  height, width = model.image_size
  if height != width:
    raise InputError(
      f'images of the model are {height}x{width}, but few-shot evaluation crops '
      'squares: give --image_size=N'
    )
  batch_size = 32 * jax.device_count() if args.batch_size is None else args.batch_size
  partitioner = MeshPartitioner(batch_size)
  represent = partitioner.gather_step(make_represent_step(model))
  # All before any is computed: what is missing shows at once.
  evaluations = [
    FewShot(
      dataset,
      represent,
      image_size=height,
      batch_size=batch_size,
      shots=args.shots,
      seeds=args.seeds,
      data_dir=args.data_dir,
      max_bad_records=args.max_bad_records,
    )
    for dataset in args.dataset.split(',')
  ]
  params = partitioner.put(params)
  if not args.json:
    print(f'{"dataset":<28}{"shots":>6}{"test images":>13}{"accuracy":>10}{"std":>8}')
  for evaluation in evaluations:
    correct, examples = _with_progress(evaluation, params)
    for shots, of_seeds in zip(evaluation.shots, correct.T / examples):
      mean, std = of_seeds.mean(), of_seeds.std(ddof=1) if args.seeds > 1 else None
      if args.json:
        print(
          json.dumps(
            dict(
              dataset=evaluation.dataset,
              shots=shots,
              test_images=examples,
              accuracy=mean,
              std=std,
              accuracies=of_seeds.tolist(),
            )
          ),
          flush=True,
        )
      else:
        shown = '-' if std is None else f'{100 * std:.2f}'
        print(
          f'{evaluation.dataset:<28}{shots:>6}{examples:>13,}{100 * mean:>10.2f}{shown:>8}',
          flush=True,
        )


def _with_progress(evaluation: FewShot, params: Any) -> tuple[np.ndarray, int]:
  """Shows a bar on a terminal."""
  with tqdm.tqdm(
    total=evaluation.num_batches,
    desc=evaluation.dataset,
    unit=' batches',
    leave=False,
    disable=not sys.stderr.isatty(),
  ) as bar:
    return evaluation.count_correct(params, lambda: bool(bar.update() and False))


if __name__ == '__main__':
  sys.exit(main())
