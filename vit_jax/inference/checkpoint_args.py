"""The arguments of tools that run a checkpoint, and the model that they say."""

from __future__ import annotations

import argparse
import ast
import logging
import os

from flax import traverse_util

from vit_jax.config.fields import model_overrides
from vit_jax.config.run import Run, find_run
from vit_jax.errors import InputError
from vit_jax.evaluation.losses import LOSSES
from vit_jax.pretrained import orbax
from vit_jax.pretrained.load import Loaded, load_model

log = logging.getLogger('vit_jax')


def add_arguments(
  parser: argparse.ArgumentParser, *, dtype: str | None = 'float32', labels: bool = True
) -> None:
  """Adds --checkpoint and what else tells the model, its classes and its probabilities.

  Args:
    dtype: default of --dtype; None: a run's own, else float32.
    labels: whether to add --labels; a tool that means something else by it adds another flag for
      the names of the classes, 'class_names'.
  """
  add = parser.add_argument
  add(
    '--checkpoint',
    required=True,
    metavar='PATH',
    help='npz, or safetensors of timm or Hugging '
    'Face (a file or its directory), or an Orbax directory, such as the workdir of a run',
  )
  add('--model', metavar='NAME', help='such as ViT-B/16 (default: what the checkpoint is of)')
  add(
    '--image_size',
    type=size,
    metavar='N|H,W',
    help="pixels (default: the checkpoint's; where it has none, 224)",
  )
  add(
    '--override',
    action='append',
    default=[],
    type=_override,
    metavar='FIELD=VALUE',
    help='of the model, what the checkpoint does not tell, such as pos_embedding=none; can be '
    'repeated',
  )
  add(
    '--dtype',
    default=dtype,
    choices=['float32', 'bfloat16'],
    help='of the computation (default: ' + (dtype or "a run's own, else float32") + ')',
  )
  add(
    '--loss',
    choices=LOSSES,
    help='what was trained with. softmax: probabilities sum to 1; '
    "sigmoid: each class by itself, as ImageNet-21k (default: a run's own, else softmax)",
  )
  if labels:
    add(
      '--labels',
      dest='class_names',
      metavar='FILE',
      help='names of the classes, one a line '
      "(default: the checkpoint's, else ImageNet's for 1000 and 21,843 classes)",
    )


def size(text: str) -> int | tuple[int, int]:
  """A type of argument: '384' -> 384, '384,512' -> (384, 512)."""
  sides = tuple(int(side) for side in text.split(','))
  if len(sides) > 2:
    raise ValueError
  return sides if len(set(sides)) == 2 else sides[0]


def _override(text):
  """'registers=4' -> ('registers', 4), 'head=gap' -> ('head', 'gap')."""
  field, equals, value = text.partition('=')
  if not equals:
    raise ValueError
  try:
    return field, ast.literal_eval(value)
  except (SyntaxError, ValueError):
    return field, value


_override.__name__ = 'FIELD=VALUE'  # in argparse's messages


def read_run(checkpoint: str) -> Run | None:
  """Return the training run that wrote a checkpoint, or None if no run did.

  Args:
    checkpoint: a workdir, its checkpoints/ or the directory of a step.
  """
  return find_run(orbax.find(checkpoint)) if os.path.isdir(checkpoint) else None


def load(args: argparse.Namespace) -> tuple[Loaded, Run | None]:
  """The checkpoint as a model, by what the user says, else its run's config, else its arrays.

  Returns also the run, None when the checkpoint is of none.
  """
  run = read_run(args.checkpoint)
  config = run.config if run else {}
  overrides = dict(model_overrides(config), image_size=config['image_size']) if run else {}
  overrides |= dict(args.override, dtype=args.dtype or config.get('dtype', 'float32'))
  if args.image_size:
    overrides['image_size'] = args.image_size
  loaded = load_model(args.checkpoint, args.model or config.get('model'), **overrides)
  params = traverse_util.flatten_dict(loaded.params, sep='/')
  heads = [x for k, x in params.items() if k.endswith(('head/kernel', 'head/conv2d/kernel'))]
  if heads and not any(x.any() for x in heads):
    log.warning(
      '%s has a head of zeros, as the ImageNet-21k originals: it was not trained, and '
      'says nothing about an image',
      args.checkpoint,
    )
  return loaded, run


def loss(args: argparse.Namespace, run: Run | None) -> str:
  """What was trained with."""
  return args.loss or (run.config['loss'] if run else 'softmax')


def class_names(args: argparse.Namespace, loaded: Loaded) -> list[str] | None:
  """The names in the file that is given, or of the checkpoint; None when there are none."""
  path = args.class_names
  num_classes = loaded.model.num_classes
  if path is None:
    # A head may be wider than its data set has classes.
    return loaded.class_names and loaded.class_names + [
      f'class {i}' for i in range(len(loaded.class_names), num_classes)
    ]
  try:
    with open(path, encoding='utf-8') as f:
      names = [line.strip() for line in f]
  except (OSError, UnicodeDecodeError) as e:
    raise InputError(f'{path} cannot be read: {getattr(e, "strerror", e)}') from e
  if len(names) != num_classes:
    raise InputError(f'{path} has {len(names):,} lines, but the model has {num_classes:,} classes')
  return names
