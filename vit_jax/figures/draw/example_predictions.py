"""Draw images with the classes that a model predicts for them."""

from __future__ import annotations

from collections.abc import Sequence
import typing

import numpy as np

from vit_jax.evaluation.confusion_plot import shorten
from vit_jax.figures.draw.canvas import COLORS, count_images, new_figure
from vit_jax.figures.examples import Examples

if typing.TYPE_CHECKING:
  from matplotlib.figure import Figure

_LONGEST_NAME = 22  # characters above an image


def draw_predictions(examples: Examples, names: Sequence[str]) -> Figure:
  """Draw images with the predicted class and its probability, and the label where that is wrong.

  Args:
    examples: the images and predictions.
    names: names of the classes.
  """
  columns = min(4, len(examples.images))
  rows = -(-len(examples.images) // columns)
  figure = new_figure(1.9 * columns, 2.1 * rows + 0.5)
  grid = list(figure.subplots(rows, columns, squeeze=False).flat)
  for axes in grid:
    axes.axis('off')
  correct = examples.correct
  for axes, image, (label, predicted), probability, right in zip(
    grid, examples.images, examples.captions(names), examples.probability, correct
  ):
    axes.imshow(image)
    title = f'{"✓" if right else "✗"} {shorten(predicted, _LONGEST_NAME)} {100 * probability:.0f} %'
    if not right:
      title += f'\nlabel: {shorten(label, _LONGEST_NAME)}'
    axes.set_title(title, fontsize=8, parse_math=False, color=COLORS[0 if right else 1])
  figure.suptitle(
    f'{np.count_nonzero(correct)} of {count_images(len(correct))} correct', fontsize=10
  )
  return figure
