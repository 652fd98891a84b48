"""Draw the paper's figures of a checkpoint: its filters, position embedding and attention.

  python -m vit_jax.tools.figures --checkpoint=ViT-B_16-224.npz --images=photos/ --out=figures/

This writes filters.png, position_similarity.png, attention_distance.png, rollout.png and
attention_maps.png, and curves.png of the run that wrote the checkpoint or of --runs. Figures that
do not apply to a model are left out with a message.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
import sys
import typing

from flax import linen as nn
import numpy as np

from vit_jax.config.run import Run
from vit_jax.errors import InputError, exit_on_error
from vit_jax.evaluation.eval_split import open_eval_split
from vit_jax.figures import draw
from vit_jax.figures.attention import FUSIONS
from vit_jax.figures.draw_model import FigureOptions, draw_model
from vit_jax.figures.read_images import read_images, sample_photographs
from vit_jax.figures.run_curves import find_own_run, read_runs
from vit_jax.files import make_directory
from vit_jax.inference import checkpoint_args
from vit_jax.inference.images import find_images

if typing.TYPE_CHECKING:
  from matplotlib.figure import Figure


@exit_on_error
def main(argv: Sequence[str] | None = None) -> int:
  """Run the command line and return the exit code."""
  args = _parser().parse_args(argv)
  for name in ('num_images', 'num_shown', 'batch_size'):
    if getattr(args, name) < 1:
      raise InputError(f'--{name} must be at least 1, but it is {getattr(args, name)}.')
  (model, params, _), run = checkpoint_args.load(args)
  directory = make_directory(args.out)

  def save(name: str, figure: Figure) -> None:
    path = directory / f'{name}.png'
    draw.save(figure, path)
    print(f'wrote {path}', flush=True)

  own_run = find_own_run(args.checkpoint)
  if workdirs := args.runs or ([own_run] if own_run else []):
    save('curves', draw.draw_curves(read_runs(workdirs), args.metrics))
  else:
    print(
      'Not drawn: curves. The checkpoint does not belong to a run with a metrics.jsonl. Name runs '
      'with --runs.'
    )
  images = _images(args, model, run)
  options = FigureOptions(
    num_images=args.num_images,
    num_shown=args.num_shown,
    layer=args.layer,
    heads=args.heads,
    batch_size=args.batch_size,
  )
  for name, figure in draw_model(model, params, images, options):
    if isinstance(figure, InputError):
      print(f'Not drawn: {name}. {figure}')
    else:
      save(name, figure)
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m vit_jax.tools.figures',
    description=(__doc__ or '').split('\n')[0],
    formatter_class=argparse.RawDescriptionHelpFormatter,
    epilog="""examples:
  python -m vit_jax.tools.figures --checkpoint=runs/mine --images=photos/ --out=figures/
  python -m vit_jax.tools.figures --checkpoint=ViT-B_16-224.npz --image_size=384 --out=figures/
  python -m vit_jax.tools.figures --checkpoint=runs/a --runs runs/a runs/b --out=figures/""",
  )
  checkpoint_args.add_arguments(parser, labels=False)
  add = parser.add_argument
  add('--out', required=True, metavar='DIR', help='directory to write the figures to')
  add(
    '--images',
    nargs='+',
    metavar='PATH',
    help='image files, or folders that are searched with their subfolders. Both sides '
    "are resized to the model's (default: evenly spaced images of the evaluation split, if a run "
    'wrote the checkpoint, and otherwise two photographs of scikit-learn)',
  )
  add(
    '--num_images',
    type=int,
    default=128,
    metavar='N',
    help='average the attention distance over the first N images (default: %(default)s)',
  )
  add(
    '--num_shown',
    type=int,
    default=4,
    metavar='N',
    help='number of images in rollout.png. attention_maps.png shows the first (default: '
    '%(default)s)',
  )
  add(
    '--layer',
    type=int,
    default=-1,
    metavar='I',
    help='attention layer whose maps are drawn: 0 is the first, -1 the last, which is the MAP head '
    'if there is one (default: %(default)s)',
  )
  add(
    '--heads',
    choices=FUSIONS,
    default='mean',
    help='how rollout combines heads (default: %(default)s)',
  )
  add(
    '--batch_size',
    type=int,
    default=8,
    metavar='N',
    help='number of images to compute at once (default: %(default)s)',
  )
  add(
    '--runs',
    nargs='+',
    metavar='WORKDIR',
    help='runs whose learning curves to draw (default: the run that wrote the checkpoint, if any)',
  )
  add(
    '--metrics',
    nargs='+',
    metavar='NAME',
    help='curves to draw, such as eval/accuracy (default: losses, accuracies, learning rate, '
    'gradient norm)',
  )
  return parser


def _images(args: argparse.Namespace, model: nn.Module, run: Run | None) -> Iterator[np.ndarray]:
  """Yield the images that the arguments select, one at a time."""
  count = max(args.num_images, args.num_shown)
  if run and not args.images and len(set(model.image_size)) == 1:
    try:
      split = open_eval_split(run.config, model.image_size[0])
    except InputError as e:
      print(f"Images: two photographs, because the run's evaluation split cannot be opened. {e}")
    else:
      print(f'Images: {split.name}')
      yield from split.images(count, max_bad_records=run.config['max_bad_records'])
      return
  paths = find_images(args.images or sample_photographs())
  yield from read_images(paths[:count], model.image_size)


if __name__ == '__main__':
  sys.exit(main())
