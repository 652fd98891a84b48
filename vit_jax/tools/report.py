"""Writes one HTML page about a training run, which needs no other file and no network.

  python -m vit_jax.tools.report runs/mine

Config, learning curves, final metrics, speed, the figures of vit_jax.tools.figures, images that the
newest checkpoint gets right and wrong, checkpoints. What a run does not have is told on the page.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
import json
import pathlib
import sys
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np

from vit_jax.config.fields import default_config
from vit_jax.config.run import Curve, read_config, read_curves
from vit_jax.errors import InputError, exit_on_error
from vit_jax.evaluation.eval_split import EvalSplit, open_eval_split
from vit_jax.figures import draw
from vit_jax.figures.draw_model import FigureOptions, draw_model
from vit_jax.figures.examples import Examples, Predictor, Sample
from vit_jax.files import local_path, replacing
from vit_jax.inference.load_checkpoint import load_checkpoint
from vit_jax.parallel.mesh import MeshPartitioner
from vit_jax.pretrained.load import Loaded
from vit_jax.report import page, summary

_PICTURE_BYTES = 200_000  # at most, of each of 6: the page stays below 3 MB
_EXAMPLE_SIDE = 160  # pixels at most, of an example
_SHOWN = 12  # examples right, and as many wrong


@exit_on_error
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  args = _parser().parse_args(argv)
  if args.num_images < 1:
    raise InputError(f'--num_images must be at least 1, got {args.num_images}')
  out = local_path(args.out or pathlib.Path(args.workdir, 'report.html'))
  text = make_report(args.workdir, num_images=args.num_images, batch_size=args.batch_size)
  with replacing(out) as path:
    path.write_text(text, encoding='utf-8')
  print(f'wrote {out} ({len(text.encode()) / 1e6:.1f} MB)')
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m vit_jax.tools.report',
    description=__doc__.split('\n')[0],
    formatter_class=argparse.RawDescriptionHelpFormatter,
    epilog="""examples:
  python -m vit_jax.tools.report runs/mine
  python -m vit_jax.tools.report runs/mine --out=mine.html --num_images=1024""",
  )
  add = parser.add_argument
  add('workdir', metavar='WORKDIR', help='of the run, which may still be going on')
  add('--out', metavar='FILE', help='(default: WORKDIR/report.html)')
  add(
    '--num_images',
    type=int,
    default=256,
    metavar='N',
    help='images of the evaluation split, '
    'spread evenly over it, that are predicted and looked at (default: %(default)s)',
  )
  add(
    '--batch_size',
    type=int,
    default=16,
    metavar='N',
    help='images computed at once (default: %(default)s)',
  )
  return parser


class _Model(NamedTuple):
  """The newest checkpoint, and what it says of images of the evaluation split."""

  loaded: Loaded
  images: Sequence[np.ndarray]  # (H, W, 3) uint8 each, as the model sees them
  examples: Examples | InputError  # or why there are none
  names: list[str]  # of the classes
  split: str


def make_report(workdir: str, *, num_images: int = 256, batch_size: int = 16) -> str:
  """The page as HTML.

  Args:
    workdir: of a run.
    num_images: of its evaluation split, to predict and to look at.
    batch_size: images computed at once.
  Raises:
    InputError: there is no run; what else is missing is told on the page.
  """
  directory = local_path(workdir)
  config = read_config(directory)
  curves, saved = _try(lambda: read_curves(directory)), summary.find_checkpoints(directory)
  model = _try(lambda: _open_model(directory, bool(saved), num_images, batch_size))
  parts = [
    (
      'curves',
      'Learning curves',
      lambda: page.drawing(
        _png(draw.draw_curves({directory.name: _there(curves)})), 'learning curves'
      ),
    ),
    ('metrics', 'Final metrics', lambda: _metrics(_there(curves))),
    ('examples', 'Example predictions', lambda: _examples(_there(model))),
    ('figures', 'What the model learned', lambda: _figures(_there(model), batch_size)),
    ('throughput', 'Throughput', lambda: _throughput(_there(curves))),
    ('config', 'Config', lambda: _config(config)),
    ('checkpoints', 'Checkpoints', lambda: _checkpoints(saved)),
  ]
  body = [_head(directory, config, curves, saved)]
  for name, title, make in parts:
    found = _try(make)
    body.append(
      page.section(name, title, page.missing(found) if isinstance(found, InputError) else found)
    )
  return page.page(f'{directory.name}: {config["model"]} on {config["dataset"]}', '\n'.join(body))


def _try(make: Callable[[], Any]) -> Any:
  """What `make` returns, or the InputError that says why there is none."""
  try:
    return make()
  except InputError as e:
    return e


def _there(found: Any) -> Any:
  if isinstance(found, InputError):
    raise found
  return found


def _open_model(workdir: pathlib.Path, is_saved: bool, num_images: int, batch_size: int) -> _Model:
  if not is_saved:
    raise InputError('There is no checkpoint yet: it is made after save_every steps.')
  loaded, run = load_checkpoint(str(workdir))
  try:
    split = open_eval_split(run.config)
    if not loaded.model.num_classes:
      images = list(split.images(num_images, max_bad_records=run.config['max_bad_records']))
      none = InputError('The model has no head: it predicts no classes.')
      return _Model(loaded, images, none, [], split.name)
    examples, names = _predict(loaded, run.config, split, num_images, batch_size)
  except InputError as e:
    return _Model(loaded, [], e, [], '')
  return _Model(loaded, examples.images, examples, names, split.name)


def _predict(
  loaded: Loaded, config: Mapping[str, Any], split: EvalSplit, num_images: int, batch_size: int
) -> tuple[Examples, list[str]]:
  """What the model says of the images, and the names it uses."""
  partitioner = MeshPartitioner(batch_size * jax.device_count())
  sample = Sample(
    split.source,
    split.preprocess,
    count=num_images,
    batch_size=batch_size,
    max_bad_records=config['max_bad_records'],
  )
  predictor = Predictor(loaded.model, sample, partitioner, config['loss'])
  return predictor(partitioner.put(loaded.params)), predictor.names


def _head(
  workdir: pathlib.Path,
  config: Mapping[str, Any],
  curves: Mapping[str, Curve] | InputError,
  saved: Sequence[summary.Saved],
) -> str:
  facts = []
  if not isinstance(curves, InputError):
    newest = {name: value for name, _, value in summary.last_values(curves)}
    for name, what in (
      ('eval/accuracy', 'masked patches' if config.get('pretext') else 'accuracy'),
      ('eval/average_accuracy', 'accuracy of the average'),
    ):
      if name in newest:
        facts.append((f'{what}, evaluation', f'{newest[name]:.2%}'))
    if 'train/loss' in newest:
      facts.append(('loss, training batch', f'{newest["train/loss"]:.4f}'))
    facts.append(('steps', f'{max(int(steps[-1]) for steps, _ in curves.values()):,}'))
    if 'train/images_per_second' in curves:
      rate = np.median(curves['train/images_per_second'][1])
      facts.append(('images per second, median', f'{rate:,.0f}' if rate >= 10 else f'{rate:.2f}'))
  facts.append(('checkpoints', str(len(saved))))
  side = config.get('image_size')
  return (
    f'<header>\n<h1>{page.text(workdir.name)}</h1>\n<p class="soft">'
    f'{page.text(config["model"])} on {page.text(config["dataset"])}'
    f'{f", {side} pixels" if side else ""} &middot; <code>{page.text(workdir)}</code></p>\n'
    f'{page.tiles(facts)}\n</header>'
  )


def _config(config: Mapping[str, Any]) -> str:
  changed = summary.differing(config, default_config())
  fields = {field for field, _, _ in changed}
  rest = [(f, _value(config[f])) for f in default_config() if f in config and f not in fields]
  return (
    '<p class="soft">What differs from the defaults of vit_jax/config/fields.py.</p>\n'
    + page.table(
      ['field', 'value', 'default'],
      [(f, _value(a), _value(b)) for f, a, b in changed],
      code=(0, 1, 2),
    )
    + page.folded(
      f'The other {len(rest)} fields, as by default',
      page.table(['field', 'value'], rest, code=(0, 1)),
    )
  )


def _value(value):
  return value if value == 'no field of this version' else json.dumps(value)


def _metrics(curves: Mapping[str, Curve]) -> str:
  rows = [
    (name, _number(name, value), f'{step:,}') for name, step, value in summary.last_values(curves)
  ]
  return page.table(['metric', 'value', 'step'], rows, numbers=(1, 2), code=(0,))


def _number(name: str, value: float) -> str:
  if 'accuracy' in name or 'shot' in name:
    return f'{value:.2%}'
  return f'{value:,.0f}' if value == round(value) and abs(value) >= 1 else f'{value:.4g}'


def _throughput(curves: Mapping[str, Curve]) -> str:
  rows = summary.speeds(curves)
  if not rows:
    raise InputError('metrics.jsonl has no speeds: the run has not reached its first log_every.')
  note = (
    ''
    if 'train/mfu' in curves
    else '<p class="soft">No MFU: the peak of this device is not known, or not all parameters '
    'were trained.</p>'
  )
  return page.table(['', 'median', 'newest'], rows, numbers=(1, 2)) + note


def _figures(model: _Model, batch_size: int) -> str:
  """Those of vit_jax.tools.figures, of images of the evaluation split where there are any."""
  images, note = model.images, ''
  if len(images):
    note = f'<p class="soft">Attention over {len(images):,} images of {page.text(model.split)}.</p>'
  shown, words = [], []
  options = FigureOptions(num_images=len(images), batch_size=batch_size)
  each = draw_model(model.loaded.model, model.loaded.params, images, options)
  for name, found in each:
    if isinstance(found, InputError):
      words.append(page.missing(f'Not drawn: {name}. {found}'))
    else:
      shown.append(page.drawing(_png(found), name.replace('_', ' ')))
  return note + ''.join(shown + words)


def _examples(model: _Model) -> str:
  examples = _there(model.examples)
  correct = examples.correct
  surest = np.argsort(-examples.probability, kind='stable')
  wrong, right = surest[~correct[surest]], np.flatnonzero(correct)
  right = right[np.linspace(0, len(right) - 1, min(_SHOWN, len(right))).round().astype(int)]
  head = (
    f'<p>{np.count_nonzero(correct):,} of {len(correct):,} images of '
    f'{page.text(model.split)}, spread evenly over it, are right.</p>'
  )
  return (
    head
    + '<h3>Wrong, the surest first</h3>'
    + (
      _grid(examples.take(wrong[:_SHOWN]), model.names)
      if len(wrong)
      else page.missing('None of these images is taken for something else.')
    )
    + '<h3>Right</h3>'
    + (
      _grid(examples.take(right), model.names)
      if len(right)
      else page.missing('None of these images is right.')
    )
  )


def _grid(examples: Examples, names: list[str]) -> str:
  return (
    '<div class="examples">'
    + '\n'.join(
      page.example(_encode(image), image.shape[1], label, predicted, probability, right)
      for image, (label, predicted), probability, right in zip(
        examples.images, examples.captions(names), examples.probability, examples.correct
      )
    )
    + '</div>'
  )


def _encode(image: np.ndarray) -> bytes:
  """A small PNG, or a JPEG of what is larger."""
  scale = _EXAMPLE_SIDE / max(image.shape)
  if scale < 1:
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
  kind = '.png' if max(image.shape) < 100 else '.jpg'
  return cv2.imencode(kind, image[..., ::-1])[1].tobytes()


def _checkpoints(saved: Sequence[summary.Saved]) -> str:
  if not saved:
    raise InputError('There is no checkpoint yet: it is made after save_every steps.')
  return page.table(
    ['step', 'size', 'saved'],
    [(f'{s.step:,}', f'{s.size / 1e6:,.1f} MB', f'{s.date:%Y-%m-%d %H:%M}') for s in saved],
    numbers=(0, 1),
  )


def _png(figure: Any) -> bytes:
  return draw.png(figure, _PICTURE_BYTES)


if __name__ == '__main__':
  sys.exit(main())
