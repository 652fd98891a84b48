"""Draws the paper's figures of a checkpoint: what its filters, positions and attention look like.

  python -m vit_jax.tools.figures --checkpoint=ViT-B_16-224.npz --images=photos/ --out=figures/

Writes filters.png, position_similarity.png, attention_distance.png, rollout.png and
attention_maps.png, and curves.png of the run that wrote the checkpoint or of --runs. What a model
does not have is left out with a word.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
import importlib.resources
import itertools
import os
import pathlib
import sys
import typing
from typing import Any

from flax import linen as nn
import jax
import numpy as np
import tqdm

from vit_jax import figures
from vit_jax.config.run import Run, read_curves
from vit_jax.data.decode import decode_image
from vit_jax.data.preprocess import resize
from vit_jax.errors import InputError, exit_on_error
from vit_jax.evaluation.eval_split import open_eval_split
from vit_jax.figures import draw
from vit_jax.figures.attention import FUSIONS, Views, attention_grid
from vit_jax.files import make_directory
from vit_jax.inference import checkpoint_args
from vit_jax.inference.images import find_images
from vit_jax.models.pixels import to_input
from vit_jax.pretrained import orbax

if typing.TYPE_CHECKING:
  from matplotlib.figure import Figure


@exit_on_error
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  args = _parser().parse_args(argv)
  _draw(args)
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m vit_jax.tools.figures',
    description=__doc__.split('\n')[0],
    formatter_class=argparse.RawDescriptionHelpFormatter,
    epilog="""examples:
  python -m vit_jax.tools.figures --checkpoint=runs/mine --images=photos/ --out=figures/
  python -m vit_jax.tools.figures --checkpoint=ViT-B_16-224.npz --image_size=384 --out=figures/
  python -m vit_jax.tools.figures --checkpoint=runs/a --runs runs/a runs/b --out=figures/""",
  )
  checkpoint_args.add_arguments(parser, labels=False)
  add = parser.add_argument
  add('--out', required=True, metavar='DIR', help='directory to write the pictures to')
  add(
    '--images',
    nargs='+',
    metavar='PATH',
    help='JPEG, PNG or WebP files, or folders (with all '
    'below them); both sides are resized (default: those that the run of the checkpoint '
    'evaluates on, evenly over them; of no run: two photographs of scikit-learn)',
  )
  add(
    '--num_images',
    type=int,
    default=128,
    metavar='N',
    help='the attention distance is the mean over the first N images (default: %(default)s)',
  )
  add(
    '--num_shown',
    type=int,
    default=4,
    metavar='N',
    help='images in rollout.png; the maps are of the first (default: %(default)s)',
  )
  add(
    '--layer',
    type=int,
    default=-1,
    metavar='I',
    help='attention whose maps are drawn, 0 the '
    'first, -1 the last, which is that of a MAP head (default: %(default)s)',
  )
  add(
    '--heads',
    choices=FUSIONS,
    default='mean',
    help='how rollout joins heads (default: %(default)s)',
  )
  add(
    '--batch_size',
    type=int,
    default=8,
    metavar='N',
    help='images computed at once (default: %(default)s)',
  )
  add(
    '--runs',
    nargs='+',
    metavar='WORKDIR',
    help='of which runs to draw the learning curves '
    '(default: the one of the checkpoint, if it is of any)',
  )
  add(
    '--metrics',
    nargs='+',
    metavar='NAME',
    help='which curves, such as eval/accuracy (default: '
    'losses, accuracies, learning rate, norm of the gradient)',
  )
  return parser


def _draw(args: argparse.Namespace) -> None:
  for name in ('num_images', 'num_shown', 'batch_size'):
    if getattr(args, name) < 1:
      raise InputError(f'--{name} must be at least 1, got {getattr(args, name)}')
  (model, params, _), run = checkpoint_args.load(args)
  directory = make_directory(args.out)

  def save(name, figure):
    path = directory / f'{name}.png'
    draw.save(figure, path)
    print(f'wrote {path}', flush=True)

  runs = args.runs or _own_run(args.checkpoint)
  if runs:
    curves = {_name(workdir, runs): read_curves(workdir) for workdir in runs}
    save('curves', draw.draw_curves(curves, args.metrics))
  else:
    print('no curves: the checkpoint is of no run with a metrics.jsonl; name runs with --runs')
  for name, found in pictures(model, params, _images(args, model, run), **_options(args)):
    if isinstance(found, InputError):
      print(f'no {name}: {found}')
    else:
      save(name, found)


def _options(args):
  return {
    name: getattr(args, name)
    for name in ('num_images', 'num_shown', 'layer', 'heads', 'batch_size')
  }


def pictures(
  model: nn.Module,
  params: Any,
  images: Iterable[np.ndarray],
  *,
  num_images: int = 128,
  num_shown: int = 4,
  layer: int = -1,
  heads: str = 'mean',
  batch_size: int = 8,
) -> Iterator[tuple[str, Figure | InputError]]:
  """Draws all that a model has, one picture at a time.

  Args:
    model: made by `create_model`.
    params: its parameters.
    images: (H, W, 3) uint8, each as the model takes it.
    num_images, num_shown, layer, heads, batch_size: as the flags of the same names.
  Yields:
    (name, figure); and for what the model does not have what that is, and why.
  Raises:
    InputError: there is no such layer.
  """
  of = figures.name_of_first_layer(model)
  yield 'filters', draw.draw_filters(figures.principal_filters(figures.rgb_kernel(params)), of)
  try:
    embedding = figures.position_embedding(model, params)
    yield (
      'position_similarity',
      draw.draw_position_similarity(figures.position_similarity(embedding)),
    )
  except InputError as e:
    yield 'position similarity', e
  try:
    attention_grid(model)
  except InputError as e:
    yield 'attention distance, rollout and maps', e
    return
  images = iter(images)
  first = next(images, None)
  if first is None:
    yield 'attention distance, rollout and maps', InputError('there are no images to look at')
    return
  names = _names_of_layers(model)
  if not -len(names) <= layer < len(names):
    raise InputError(
      f'--layer={layer} is not there: the model has attentions 0 to {len(names) - 1}'
    )
  shown, views = _look(
    model, params, itertools.chain([first], images), num_images, num_shown, heads, batch_size
  )
  h, w = model.grid
  patch = model.image_size[0] / h, model.image_size[1] / w
  yield (
    'attention_distance',
    draw.draw_attention_distance(
      views.distance.mean(1),
      figures.uniform_distance((h, w), patch),
      model.image_size,
      views.distance.shape[1],
      axial=model.attention == 'axial',
    ),
  )
  yield 'rollout', draw.draw_rollout(shown, views.rollout, heads)
  yield 'attention_maps', draw.draw_attention_maps(shown[0], views.maps[layer, 0], names[layer])


def _own_run(checkpoint: str) -> list[pathlib.Path]:
  """The workdir of the run that wrote the checkpoint, when it has metrics; else nothing."""
  step = orbax.find(checkpoint) if os.path.isdir(checkpoint) else None
  if step is None or not (step.parent.parent / 'metrics.jsonl').exists():
    return []
  return [step.parent.parent]


def _name(run: str, runs: Sequence[str]) -> str:
  """The last part of a path that tells it from the others."""
  name = lambda path: pathlib.Path(path).resolve().name
  return name(run) if len({name(r) for r in runs}) == len(runs) else str(run)


def _names_of_layers(model: nn.Module) -> list[str]:
  """What to call the maps of each attention."""
  axes = [', along rows', ', along columns'] if model.attention == 'axial' else ['']
  by = 'from the class token' if model.head == 'token' else 'mean of all patches'
  names = [f'block {i}{axis}, {by}' for i in range(model.variant.num_layers) for axis in axes]
  return names + ['the MAP head'] * (model.head == 'map')


def _images(args: argparse.Namespace, model: nn.Module, run: Run | None) -> Iterator[np.ndarray]:
  """Reads the images that are asked for, one at a time."""
  count = max(args.num_images, args.num_shown)
  if run and not args.images and len(set(model.image_size)) == 1:
    try:
      split = open_eval_split(run.config, model.image_size[0])
    except InputError as e:
      print(f'images: two photographs, as those that the run evaluated on cannot be had: {e}')
    else:
      print(f'images: {split.name}')
      yield from split.images(count, max_bad_records=run.config['max_bad_records'])
      return
  photos = importlib.resources.files('sklearn.datasets') / 'images'
  paths = find_images(args.images or [str(photos / 'china.jpg'), str(photos / 'flower.jpg')])
  for path in tqdm.tqdm(paths[:count], unit=' images', disable=not sys.stderr.isatty()):
    yield _read(path, model.image_size)


def _look(
  model: nn.Module,
  params: Any,
  images: Iterable[np.ndarray],
  num_images: int,
  num_shown: int,
  heads: str,
  batch_size: int,
) -> tuple[np.ndarray, Views]:
  """The first images, (num_shown, H, W, 3) uint8; their views, with the distances of all."""
  size, start, shown, views = 0, 0, [], []
  params = jax.device_put(params)
  images = iter(images)
  while batch := list(itertools.islice(images, batch_size)):
    size = size or len(batch)  # the last batch is padded, for one compilation alone
    padded = np.zeros((size, *batch[0].shape), np.uint8)
    padded[: len(batch)] = batch
    seen = figures.look(model, params, to_input(padded), heads=heads)
    keep = max(0, min(len(batch), num_shown - start))
    shown += batch[:keep]
    views.append(
      Views(
        np.asarray(seen.distance)[:, : len(batch)],
        np.asarray(seen.rollout)[:keep],
        np.asarray(seen.maps)[:, :keep],
      )
    )
    start += len(batch)
  distance, rollout, maps = zip(*views)
  distance = np.concatenate(distance, 1)[:, :num_images]
  return np.stack(shown), Views(distance, np.concatenate(rollout), np.concatenate(maps, 1))


def _read(path: str, image_size: tuple[int, int]) -> np.ndarray:
  """An image as the model takes it, (H, W, 3) uint8."""
  try:
    with open(path, 'rb') as f:
      return resize(decode_image(f.read(), apply_exif=True), *image_size)
  except OSError as e:
    raise InputError(f'{path} cannot be read: {e.strerror}') from e
  except ValueError as e:
    raise InputError(f'{path} cannot be read: {e}') from e


if __name__ == '__main__':
  sys.exit(main())
