"""Turn the results of a run into the sections of the page.

Each function returns the HTML of a section, or raises InputError with the reason that is shown in
its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import pathlib
import typing
from typing import Any

import cv2
import numpy as np

from vit_jax.config.fields import default_config
from vit_jax.config.run import Curve
from vit_jax.errors import InputError
from vit_jax.figures import draw
from vit_jax.figures.draw_model import FigureOptions, draw_model
from vit_jax.figures.examples import Examples
from vit_jax.report import page, summary
from vit_jax.report.newest_model import NewestModel
from vit_jax.report.summary import SavedCheckpoint

if typing.TYPE_CHECKING:
  from matplotlib.figure import Figure

Curves = Mapping[str, Curve]

NO_CHECKPOINT = 'There is no checkpoint yet. The run writes one every save_every steps.'

_FIGURE_BYTES = 200_000  # at most, for each of 6 figures, so that the page stays below 3 MB
_EXAMPLE_SIDE = 160  # pixels at most
_SHOWN = 12  # correct examples, and as many wrong ones


def head(
  workdir: pathlib.Path,
  config: Mapping[str, Any],
  curves: Curves | InputError,
  checkpoints: Sequence[SavedCheckpoint],
) -> str:
  """Return the title of the page and the numbers that readers look for first."""
  facts = [] if isinstance(curves, InputError) else _key_numbers(config, curves)
  facts.append(('checkpoints', str(len(checkpoints))))
  description = describe(config)
  if side := config.get('image_size'):
    description += f', {side} pixels'
  return (
    f'<header>\n<h1>{page.text(workdir.name)}</h1>\n<p class="soft">{page.text(description)}'
    f' &middot; <code>{page.text(workdir)}</code></p>\n{page.tiles(facts)}\n</header>'
  )


def describe(config: Mapping[str, Any]) -> str:
  """Return what the run trains, in words, or that it is unknown because there is no config."""
  return f'{config["model"]} on {config["dataset"]}' if config else 'unknown model'


def _key_numbers(config: Mapping[str, Any], curves: Curves) -> list[tuple[str, str]]:
  newest = {name: value for name, _, value in summary.last_values(curves)}
  accuracy = 'masked patches predicted' if config.get('pretext') else 'evaluation accuracy'
  numbers = []
  if 'eval/accuracy' in newest:
    numbers.append((accuracy, f'{newest["eval/accuracy"]:.2%}'))
  if 'eval/average_accuracy' in newest:
    value = f'{newest["eval/average_accuracy"]:.2%}'
    numbers.append((f'{accuracy}, averaged parameters', value))
  if 'train/loss' in newest:
    numbers.append(('training loss', f'{newest["train/loss"]:.4f}'))
  numbers.append(('steps', f'{max(int(steps[-1]) for steps, _ in curves.values()):,}'))
  if 'train/images_per_second' in curves:
    rate = np.median(curves['train/images_per_second'][1])
    value = f'{rate:,.0f}' if rate >= 10 else f'{rate:.2f}'
    numbers.append(('images per second, median', value))
  return numbers


def learning_curves(name: str, curves: Curves) -> str:
  """Draw the learning curves of the run."""
  return page.drawing(_png(draw.draw_curves({name: curves})), 'learning curves')


def final_metrics(curves: Curves) -> str:
  """Return a table of the newest value of each metric."""
  rows = [
    (name, _format_metric(name, value), f'{step:,}')
    for name, step, value in summary.last_values(curves)
  ]
  return page.table(['metric', 'value', 'step'], rows, numbers=(1, 2), code=(0,))


def _format_metric(name: str, value: float) -> str:
  if 'accuracy' in name or 'shot' in name:
    return f'{value:.2%}'
  return f'{value:,.0f}' if value == round(value) and abs(value) >= 1 else f'{value:.4g}'


def example_predictions(model: NewestModel) -> str:
  """Show the wrong predictions that the model is most confident of, and some correct ones."""
  examples = model.examples
  if isinstance(examples, InputError):
    raise examples
  correct = examples.correct
  most_confident_first = np.argsort(-examples.probability, kind='stable')
  wrong = most_confident_first[~correct[most_confident_first]]
  right = np.flatnonzero(correct)
  right = right[np.linspace(0, len(right) - 1, min(_SHOWN, len(right))).round().astype(int)]
  parts = [
    f'<p>{np.count_nonzero(correct):,} of {len(correct):,} evenly spaced images of '
    f'{page.text(model.split)} are predicted correctly.</p>'
  ]
  for title, rows, none in (
    ('Wrong, most confident first', wrong[:_SHOWN], 'All of these images are predicted correctly.'),
    ('Correct', right, 'None of these images is predicted correctly.'),
  ):
    grid = _grid(examples.take(rows), model.class_names) if len(rows) else page.missing(none)
    parts.append(f'<h3>{title}</h3>{grid}')
  return ''.join(parts)


def _grid(examples: Examples, class_names: Sequence[str]) -> str:
  figures = [
    page.example(_encode(image), image.shape[1], label, predicted, probability, right)
    for image, (label, predicted), probability, right in zip(
      examples.images, examples.captions(class_names), examples.probability, examples.correct
    )
  ]
  return '<div class="examples">' + '\n'.join(figures) + '</div>'


def _encode(image: np.ndarray) -> bytes:
  """Encode an image for the page: a small one as PNG, a larger one as JPEG."""
  scale = _EXAMPLE_SIDE / max(image.shape)
  if scale < 1:
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
  kind = '.png' if max(image.shape) < 100 else '.jpg'
  return cv2.imencode(kind, image[..., ::-1])[1].tobytes()


def model_figures(model: NewestModel, batch_size: int) -> str:
  """Draw the figures of the model, with attention over images of the evaluation split."""
  images, parts, left_out = model.images, [], []
  if images:
    split = page.text(model.split)
    parts.append(f'<p class="soft">Attention over {len(images):,} images of {split}.</p>')
  options = FigureOptions(num_images=len(images), batch_size=batch_size)
  for name, figure in draw_model(model.loaded.model, model.loaded.params, images, options):
    if isinstance(figure, InputError):
      left_out.append(page.missing(f'Not drawn: {name}. {figure}'))
    else:
      parts.append(page.drawing(_png(figure), name.replace('_', ' ')))
  return ''.join(parts + left_out)


def throughput(curves: Curves) -> str:
  """Return a table of the speeds of the run."""
  rows = summary.speeds(curves)
  if not rows:
    raise InputError('metrics.jsonl has no speeds yet. The run records them every log_every steps.')
  note = ''
  if 'train/mfu' not in curves:
    note = (
      '<p class="soft">There is no MFU because the peak FLOP/s of this device is unknown, or '
      'because some parameters are frozen.</p>'
    )
  return page.table(['', 'median', 'newest'], rows, numbers=(1, 2)) + note


def config_table(config: Mapping[str, Any]) -> str:
  """Return a table of the fields that differ from the defaults, with all other fields folded."""
  defaults = default_config().to_dict()
  changed = summary.changed_fields(config, defaults)
  names = {field for field, _, _ in changed}
  others = [(f, _to_json(config[f])) for f in defaults if f in config and f not in names]
  rows = [(field, _to_json(value), _to_json(default)) for field, value, default in changed]
  return (
    '<p class="soft">Fields that differ from the defaults in vit_jax/config/fields.py.</p>\n'
    + page.table(['field', 'value', 'default'], rows, code=(0, 1, 2))
    + page.folded(
      f'The other {len(others)} fields have their defaults',
      page.table(['field', 'value'], others, code=(0, 1)),
    )
  )


def _to_json(value: Any) -> str:
  return value if value == summary.UNKNOWN_FIELD else json.dumps(value)


def checkpoint_table(checkpoints: Sequence[SavedCheckpoint]) -> str:
  """Return a table of the checkpoints on disk."""
  if not checkpoints:
    raise InputError(NO_CHECKPOINT)
  rows = [
    (f'{c.step:,}', f'{c.size / 1e6:,.1f} MB', f'{c.date:%Y-%m-%d %H:%M}') for c in checkpoints
  ]
  return page.table(['step', 'size', 'saved'], rows, numbers=(0, 1))


def _png(figure: Figure) -> bytes:
  return draw.png(figure, _FIGURE_BYTES)
