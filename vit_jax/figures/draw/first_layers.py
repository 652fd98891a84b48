"""Draw the filters of the first layer and the similarity of position embeddings (figure 7)."""

from __future__ import annotations

import typing

import numpy as np

from vit_jax.figures.draw.canvas import new_figure, size_in_inches
from vit_jax.figures.weights import Filters

if typing.TYPE_CHECKING:
  from matplotlib.figure import Figure

_MAX_CELLS = 210  # along a side of the grid of maps: room for 14 x 14 maps, as of ViT-B/16


def draw_filters(filters: Filters, layer: str = 'patch embedding') -> Figure:
  """Draw components (n, P, P, 3) as colors. Gray is 0, and each component has its own scale."""
  n, columns = len(filters.components), min(7, len(filters.components))
  rows = -(-n // columns)
  figure = new_figure(1.1 * columns + 0.3, 1.3 * rows + 0.8)
  for i, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
    axes.axis('off')
    if i < n:
      component = filters.components[i]
      axes.imshow(0.5 + component / (2 * np.abs(component).max()), interpolation='nearest')
      axes.set_title(f'{i + 1}:  {100 * filters.variance[i]:.1f} %', fontsize=8, pad=3)
  size = filters.components.shape[1]
  figure.suptitle(
    f'First {n} principal components of the {layer}\n'
    f'{size}x{size} pixels each, with the variance explained',
    fontsize=10,
  )
  return figure


def draw_position_similarity(similarity: np.ndarray) -> Figure:
  """Draw a grid of maps from `position_similarity`, (h, w, h, w).

  A grid larger than 14 x 14 is sampled: the figure shows evenly spaced rows and columns of maps,
  and every map is complete.
  """
  h, w = similarity.shape[:2]
  gap = 1 + max(h, w) // 16
  height, width = h + gap, w + gap
  rows, columns = _evenly_spaced(h, _MAX_CELLS // height), _evenly_spaced(w, _MAX_CELLS // width)
  canvas = np.full((len(rows) * height - gap, len(columns) * width - gap), np.nan)
  for r, i in enumerate(rows):
    for c, j in enumerate(columns):
      canvas[r * height : r * height + h, c * width : c * width + w] = similarity[i, j]
  inches = size_in_inches(canvas.shape, 5.5)
  figure = new_figure(inches[0] + 1.5, inches[1] + 1.2)
  axes = figure.add_subplot()
  image = axes.imshow(canvas, interpolation='nearest', cmap='viridis', vmax=1)
  axes.set_yticks(np.arange(len(rows)) * height + (h - 1) / 2, rows + 1)
  axes.set_xticks(np.arange(len(columns)) * width + (w - 1) / 2, columns + 1)
  axes.tick_params(length=0, labelsize=8)
  axes.spines[:].set_visible(False)
  axes.set(xlabel='patch column', ylabel='patch row')
  axes.set_title(
    f'Similarity of position embeddings:\neach map compares one patch with all {h}x{w}', fontsize=10
  )
  figure.colorbar(image, label='cosine similarity', shrink=0.8)
  return figure


def _evenly_spaced(n: int, most: int) -> np.ndarray:
  """Return up to `most` (at least two) of the indices 0 to n - 1, evenly spaced."""
  return np.linspace(0, n - 1, min(n, max(2, most))).round().astype(int)
