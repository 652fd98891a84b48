"""Finds the images of a training set that are near-duplicates of test images (section 4.1).

  python -m vit_jax.tools.dedup --train=imagenet21k --against=cifar10,imagenet2012 --out=ids.txt

Copies in other sizes and qualities, brighter, darker, mirrored, framed and slightly cropped ones
are found. Needs pip install 'vit_jax[dedup]'.
"""

from __future__ import annotations

import argparse
import bisect
from collections.abc import Sequence
import difflib
import itertools
import logging
import sys
from typing import Any

import cv2
from etils import epath
from flax import linen as nn
import numpy as np

from vit_jax.data.decode import decode_image
from vit_jax.data.open_source import describe_dataset
from vit_jax.dedup import beam, contact_sheet, example_ids, ids_file
from vit_jax.errors import InputError, exit_on_error
from vit_jax.files import write_whole
from vit_jax.inference import checkpoint_args

log = logging.getLogger('vit_jax')

_SHOWN = 48  # pairs of a contact sheet


@exit_on_error
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  parser = _parser()
  args, beam_args = parser.parse_known_args(argv)
  _check(args, beam_args, parser)
  print(_dedup(args, beam_args))
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m vit_jax.tools.dedup',
    description=__doc__.split('\n')[0],
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
    epilog="""All other flags are Apache Beam's.

examples:
  python -m vit_jax.tools.dedup --train=./photos --against=cifar10,oxford_iiit_pet \\
      --data_dir=/data --out=ids.txt --contact_sheet=pairs.png
  # on all cores of this machine
  python -m vit_jax.tools.dedup --train=imagenet21k --against=imagenet2012 --out=ids.txt \\
      --direct_running_mode=multi_processing --direct_num_workers=0
  # more of what was cropped or changed much; a model sorts out what only looks alike
  python -m vit_jax.tools.dedup --train=imagenet21k --against=cifar10:test+train --out=ids.txt \\
      --threshold=12 --embedding_checkpoint=ViT-B_16.npz --max_embedding_distance=.2""",
  )
  add = parser.add_argument
  add(
    '--train',
    required=True,
    metavar='DATASET[:SPLIT]',
    help='what to search: a TFDS data set '
    'or a folder, as for --config.dataset (default split: train)',
  )
  add(
    '--against',
    required=True,
    metavar='DATASET[:SPLIT],...',
    help='what to search for (default split: the one that is evaluated on)',
  )
  add(
    '--out',
    required=True,
    metavar='FILE',
    help='the ids of the images found, for --config.exclude_ids',
  )
  add(
    '--threshold',
    type=int,
    default=8,
    metavar='BITS',
    help='images whose hashes differ in at '
    'most that many of 64 bits are duplicates; an even number, as nearly all distances are '
    '(default: %(default)s)',
  )
  add(
    '--embedding_checkpoint',
    metavar='PATH',
    help='a model that looks at the pairs found; what tools.predict takes',
  )
  add(
    '--max_embedding_distance',
    type=float,
    metavar='D',
    help='keep the pairs whose '
    'representations by that model are at a cosine distance of at most D (0: the same direction, '
    '1: at right angles)',
  )
  add(
    '--contact_sheet',
    metavar='FILE.png',
    help=f'show up to {_SHOWN} of the pairs, from all distances, to judge the threshold by',
  )
  add(
    '--data_dir',
    metavar='DIR',
    help='where TFDS data sets lie (default: $TFDS_DATA_DIR or ~/tensorflow_datasets)',
  )
  return parser


def _check(
  args: argparse.Namespace, beam_args: Sequence[str], parser: argparse.ArgumentParser
) -> None:
  """Raises InputError for what does not fit together, before hours of hashing."""
  ours = [option for action in parser._actions for option in action.option_strings]
  for before, arg in itertools.pairwise(['', *beam_args]):
    name = arg.split('=')[0]
    if not arg.startswith('--'):
      if not before.startswith('--') or '=' in before:  # it is no flag's value either
        raise InputError(f'{arg!r} is no flag: the data sets of --against are parted by commas')
    elif close := difflib.get_close_matches(name, ours, 1, 0.85):
      raise InputError(f'there is no {name}; did you mean {close[0]}?')
  if (args.embedding_checkpoint is None) != (args.max_embedding_distance is None):
    raise InputError('--embedding_checkpoint and --max_embedding_distance go together')
  if args.contact_sheet and not args.contact_sheet.lower().endswith('.png'):
    raise InputError(f'--contact_sheet={args.contact_sheet} must end in .png')
  for path in filter(None, (args.out, args.contact_sheet)):
    if not epath.Path(path).parent.exists():
      raise InputError(f'there is no folder to write {path} to')


def _dedup(args: argparse.Namespace, beam_args: Sequence[str]) -> str:
  """Writes the files; returns what to say."""
  model = args.embedding_checkpoint and _load(args.embedding_checkpoint)
  searched = example_ids.ExampleIds(*example_ids.parse_dataset(args.train, 'train'), args.data_dir)
  tests = [_open_against(text, args.data_dir) for text in args.against.split(',')]
  found = beam.find_duplicates(
    searched, tests, threshold=args.threshold, parts=f'{args.out}.parts', beam_args=beam_args
  )
  train, against = _Images([searched]), _Images(tests)
  _warn(train, found.damaged_train)
  _warn(against, found.damaged_against)
  pairs, cosines = found.pairs, [None] * len(found.pairs)
  threshold = str(args.threshold)
  if model:
    cosines = _embed(model, pairs, train, against)
    kept = cosines <= args.max_embedding_distance
    pairs, cosines = pairs[kept], cosines[kept]
    threshold += f', embedding {args.max_embedding_distance:g}'
  # The closest of an image's pairs comes last, and so stays.
  reasons = {
    train.id(pairs[i, 0]): f'{_tell_distance(pairs[i, 2], cosines[i])} to '
    f'{against.name(pairs[i, 1])}'
    for i in np.argsort(pairs[:, 2], kind='stable')[::-1]
  }
  write_whole(
    epath.Path(args.out),
    ids_file.format_ids(
      searched, threshold=threshold, against=','.join(map(str, tests)), reasons=reasons
    ),
  )
  said = (
    f'{len(reasons):,} of {len(train):,} images of {searched} are near-duplicates of '
    f'{len(np.unique(pairs[:, 1])):,} of {len(against):,} test images'
  )
  if args.contact_sheet:
    _draw(args.contact_sheet, pairs, cosines, train, against, f'{said}; threshold {threshold}')
  return f'{said}: {args.out}'


def _load(checkpoint: str) -> tuple[nn.Module, Any]:
  parser = argparse.ArgumentParser()
  checkpoint_args.add_arguments(parser)
  loaded, _ = checkpoint_args.load(parser.parse_args([f'--checkpoint={checkpoint}']))
  return loaded.model, loaded.params


def _open_against(text: str, data_dir: str | None) -> example_ids.ExampleIds:
  dataset, split = example_ids.parse_dataset(text, '')
  if not split:
    split = describe_dataset(dataset, data_dir).eval_split
    if split == 'none':
      raise InputError(
        f'{dataset} has no test split: say which split is meant, as in {dataset}:train'
      )
  return example_ids.ExampleIds(dataset, split, data_dir)


class _Images:
  """The images of one side of the comparison, counted through all of its data sets."""

  def __init__(self, sets: Sequence[example_ids.ExampleIds]):
    self._sets = sets
    self._ends = list(itertools.accumulate(map(len, sets)))

  def __len__(self) -> int:
    return self._ends[-1]

  def _locate(self, image: int) -> tuple[example_ids.ExampleIds, int]:
    number = bisect.bisect_right(self._ends, image)
    return self._sets[number], image - (self._ends[number - 1] if number else 0)

  def id(self, image: int) -> example_ids.ExampleId:
    found, position = self._locate(image)
    return found.id(position)

  def name(self, image: int) -> str:
    """Data set and id: 'cifar10:test 77'."""
    found, position = self._locate(image)
    return f'{found.dataset}:{found.id(position)}'

  def pixels(self, image: int) -> np.ndarray:
    found, position = self._locate(image)
    return decode_image(found.source[position]['image'], apply_exif=found.source.apply_exif)


def _warn(images: _Images, damaged: Sequence[int]) -> None:
  if damaged:
    log.warning(
      '%d images cannot be decoded and were left out, the first is %s',
      len(damaged),
      images.name(damaged[0]),
    )


def _embed(
  model: tuple[nn.Module, Any], pairs: np.ndarray, train: _Images, against: _Images
) -> np.ndarray:
  """Cosine distances of pairs (P,)."""
  from vit_jax.dedup.embedding import embedding_distances

  return embedding_distances(*model, pairs, train.pixels, against.pixels)


def _tell_distance(distance: int, cosine: float | None) -> str:
  return f'distance {distance}' + ('' if cosine is None else f', embedding {cosine:.3f}')


def _draw(
  path: str,
  pairs: np.ndarray,
  cosines: Sequence[float | None],
  train: _Images,
  against: _Images,
  title: str,
) -> None:
  """Writes the contact sheet."""
  chosen = contact_sheet.choose_pairs(pairs[:, 2], _SHOWN)
  drawn = [
    (
      train.pixels(pairs[i, 0]),
      against.pixels(pairs[i, 1]),
      (_tell_distance(pairs[i, 2], cosines[i]), train.name(pairs[i, 0]), against.name(pairs[i, 1])),
    )
    for i in chosen
  ]
  image = contact_sheet.draw_sheet(drawn, title)
  epath.Path(path).write_bytes(cv2.imencode('.png', image[..., ::-1])[1].tobytes())


if __name__ == '__main__':
  sys.exit(main())
