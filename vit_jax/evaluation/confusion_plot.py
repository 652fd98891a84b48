"""Draw which classes a model confuses."""

from __future__ import annotations

import pathlib

import numpy as np

from vit_jax.evaluation import scores
from vit_jax.files import printable

_ALL_UP_TO = 30  # classes that fit into the picture
_DRAWN_OF_MORE = 20  # classes drawn if there are more than that
_LONGEST_NAME = 24  # characters beside the picture


def draw_confusions(
  path: pathlib.Path, labels: np.ndarray, predictions: np.ndarray, *, names: list[str], title: str
) -> None:
  """Write a PNG that shows, for each class (row), the predictions for its images (columns).

  Cells hold the percentage of the images of the row. If there are more than 30 classes, only the 20
  with the most errors are drawn.

  Args:
    path: file to write.
    labels: (N,) int.
    predictions: (N,) int.
    names: names of all classes of the dataset.
    title: shown above the picture.
  """
  classes = np.arange(len(names))
  if len(names) > _ALL_UP_TO:
    pairs = scores.confusions(labels, predictions)
    classes = scores.most_confused(pairs, len(names), _DRAWN_OF_MORE)
    title += f'\nthe {len(classes)} of {len(names):,} classes with the most errors'
  counts = scores.confusion_matrix(labels, predictions, classes)
  title = '\n'.join(map(printable, title.split('\n')))
  _draw(path, counts, [shorten(names[i], _LONGEST_NAME) for i in classes], title)


def shorten(name: str, length: int) -> str:
  """Return a name that can be drawn, cut to at most `length` characters."""
  name = printable(name)
  return name if len(name) <= length else name[: length - 1] + '…'


def _draw(path: pathlib.Path, counts: np.ndarray, names: list[str], title: str) -> None:
  """Draw a heat map of counts (n, n + 1), each row as shares. The last column is '(others)'."""
  from matplotlib.colors import PowerNorm
  from matplotlib.figure import Figure  # pyplot would look for a display

  shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
  columns = [*names, '(others)']
  if not counts[:, -1].any():
    shares, columns = shares[:, :-1], names
  side = 3 + 0.38 * max(len(columns), 8)  # inches
  figure = Figure((side + 1, side), dpi=110, layout='constrained')
  axes = figure.add_subplot()
  # The scale is not linear: most predictions are correct, and a few percent of errors must show.
  image = axes.imshow(shares, cmap='Blues', norm=PowerNorm(0.5, 0, 1))
  axes.set_xticks(range(len(columns)), columns, rotation=90, parse_math=False)
  axes.set_yticks(range(len(names)), names, parse_math=False)
  axes.set_xlabel('predicted')
  axes.set_ylabel('label')
  axes.set_title(title, parse_math=False)
  for (row, column), share in np.ndenumerate(shares):
    if share >= 0.005:
      color = 'white' if share > 0.4 else 'black'
      percent = f'{100 * share:.0f}'
      axes.text(column, row, percent, color=color, fontsize=8, ha='center', va='center')
  label = "share of the label's images"
  figure.colorbar(image, label=label, format=lambda x, _: f'{x:.0%}', shrink=0.8)
  figure.savefig(path, format='png')
