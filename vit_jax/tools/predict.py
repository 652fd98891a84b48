"""Predict the classes of images with a trained or a published model.

  python -m vit_jax.tools.predict --checkpoint=ViT-B_16-224.npz cat.jpg photos/

If an image cannot be read, an error names it, the others are predicted, and the exit code is 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
import contextlib
import itertools
import json
import os
import sys
from typing import TypeVar

import tqdm

from vit_jax.errors import InputError, exit_on_error
from vit_jax.files import printable, user_path
from vit_jax.inference import checkpoint_args
from vit_jax.inference.images import find_images
from vit_jax.inference.predict import Prediction, PredictOptions, predict_each
from vit_jax.parallel.allocator import keep_freed_memory

Item = TypeVar('Item')


@exit_on_error
def main(argv: Sequence[str] | None = None) -> int:
  """Run the command line and return the exit code."""
  args = _parser().parse_args(argv)
  keep_freed_memory()
  return _predict(args)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m vit_jax.tools.predict',
    description=(__doc__ or '').split('\n')[0],
    formatter_class=argparse.RawDescriptionHelpFormatter,
    epilog="""examples:
  python -m vit_jax.tools.predict --checkpoint=runs/mine cat.jpg photos/
  python -m vit_jax.tools.predict --checkpoint=ViT-B_16-224.npz --json photos/ > photos.jsonl
  find . -name '*.jpg' | python -m vit_jax.tools.predict --checkpoint=FILE --files_from=-""",
  )
  checkpoint_args.add_arguments(parser)
  add = parser.add_argument
  add(
    'images',
    metavar='IMAGE',
    nargs='*',
    help='an image file, a folder (with its subfolders), an address (https://, gs://), '
    'or - for an image on standard input',
  )
  add(
    '--files_from',
    metavar='FILE',
    help='file with the paths of more images, one per line; - is standard input',
  )
  checkpoint_args.add_preprocess_arguments(parser)
  add(
    '--top_k',
    type=int,
    default=5,
    metavar='K',
    help='number of classes to print (default: %(default)s)',
  )
  add(
    '--batch_size',
    type=int,
    default=32,
    metavar='N',
    help='number of images computed at once (default: %(default)s)',
  )
  add(
    '--json',
    action='store_true',
    help='print a JSON object for each image, one per line: path, predictions (class, name, '
    'probability)',
  )
  return parser


def _predict(args: argparse.Namespace) -> int:
  """Print the predictions for every image. Return 1 if an image could not be read."""
  files = find_images(args.images)
  if not files and not args.files_from:
    raise InputError(
      'No images. Name files or folders, - for standard input, or a list with --files_from.'
    )
  listed = _lines(args.files_from) if args.files_from else ()
  names, paths = itertools.tee(itertools.chain(files, listed))
  loaded, _ = checkpoint_args.load(args)
  results = predict_each(
    loaded.model,
    loaded.params,
    (sys.stdin.buffer if path == '-' else path for path in paths),
    PredictOptions(
      class_names=checkpoint_args.class_names(args, loaded) if args.class_names else None,
      top_k=args.top_k,
      batch_size=args.batch_size,
      preset=args.preset,
      resize_size=args.resize_size,
      loss=args.loss,
      eval_filter=args.eval_filter,
      fast_dct=args.fast_dct,
    ),
  )
  results = _with_progress(results, None if args.files_from else len(files))
  as_text = as_json if args.json else as_table
  images = unreadable = 0
  for result, name in zip(results, names):
    images += 1
    if isinstance(result, InputError):
      unreadable += 1
      print(f'error: {result}', file=sys.stderr)
    else:
      print(as_text(name, result), flush=True)
  if not images:
    raise InputError(f'{args.files_from} lists no images.')
  return int(unreadable > 0)


def _lines(path: str) -> Iterator[str]:
  """Yield the lines of a file or of standard input as they arrive, without empty ones."""
  try:
    with (
      contextlib.nullcontext(sys.stdin.buffer) if path == '-' else open(user_path(path), 'rb') as f
    ):
      for line in f:
        if line := line.rstrip(b'\r\n'):
          yield os.fsdecode(line)
  except OSError as e:
    raise InputError(f'Cannot read {path}: {e.strerror}.') from e


def _with_progress(results: Iterable[Item], total: int | None) -> Iterable[Item]:
  """Show a progress bar on a terminal, unless the results are printed on it too."""
  hidden = total == 1 or not sys.stderr.isatty() or sys.stdout.isatty()
  return tqdm.tqdm(results, total=total, unit=' images', disable=hidden)


def as_table(path: str, predictions: list[Prediction]) -> str:
  """Return the path, and a line with probability, label and name for each prediction."""
  rows = [f'  {p.probability:7.2%}  {p.label:5}  {printable(p.name)}' for p in predictions]
  return '\n'.join([printable(path), *rows])


def as_json(path: str, predictions: list[Prediction]) -> str:
  """Return one line of JSON: the path, and class, name and probability of each prediction."""
  rows = [{'class': p.label, 'name': p.name, 'probability': p.probability} for p in predictions]
  return json.dumps({'path': path, 'predictions': rows})


if __name__ == '__main__':
  sys.exit(main())
