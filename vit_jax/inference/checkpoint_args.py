"""Command line arguments that select a checkpoint and say how to use it."""

from __future__ import annotations

import argparse

import jax

from vit_jax.config.checks import check_overrides
from vit_jax.config.flags import field_value
from vit_jax.config.run import Run
from vit_jax.data.preprocess import EVAL_PRESETS
from vit_jax.data.resample import FILTERS
from vit_jax.errors import InputError
from vit_jax.evaluation.losses import LOSSES
from vit_jax.files import user_path
from vit_jax.inference.load_checkpoint import load_checkpoint
from vit_jax.models.usage import CompleteUsage
from vit_jax.parallel.compile_cache import use_compile_cache
from vit_jax.pretrained.load import Loaded


def add_arguments(
  parser: argparse.ArgumentParser, *, dtype: str | None = 'float32', labels: bool = True
) -> None:
  """Add --checkpoint, and the arguments for its model, probabilities and class names.

  Args:
    parser: the parser to extend.
    dtype: default of --dtype. None means that of the training run, or else float32.
    labels: add --labels for the class names. A tool whose --labels has another meaning adds an
      argument `class_names` of its own.
  """
  add = parser.add_argument
  add(
    '--checkpoint',
    required=True,
    metavar='PATH',
    help='an npz file, a safetensors file or directory of timm or Hugging Face, or an Orbax '
    'directory, such as the workdir of a run',
  )
  add(
    '--model',
    metavar='NAME',
    help='name of the model, such as ViT-B/16 (default: inferred from the checkpoint)',
  )
  add(
    '--image_size',
    type=image_size,
    metavar='N|H,W',
    help='size of the images in pixels (default: that of the checkpoint, or 224 if it has none)',
  )
  add(
    '--override',
    action='append',
    default=[],
    type=field_value,
    metavar='FIELD=VALUE',
    help='set an argument of the model that the checkpoint does not determine, such as '
    'pos_embedding=none; can be repeated',
  )
  add(
    '--dtype',
    default=dtype,
    choices=['float32', 'bfloat16'],
    help=f'type of the computation (default: {dtype or "that of the run, or float32"})',
  )
  add(
    '--loss',
    choices=LOSSES,
    help='the loss that the model was trained with. softmax: the probabilities of all classes sum '
    'to 1; sigmoid: each class has its own probability, as for ImageNet-21k (default: that of the '
    'checkpoint, or softmax)',
  )
  if labels:
    add(
      '--labels',
      dest='class_names',
      metavar='FILE',
      help='file with the names of the classes, one per line (default: those of the checkpoint, or '
      "ImageNet's for 1000 and 21,843 classes)",
    )


def image_size(text: str) -> int | tuple[int, int]:
  """Parse an image size: '384' -> 384, '384,512' -> (384, 512). argparse handles the ValueError."""
  height, *others = (int(side) for side in text.split(','))
  if len(others) > 1:
    raise ValueError(f'{text!r} has more than two sides.')
  width = others[0] if others else height
  return height if height == width else (height, width)


def load(args: argparse.Namespace) -> tuple[Loaded, Run | None]:
  """Load the checkpoint that the arguments select, and the run that wrote it, if any.

  Programs that are compiled after this are kept for the next command.
  """
  use_compile_cache()
  overrides = dict(args.override)
  check_overrides(overrides)
  return load_checkpoint(
    args.checkpoint,
    model=args.model,
    image_size=args.image_size,
    overrides=overrides,
    dtype=args.dtype,
  )


def add_preprocess_arguments(parser: argparse.ArgumentParser) -> None:
  """Add the flags that say how images are decoded and resized."""
  add = parser.add_argument
  add(
    '--preset',
    choices=EVAL_PRESETS,
    help='how images are resized. bit: both sides; inception: the short side, and the center is '
    'cropped; squash: both sides, and the center is cropped (default: that of the checkpoint, or '
    'bit)',
  )
  add(
    '--resize_size',
    type=int,
    metavar='N',
    help='the size before the crop, in pixels (default: that of the checkpoint, or 8/7 of the size '
    'of the model)',
  )
  add(
    '--eval_filter',
    choices=FILTERS,
    help='filter with which images are resized. bilinear is not antialiased, all others are '
    '(default: that of the checkpoint, or area for inception, and bilinear for the others)',
  )
  add_fast_dct(parser)


def add_fast_dct(parser: argparse.ArgumentParser) -> None:
  """Add --fast_dct, and --no-fast_dct."""
  parser.add_argument(
    '--fast_dct',
    action=argparse.BooleanOptionalAction,
    help='decode JPEGs with the fast, less accurate DCT, as TensorFlow does (default: as '
    'the checkpoint says, or not)',
  )


def usage(args: argparse.Namespace, loaded: Loaded) -> CompleteUsage:
  """Return how to use the model: what the checkpoint says, unless an argument says otherwise.

  Raises:
    InputError: --resize_size has no effect.
  """
  given = ('preset', 'resize_size', 'eval_filter', 'fast_dct', 'loss')
  result = loaded.model.usage.updated(**{name: getattr(args, name, None) for name in given})
  resize_size = getattr(args, 'resize_size', None)
  if resize_size is not None and result.preset == 'bit':
    raise InputError(
      f'--resize_size={resize_size} has no effect with the preset bit, which does not crop. Leave '
      'it out, or pass --preset=inception.'
    )
  return result


def class_names(args: argparse.Namespace, loaded: Loaded) -> list[str] | None:
  """Return the names of all classes from the given file or the checkpoint, or None."""
  num_classes = loaded.model.num_classes
  if args.class_names:
    return _read_names(args.class_names, num_classes)
  if not loaded.class_names:
    return None
  known = len(loaded.class_names)  # a head may be wider than its dataset has classes
  return loaded.class_names + [f'class {i}' for i in range(known, num_classes)]


def _read_names(path: str, num_classes: int) -> list[str]:
  try:
    text = user_path(path).read_text(encoding='utf-8-sig')
  except (OSError, UnicodeDecodeError) as e:
    raise InputError(f'Cannot read {path}: {getattr(e, "strerror", e)}.') from e
  names = [line.strip() for line in text.removesuffix('\n').split('\n')]
  if len(names) != num_classes:
    raise InputError(
      f'{path} must have one line for each of the {num_classes:,} classes of the model, but it has '
      f'{len(names):,}.'
    )
  return names


def add_batch_arguments(parser: argparse.ArgumentParser) -> None:
  """Add the flags of commands that compute a dataset: --batch_size and --max_bad_records."""
  parser.add_argument(
    '--batch_size',
    type=int,
    metavar='N',
    help='number of images computed at once, over all devices (default: 32 per device)',
  )
  parser.add_argument(
    '--max_bad_records',
    type=int,
    default=0,
    metavar='N',
    help='leave out up to this many damaged images; more are an error (default: %(default)s)',
  )


def batch_size(args: argparse.Namespace) -> int:
  """Return --batch_size, by default 32 per device.

  Raises:
    InputError: it is less than 1.
  """
  size = 32 * jax.device_count() if args.batch_size is None else args.batch_size
  if size < 1:
    raise InputError(f'--batch_size must be at least 1, but it is {size}.')
  return size
