"""Find the images of a training set that are near-duplicates of test images (section 4.1).

  python -m vit_jax.tools.dedup --train=imagenet21k --against=cifar10,imagenet2012 --out=ids.txt

This finds copies that were resized, recompressed, brightened, darkened, mirrored, framed or
slightly cropped. It needs pip install 'vit_jax[dedup]'.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import difflib
import itertools
import re
import sys

from vit_jax.dedup.duplicates import (
  MAX_SHOWN,
  EmbeddingCheck,
  find_duplicates,
  open_examples,
  write_contact_sheet,
)
from vit_jax.errors import InputError, exit_on_error, reason
from vit_jax.files import any_path, write_whole
from vit_jax.inference.load_checkpoint import load_checkpoint


@exit_on_error
def main(argv: Sequence[str] | None = None) -> int:
  """Run the command line and return the exit code."""
  parser = _parser()
  args, beam_args = parser.parse_known_args(argv)
  _check_beam_args(beam_args, parser)
  _check(args)
  embedding = None
  if args.embedding_checkpoint:
    embedding = _load_embedding(args.embedding_checkpoint, args.max_embedding_distance)
  duplicates = find_duplicates(
    open_examples(args.train, 'train', args.data_dir),
    [open_examples(text, None, args.data_dir) for text in args.against.split(',')],
    threshold=args.threshold,
    parts=f'{any_path(args.out)}.parts',
    embedding=embedding,
    beam_args=beam_args,
  )
  print(f'{duplicates.summary()}: {args.out}', flush=True)
  _write_ids(duplicates.ids_text(), args.out)
  if args.contact_sheet:
    write_contact_sheet(duplicates, args.contact_sheet)
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m vit_jax.tools.dedup',
    description=(__doc__ or '').split('\n')[0],
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
    epilog="""All other flags are passed to Apache Beam.

examples:
  python -m vit_jax.tools.dedup --train=./photos --against=cifar10,oxford_iiit_pet \\
      --data_dir=/data --out=ids.txt --contact_sheet=pairs.png
  # use all cores of this machine
  python -m vit_jax.tools.dedup --train=imagenet21k --against=imagenet2012 --out=ids.txt \\
      --direct_running_mode=multi_processing --direct_num_workers=0
  # find more cropped and edited copies, and let a model reject pairs that only look alike
  python -m vit_jax.tools.dedup --train=imagenet21k --against=cifar10:test+train --out=ids.txt \\
      --threshold=12 --embedding_checkpoint=ViT-B_16.npz --max_embedding_distance=.2""",
  )
  add = parser.add_argument
  add(
    '--train',
    required=True,
    metavar='DATASET[:SPLIT]',
    help='training set to search: a TFDS dataset or a folder, as for --config.dataset (default '
    'split: train)',
  )
  add(
    '--against',
    required=True,
    metavar='DATASET[:SPLIT],...',
    help='test sets whose images to look for (default split: the one that is evaluated on)',
  )
  add(
    '--out',
    required=True,
    metavar='FILE',
    help='file to write the ids of the duplicates to, for --config.exclude_ids',
  )
  add(
    '--threshold',
    type=int,
    default=8,
    metavar='BITS',
    help='images are duplicates if at most this many of the 64 bits of their hashes differ. Use an '
    'even number, because nearly all distances are even (default: %(default)s)',
  )
  add(
    '--embedding_checkpoint',
    metavar='PATH',
    help='checkpoint of a model that checks the pairs found, as for tools.predict',
  )
  add(
    '--max_embedding_distance',
    type=float,
    metavar='D',
    help='keep pairs whose representations by that model have a cosine distance of at most D (0: '
    'the same direction, 1: orthogonal)',
  )
  add(
    '--contact_sheet',
    metavar='FILE.png',
    help=f'draw up to {MAX_SHOWN} of the pairs, from all distances, to help choose the threshold',
  )
  add(
    '--data_dir',
    metavar='DIR',
    help='directory of TFDS datasets (default: $TFDS_DATA_DIR or ~/tensorflow_datasets)',
  )
  return parser


def _check_beam_args(beam_args: Sequence[str], parser: argparse.ArgumentParser) -> None:
  """Raise InputError if a flag that was left for Beam looks like a misspelled one of this tool."""
  flags = re.findall(r'--\w+', parser.format_usage())
  for before, arg in itertools.pairwise(['', *beam_args]):
    name = arg.split('=')[0]
    if not arg.startswith('--'):
      if not before.startswith('--') or '=' in before:  # it is not the value of a flag either
        raise InputError(f'{arg!r} is not a flag. Separate the datasets of --against by commas.')
    elif close := difflib.get_close_matches(name, flags, 1, 0.85):
      raise InputError(f'There is no flag {name}. Did you mean {close[0]}?')


def _check(args: argparse.Namespace) -> None:
  """Raise InputError for bad arguments before hours of hashing."""
  if (args.embedding_checkpoint is None) != (args.max_embedding_distance is None):
    raise InputError('Pass both --embedding_checkpoint and --max_embedding_distance, or neither.')
  if args.contact_sheet and not args.contact_sheet.lower().endswith('.png'):
    raise InputError(f'--contact_sheet={args.contact_sheet} must end in .png.')
  for path in filter(None, (args.out, args.contact_sheet)):
    if not any_path(path).parent.exists():
      raise InputError(f'Cannot write {path}: its folder does not exist. Create it first.')


def _write_ids(text: str, out: str) -> None:
  """Write the file of ids. If that fails, print it, because the search may have taken hours."""
  try:
    write_whole(any_path(out), text)
  except Exception as e:  # OSError, or the error of an object store's package
    print(text, end='', flush=True)
    raise InputError(f'Cannot write {out}: {reason(e)}. Save the text above instead.') from e


def _load_embedding(checkpoint: str, max_distance: float) -> EmbeddingCheck:
  loaded, _ = load_checkpoint(checkpoint, dtype='float32')
  return EmbeddingCheck(loaded.model, loaded.params, max_distance)


if __name__ == '__main__':
  sys.exit(main())
