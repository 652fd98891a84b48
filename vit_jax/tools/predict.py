"""Says what is on images: the most probable classes, by a trained or a published model.

  python -m vit_jax.tools.predict --checkpoint=ViT-B_16-224.npz cat.jpg photos/

An image that cannot be read is named, the others are predicted, and the exit code is 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
import contextlib
import itertools
import json
import os
import sys
from typing import Any

import tqdm

from vit_jax.data.preprocess import PRESETS
from vit_jax.errors import InputError, exit_on_error
from vit_jax.inference import checkpoint_args
from vit_jax.inference.images import find_images
from vit_jax.inference.predict import Prediction, predict_each


@exit_on_error
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  args = _parser().parse_args(argv)
  try:
    return _predict(args)
  except BrokenPipeError:  # who reads the output has had enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's flush at exit
    return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m vit_jax.tools.predict',
    description=__doc__.split('\n')[0],
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
    help='a JPEG, PNG or WebP file, a folder (with all '
    'below it), an address (https://, gs://), or - for the bytes of an image on standard input',
  )
  add(
    '--files_from',
    metavar='FILE',
    help='read further paths of images from FILE, one a line; - is standard input',
  )
  add(
    '--preset',
    choices=PRESETS,
    help='how images are brought to size. bit: both sides resized; '
    "inception: short side resized, centre cropped (default: a run's own, else bit)",
  )
  add('--top_k', type=int, default=5, metavar='K', help='classes to print (default: %(default)s)')
  add(
    '--batch_size',
    type=int,
    default=32,
    metavar='N',
    help='images computed at once (default: %(default)s)',
  )
  add(
    '--json',
    action='store_true',
    help='print one JSON object a line for each image: path, '
    'predictions (class, name, probability)',
  )
  return parser


def _predict(args: argparse.Namespace) -> int:
  """Prints what is on every image; returns 1 if one of them could not be read."""
  found = find_images(args.images)
  if not found and not args.files_from:
    raise InputError(
      'no image is given: name files or folders, - for standard input, or a list with --files_from'
    )
  names, paths = itertools.tee(
    itertools.chain(found, _lines(args.files_from) if args.files_from else ())
  )
  loaded, run = checkpoint_args.load(args)
  results = predict_each(
    loaded.model,
    loaded.params,
    (sys.stdin.buffer if p == '-' else p for p in paths),
    class_names=checkpoint_args.class_names(args, loaded),
    top_k=args.top_k,
    batch_size=args.batch_size,
    preset=args.preset or (run.config['preset'] if run else 'bit'),
    resize_size=run.config['resize_size'] if run and not args.image_size else None,
    loss=checkpoint_args.loss(args, run),
  )
  show = as_json if args.json else as_table
  seen = unreadable = 0
  results = _with_progress(results, None if args.files_from else len(found))
  for result, name in zip(results, names):
    seen += 1
    if isinstance(result, InputError):
      unreadable += 1
      print(f'error: {result}', file=sys.stderr)
    else:
      print(show(name, result), flush=True)
  if not seen:
    raise InputError(f'{args.files_from} lists no image')
  return int(unreadable > 0)


def _lines(path: str) -> Iterator[str]:
  """Yields the lines of a file, or of standard input, as they come; empty ones are left out."""
  try:
    with contextlib.nullcontext(sys.stdin.buffer) if path == '-' else open(path, 'rb') as f:
      for line in f:
        if line := line.rstrip(b'\r\n'):
          yield os.fsdecode(line)
  except OSError as e:
    raise InputError(f'{path} cannot be read: {e.strerror}') from e


def _with_progress(results: Iterable[Any], total: int | None) -> Iterable[Any]:
  """Shows a bar where it is seen and is not in the way of the results themselves."""
  hidden = total == 1 or not sys.stderr.isatty() or sys.stdout.isatty()
  return tqdm.tqdm(results, total=total, unit=' images', disable=hidden)


def as_table(path: str, predictions: list[Prediction]) -> str:
  """The path, and a line of probability, label and name for each prediction."""
  shown = os.fsencode(path).decode(errors='replace')  # not all file names can be printed
  return '\n'.join(
    [shown] + [f'  {p.probability:7.2%}  {p.label:5}  {p.name}' for p in predictions]
  )


def as_json(path: str, predictions: list[Prediction]) -> str:
  """One line: path, and class, name, probability of each prediction."""
  return json.dumps(
    {
      'path': path,
      'predictions': [
        {'class': p.label, 'name': p.name, 'probability': p.probability} for p in predictions
      ],
    }
  )


if __name__ == '__main__':
  sys.exit(main())
