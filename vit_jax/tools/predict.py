"""Says what is on images: the most probable classes, by a trained or a published model.

  python -m vit_jax.tools.predict --checkpoint=ViT-B_16-224.npz cat.jpg photos/

An image that cannot be read is named, the others are predicted, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterable, Iterator, Sequence
import contextlib
import itertools
import json
import logging
import os
import sys
from typing import Any

from flax import traverse_util
from ml_collections import ConfigDict
import tqdm

from vit_jax.config import default_config, model_overrides
from vit_jax.data.folder import EXTENSIONS
from vit_jax.data.preprocess import PRESETS
from vit_jax.errors import InputError
from vit_jax.inference import LOSSES, Prediction, predict_each
from vit_jax.pretrained import orbax
from vit_jax.pretrained.architecture import Loaded, load_model
from vit_jax.pretrained.files import is_remote

log = logging.getLogger('vit_jax')


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  args = _parser().parse_args(argv)
  try:
    return _predict(args)
  except InputError as e:
    print(f'error: {e}', file=sys.stderr)
    return 1
  except BrokenPipeError:  # who reads the output has had enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's flush at exit
    return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
      prog='python -m vit_jax.tools.predict', description=__doc__.split('\n')[0],
      formatter_class=argparse.RawDescriptionHelpFormatter,
      epilog="""examples:
  python -m vit_jax.tools.predict --checkpoint=runs/mine cat.jpg photos/
  python -m vit_jax.tools.predict --checkpoint=ViT-B_16-224.npz --json photos/ > photos.jsonl
  find . -name '*.jpg' | python -m vit_jax.tools.predict --checkpoint=FILE --files_from=-""")
  add = parser.add_argument
  add('images', metavar='IMAGE', nargs='*', help='a JPEG, PNG or WebP file, a folder (with all '
      'below it), an address (https://, gs://), or - for the bytes of an image on standard input')
  add('--checkpoint', required=True, metavar='PATH', help='npz, or safetensors of timm or Hugging '
      'Face (a file or its directory), or an Orbax directory, such as the workdir of a run')
  add('--files_from', metavar='FILE', help='read further paths of images from FILE, one a line; '
      '- is standard input')
  add('--model', metavar='NAME', help='such as ViT-B/16 (default: what the checkpoint is of)')
  add('--image_size', type=_size, metavar='N|H,W', help="pixels (default: the checkpoint's; where "
      'it has none, 224)')
  add('--override', action='append', default=[], type=_override, metavar='FIELD=VALUE',
      help='of the model, what the checkpoint does not tell, such as pos_embedding=none; can be '
      'repeated')
  add('--dtype', default='float32', choices=['float32', 'bfloat16'],
      help='of the computation (default: %(default)s)')
  add('--preset', choices=PRESETS, help='how images are brought to size. bit: both sides resized; '
      "inception: short side resized, centre cropped (default: a run's own, else bit)")
  add('--loss', choices=LOSSES, help='what was trained with. softmax: probabilities sum to 1; '
      "sigmoid: each class by itself, as ImageNet-21k (default: a run's own, else softmax)")
  add('--labels', metavar='FILE', help="names of the classes, one a line (default: the "
      "checkpoint's, else ImageNet's for 1000 and 21,843 classes)")
  add('--top_k', type=int, default=5, metavar='K', help='classes to print (default: %(default)s)')
  add('--batch_size', type=int, default=32, metavar='N', help='images computed at once (default: '
      '%(default)s)')
  add('--json', action='store_true', help='print one JSON object a line for each image: path, '
      'predictions (class, name, probability)')
  return parser


def _size(text):
  """'384' -> 384, '384,512' -> (384, 512)."""
  sides = tuple(int(side) for side in text.split(','))
  if len(sides) > 2:
    raise ValueError
  return sides if len(sides) == 2 else sides[0]


def _override(text):
  """'registers=4' -> ('registers', 4), 'head=gap' -> ('head', 'gap')."""
  field, equals, value = text.partition('=')
  if not equals:
    raise ValueError
  try:
    return field, ast.literal_eval(value)
  except (SyntaxError, ValueError):
    return field, value


_size.__name__, _override.__name__ = 'size', 'FIELD=VALUE'  # in argparse's messages


def _predict(args: argparse.Namespace) -> int:
  """Prints what is on every image; returns 1 if one of them could not be read."""
  found = find_images(args.images)
  if not found and not args.files_from:
    raise InputError('no image is given: name files or folders, - for standard input, or a list '
                     'with --files_from')
  names, paths = itertools.tee(itertools.chain(
      found, _lines(args.files_from) if args.files_from else ()))
  run = read_run(args.checkpoint)
  loaded = _load(args, run)
  results = predict_each(
      loaded.model, loaded.params, (sys.stdin.buffer if p == '-' else p for p in paths),
      class_names=_class_names(args.labels, loaded), top_k=args.top_k, batch_size=args.batch_size,
      preset=args.preset or (run.preset if run else 'bit'),
      resize_size=(run.resize_size or None) if run and not args.image_size else None,
      loss=args.loss or (run.loss if run else 'softmax'))
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


def find_images(names: Iterable[str]) -> list[str]:
  """Returns the files, addresses and '-' in `names` as they are, and the images in the folders.

  Raises:
    InputError: naming a path that is not there, or a folder that has no images or cannot be read.
  """
  found = []
  for name in names:
    if os.path.isdir(name):
      found += _images_below(name)
    elif name == '-' or is_remote(name) or os.path.exists(name):
      found.append(name)
    else:
      raise InputError(f'there is no file or folder {name}')
  return found


def _images_below(directory):
  """The images in a folder and the folders in it, sorted by path; hidden ones are left out."""
  def fail(error):
    raise InputError(f'the folder {error.filename} cannot be read: {error.strerror}')

  found = []
  for parent, folders, files in os.walk(directory, onerror=fail):
    folders[:] = [name for name in folders if not name.startswith('.')]
    found += [os.path.join(parent, name) for name in files
              if name.lower().endswith(EXTENSIONS) and not name.startswith('.')]
  if not found:
    raise InputError(f'the folder {directory} has no images ({", ".join(EXTENSIONS)})')
  return sorted(found)


def _lines(path: str) -> Iterator[str]:
  """Yields the lines of a file, or of standard input, as they come; empty ones are left out."""
  try:
    with contextlib.nullcontext(sys.stdin.buffer) if path == '-' else open(path, 'rb') as f:
      for line in f:
        if line := line.rstrip(b'\r\n'):
          yield os.fsdecode(line)
  except OSError as e:
    raise InputError(f'{path} cannot be read: {e.strerror}') from e


def read_run(checkpoint: str) -> ConfigDict | None:
  """The config of the training run that wrote a checkpoint; None when it is of none.

  Args:
    checkpoint: a workdir, its checkpoints/ or the directory of a step.
  """
  step = orbax.find(checkpoint) if os.path.isdir(checkpoint) else None
  if step is None or step.parent.name != 'checkpoints':
    return None
  path = step.parent.parent / 'config.json'
  try:
    recorded = json.loads(path.read_text())
    config = default_config()
    config.update({field: value for field, value in recorded.items() if field in config})
    return config
  except FileNotFoundError:
    return None
  except (OSError, ValueError, TypeError, AttributeError) as e:
    raise InputError(f'{path} is not a readable config of a run ({e})') from e


def _load(args: argparse.Namespace, run: ConfigDict | None) -> Loaded:
  """The checkpoint as a model, by what the user says, else its run's config, else its arrays."""
  overrides = dict(model_overrides(run), image_size=run.image_size) if run else {}
  overrides |= dict(args.override, dtype=args.dtype)
  if args.image_size:
    overrides['image_size'] = args.image_size
  loaded = load_model(args.checkpoint, args.model or (run.model if run else None), **overrides)
  params = traverse_util.flatten_dict(loaded.params, sep='/')
  if not any(params[k].any() for k in params if k.endswith(('head/kernel', 'head/conv2d/kernel'))):
    log.warning('%s has a head of zeros, as the ImageNet-21k originals: it was not trained, and '
                'says nothing about an image', args.checkpoint)
  return loaded


def _class_names(labels: str | None, loaded: Loaded) -> list[str] | None:
  """The names in the file `labels`, or of the checkpoint; None when there are none."""
  num_classes = loaded.model.num_classes
  if labels is None:
    # A head may be wider than its data set has classes.
    return loaded.class_names and loaded.class_names + [
        f'class {i}' for i in range(len(loaded.class_names), num_classes)]
  try:
    with open(labels, encoding='utf-8') as f:
      names = [line.strip() for line in f]
  except (OSError, UnicodeDecodeError) as e:
    raise InputError(f'{labels} cannot be read: {getattr(e, "strerror", e)}') from e
  if len(names) != num_classes:
    raise InputError(f'{labels} has {len(names):,} lines, but the model has {num_classes:,} '
                     'classes')
  return names


def _with_progress(results: Iterable[Any], total: int | None) -> Iterable[Any]:
  """Shows a bar where it is seen and is not in the way of the results themselves."""
  hidden = total == 1 or not sys.stderr.isatty() or sys.stdout.isatty()
  return tqdm.tqdm(results, total=total, unit=' images', disable=hidden)


def as_table(path: str, predictions: list[Prediction]) -> str:
  """The path, and a line of probability, label and name for each prediction."""
  shown = os.fsencode(path).decode(errors='replace')  # not all file names can be printed
  return '\n'.join([shown] + [f'  {p.probability:7.2%}  {p.label:5}  {p.name}'
                              for p in predictions])


def as_json(path: str, predictions: list[Prediction]) -> str:
  """One line: path, and class, name, probability of each prediction."""
  return json.dumps({'path': path, 'predictions': [
      {'class': p.label, 'name': p.name, 'probability': p.probability} for p in predictions]})


if __name__ == '__main__':
  sys.exit(main())
