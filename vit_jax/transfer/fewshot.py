"""Print the few-shot accuracy of a checkpoint (paper section 4.1).

python -m vit_jax.transfer.fewshot --checkpoint=ViT-B_16.npz --dataset=cifar100,oxford_iiit_pet
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
import sys

import numpy as np
import tqdm

from vit_jax.data.batch import ReadOptions
from vit_jax.errors import InputError, exit_on_error
from vit_jax.evaluation.fewshot import SEEDS, SHOTS, FewShot, FewShotProtocol, make_represent_step
from vit_jax.inference import checkpoint_args
from vit_jax.models.params import Params
from vit_jax.parallel.allocator import keep_freed_memory
from vit_jax.parallel.mesh import MeshPartitioner


@exit_on_error
def main(argv: Sequence[str] | None = None) -> int:
  """Run the command line and return the exit code."""
  args = _parser().parse_args(argv)
  keep_freed_memory()
  _run(args)
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m vit_jax.transfer.fewshot',
    description='Few-shot evaluation: fit linear classifiers of the frozen representation of a\n'
    'model to a few images of each class, and print their accuracy (paper section 4.1).',
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
    help='names of TFDS datasets, or folders with {train,val}/<class>/',
  )
  add(
    '--data_dir',
    metavar='DIR',
    help='directory of the TFDS datasets (default: $TFDS_DATA_DIR or ~/tensorflow_datasets)',
  )
  add(
    '--shots',
    type=_numbers,
    default=SHOTS,
    metavar='K,...',
    help='numbers of training images per class (default: 1,5,10,25)',
  )
  add(
    '--seeds',
    type=int,
    default=SEEDS,
    metavar='N',
    help='number of draws of the training images; the accuracy is their mean '
    '(default: %(default)s)',
  )
  checkpoint_args.add_fast_dct(parser)
  checkpoint_args.add_batch_arguments(parser)
  add(
    '--json',
    action='store_true',
    help='print a JSON object for each dataset and number of shots, one per line',
  )
  return parser


def _numbers(text: str) -> tuple[int, ...]:
  """Parse '1,5' -> (1, 5)."""
  return tuple(int(number) for number in text.split(','))


_numbers.__name__ = 'K,...'  # argparse shows it in its messages


def _run(args: argparse.Namespace) -> None:
  """Evaluate the checkpoint on every dataset and print the accuracies."""
  (model, params, _), _ = checkpoint_args.load(args)
  height, width = model.image_size
  if height != width:
    raise InputError(
      f'The model takes images of {height}x{width} pixels, but few-shot evaluation crops squares. '
      'Use --image_size=N.'
    )
  batch_size = checkpoint_args.batch_size(args)
  partitioner = MeshPartitioner(batch_size)
  represent = partitioner.gather_step(make_represent_step(model))
  protocol = FewShotProtocol(
    height,
    shots=args.shots,
    seeds=args.seeds,
    fast_dct=model.usage.updated(fast_dct=args.fast_dct).fast_dct,
  )
  options = ReadOptions(batch_size, max_bad_records=args.max_bad_records)
  # All datasets are opened before any is evaluated, so that a missing one is reported at once.
  evaluations = [
    FewShot(dataset, represent, protocol, options, data_dir=args.data_dir)
    for dataset in args.dataset.split(',')
  ]
  params = partitioner.put(params)
  if not args.json:
    print(f'{"dataset":<28}{"shots":>6}{"test images":>13}{"accuracy":>10}{"std":>8}')
  for evaluation in evaluations:
    correct, examples = _with_progress(evaluation, params)
    for shots, accuracies in zip(protocol.shots, correct.T / examples):
      as_text = _as_json if args.json else _as_row
      print(as_text(evaluation.dataset, shots, examples, accuracies), flush=True)


def _as_json(dataset: str, shots: int, test_images: int, accuracies: np.ndarray) -> str:
  """Return one line of JSON for the accuracies of all seeds."""
  return json.dumps(
    {
      'dataset': dataset,
      'shots': shots,
      'test_images': test_images,
      'accuracy': accuracies.mean(),
      'std': _std(accuracies),
      'accuracies': accuracies.tolist(),
    }
  )


def _as_row(dataset: str, shots: int, test_images: int, accuracies: np.ndarray) -> str:
  """Return a row of the table, with accuracies in percent."""
  std = _std(accuracies)
  std_text = '-' if std is None else f'{100 * std:.2f}'
  mean = 100 * accuracies.mean()
  return f'{dataset:<28}{shots:>6}{test_images:>13,}{mean:>10.2f}{std_text:>8}'


def _std(accuracies: np.ndarray) -> float | None:
  """Return the standard deviation over the seeds, or None for a single one."""
  return accuracies.std(ddof=1) if len(accuracies) > 1 else None


def _with_progress(evaluation: FewShot, params: Params) -> tuple[np.ndarray, int]:
  """Count correct predictions, with a progress bar on a terminal."""
  with tqdm.tqdm(
    total=evaluation.num_batches,
    desc=evaluation.dataset,
    unit=' batches',
    leave=False,
    disable=not sys.stderr.isatty(),
  ) as bar:

    def never_stop() -> bool:
      bar.update()
      return False

    counts = evaluation.count_correct(params, never_stop)
  assert counts is not None  # it was never asked to stop
  return counts


if __name__ == '__main__':
  sys.exit(main())
