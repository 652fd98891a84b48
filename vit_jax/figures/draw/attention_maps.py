"""Pictures of what `vit_jax.figures` computes, as matplotlib figures.

matplotlib is imported when it is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import io
import os
import typing

import cv2
import numpy as np

from vit_jax.config.run import Curve
from vit_jax.errors import InputError
from vit_jax.figures.weights import Filters
from vit_jax.files import replacing

if typing.TYPE_CHECKING:
  from matplotlib.figure import Figure

  from vit_jax.figures.examples import Examples

_MOST_CELLS = 210  # along a side of the grid of grids: room for 14 x 14, ViT-B/16's at 224 pixels
_COLOR_SHARE = 0.6  # of an overlay, the rest is the image
_YELLOW = 0.98  # quantile: one patch may have a hundred times what all others have
# Okabe and Ito's, which the colour-blind tell apart.
_COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
_STYLES = ('-', '--', ':')
_METRICS = {  # what is drawn of a run when nothing else is asked for, and its label
  'train/loss': 'loss, training batch',
  'train/accuracy': 'accuracy, training batch',
  'eval/loss': 'loss, evaluation',
  'eval/accuracy': 'accuracy, evaluation',
  'train/lr': 'learning rate',
  'train/grad_norm': 'norm of the gradient',
}


def draw_filters(filters: Filters, of: str = 'patch embedding') -> Figure:
  """Components (n, P, P, 3) as colours: grey is 0, and each has its own scale."""
  n, columns = len(filters.components), min(7, len(filters.components))
  rows = -(-n // columns)
  figure = _figure(1.1 * columns + 0.3, 1.3 * rows + 0.8)
  for i, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
    axes.axis('off')
    if i < n:
      component = filters.components[i]
      axes.imshow(0.5 + component / (2 * np.abs(component).max()), interpolation='nearest')
      axes.set_title(f'{i + 1}:  {100 * filters.variance[i]:.1f} %', fontsize=8, pad=3)
  size = filters.components.shape[1]
  figure.suptitle(
    f'{n} leading principal components of the {of}\n'
    f'{size}x{size} pixels each; per cent of the variance',
    fontsize=10,
  )
  return figure


def draw_position_similarity(similarity: np.ndarray) -> Figure:
  """A grid of maps from `position_similarity`, (h, w, h, w).

  Of a grid larger than 14 x 14 some rows and columns of maps, spread evenly, are drawn; each map is
  whole.
  """
  h, w = similarity.shape[:2]
  gap = 1 + max(h, w) // 16
  tall, wide = h + gap, w + gap
  rows, columns = _spread(h, _MOST_CELLS // tall), _spread(w, _MOST_CELLS // wide)
  canvas = np.full((len(rows) * tall - gap, len(columns) * wide - gap), np.nan)
  for r, i in enumerate(rows):
    for c, j in enumerate(columns):
      canvas[r * tall : r * tall + h, c * wide : c * wide + w] = similarity[i, j]
  figure = _figure(*_sides(canvas.shape, 5.5, more=(1.5, 1.2)))
  axes = figure.add_subplot()
  image = axes.imshow(canvas, interpolation='nearest', cmap='viridis', vmax=1)
  axes.set_yticks(np.arange(len(rows)) * tall + (h - 1) / 2, rows + 1)
  axes.set_xticks(np.arange(len(columns)) * wide + (w - 1) / 2, columns + 1)
  axes.tick_params(length=0, labelsize=8)
  axes.spines[:].set_visible(False)
  axes.set(xlabel='column of the patch', ylabel='row of the patch')
  axes.set_title(f'Similarity of position embeddings:\nof each patch with all {h}x{w}', fontsize=10)
  figure.colorbar(image, label='cosine similarity', shrink=0.8)
  return figure


def _spread(n, most):
  return np.linspace(0, n - 1, min(n, max(2, most))).round().astype(int)


def draw_attention_distance(
  distance: np.ndarray,
  uniform: float,
  image_size: tuple[int, int],
  num_images: int,
  axial: bool = False,
) -> Figure:
  """Mean attention distances (A, H) of every head, pixels, against depth.

  Args:
    distance: mean over the images.
    uniform: `uniform_distance`, drawn as a line to compare with.
    image_size: height and width, pixels.
    num_images: over how many images the mean was taken.
    axial: whether attention is along rows and columns by turns.
  """
  depth, heads = distance.shape
  figure = _figure(6, 4)
  axes = figure.add_subplot()
  axes.axhline(
    uniform, color='black', linestyle='--', linewidth=1, label='attention to all patches alike'
  )
  kinds = {'a head, along rows': slice(0, None, 2), 'a head, along columns': slice(1, None, 2)}
  for (label, part), color, marker in zip(
    kinds.items() if axial else [('a head', slice(None))], _COLORS, 'os'
  ):
    y = distance[part]
    axes.plot(
      np.repeat(np.arange(depth)[part], heads),
      y.ravel(),
      marker,
      color=color,
      markersize=5,
      alpha=0.7,
      markeredgewidth=0,
      label=label,
    )
  axes.set_xticks(np.arange(0, depth, -(-depth // 16)))
  axes.set_ylim(0, 1.1 * max(distance.max(), uniform))
  axes.set(
    xlabel='attention layer, in order' if axial else 'block (0 is the first)',
    ylabel='mean attention distance (pixels)',
  )
  axes.set_title(
    f'Attention distance of {heads} heads, images of {image_size[0]}x{image_size[1]} '
    f'pixels\nmean over {_count(num_images, "image")}',
    fontsize=10,
  )
  axes.grid(alpha=0.3)
  figure.legend(loc='outside lower center', ncols=3, fontsize=8, frameon=False)
  return figure


def overlay(image: np.ndarray, attention: np.ndarray) -> np.ndarray:
  """The image (H, W, 3) uint8 in grey, under the colours of a map (h, w); uint8.

  Dark blue is where the map is smallest, yellow from its 98 % quantile on.
  """
  from matplotlib import colormaps

  attention = np.asarray(attention)  # OpenCV takes no arrays of JAX
  low, high = attention.min(), np.quantile(attention, _YELLOW)
  share = ((attention - low) / (high - low)).clip(0, 1) if high > low else np.ones_like(attention)
  share = cv2.resize(share.astype(np.float32), image.shape[1::-1])
  colors = colormaps['viridis'](share)[..., :3] * 255
  grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
  return (_COLOR_SHARE * colors + (1 - _COLOR_SHARE) * grey).round().astype(np.uint8)


def draw_rollout(images: np.ndarray, attention: np.ndarray, heads: str = 'mean') -> Figure:
  """Images (B, H, W, 3) uint8, and beside each itself under its rollout (B, h, w)."""
  pairs = min(2, len(images))  # in a row
  rows = -(-len(images) // pairs)
  wide, tall = _sides(images.shape[1:3], 2.2)
  figure = _figure(2 * pairs * wide + 0.4, rows * (tall + 0.45) + 0.6)
  grid = figure.subplots(rows, 2 * pairs, squeeze=False).flat
  for axes in grid:
    axes.axis('off')
  for i, (image, weights) in enumerate(zip(images, attention)):
    original, shown = grid[2 * i], grid[2 * i + 1]
    original.imshow(image)
    original.set_title('what the model sees', fontsize=8)
    shown.imshow(overlay(image, weights))
    low, high, most = np.quantile(weights, [0, _YELLOW, 1]) / weights.mean()
    shown.set_title(
      f'{low:.2f} (blue) to {high:.2f} (yellow)\nat most {most:.2f} x the mean', fontsize=8
    )
  figure.suptitle(
    f'Attention rollout, {heads} of the heads:\nhow much of the output comes from each patch',
    fontsize=10,
  )
  return figure


def draw_attention_maps(image: np.ndarray, maps: np.ndarray, layer: str) -> Figure:
  """An image (H, W, 3) uint8 and the maps of all heads, (heads, h, w), each in its own scale.

  Args:
    layer: what to call the layer in the title, e.g. 'block 11, from the class token'.
  """
  rows = -(-(len(maps) + 1) // 7)
  columns = -(-(len(maps) + 1) // rows)
  wide, tall = _sides(image.shape[:2], 1.6)
  figure = _figure(columns * wide + 0.9, rows * (tall + 0.25) + 0.5)
  grid = figure.subplots(rows, columns, squeeze=False)
  for axes in grid.flat:
    axes.axis('off')
  grid.flat[0].imshow(image)
  grid.flat[0].set_title('image', fontsize=8)
  for head, (axes, weights) in enumerate(zip(grid.flat[1:], maps)):
    largest = weights.max()
    shown = axes.imshow(
      weights / max(largest, np.finfo(np.float32).tiny),
      cmap='viridis',
      vmin=0,
      vmax=1,
      interpolation='nearest',
    )
    axes.set_title(f'head {head}: {100 * largest:.1f} %', fontsize=8)
  bar = figure.colorbar(shown, ax=grid, shrink=0.8, pad=0.01)
  bar.ax.tick_params(labelsize=8)
  bar.set_label("share of the head's largest", fontsize=8)
  figure.suptitle(
    f'Attention of {layer}, to each patch\nper cent: the largest of the head', fontsize=10
  )
  return figure


def draw_curves(
  runs: Mapping[str, Mapping[str, Curve]], metrics: Sequence[str] | None = None
) -> Figure:
  """Learning curves of several runs, one panel for each metric.

  Args:
    runs: {name: curves, as of `read_curves`}.
    metrics: which to draw; None: losses, accuracies, learning rate and the gradient's norm, as
      far as a run has them.
  Raises:
    InputError: no run has a metric that is asked for.
  """
  have = {name for curves in runs.values() for name in curves}
  if unknown := [name for name in metrics or () if name not in have]:
    raise InputError(f'no run has the metric {unknown[0]!r}; there are {", ".join(sorted(have))}')
  metrics = list(metrics or [name for name in _METRICS if name in have] or sorted(have))
  columns = min(2, len(metrics))
  rows = -(-len(metrics) // columns)
  figure = _figure(4.2 * columns, 2.5 * rows + 0.5 + 0.2 * len(runs))
  panels = figure.subplots(rows, columns, squeeze=False).flat
  for axes in panels[len(metrics) :]:
    axes.axis('off')
  for metric, axes in zip(metrics, panels):
    for i, (name, curves) in enumerate(runs.items()):
      if metric in curves:
        steps, values = curves[metric]
        axes.plot(
          steps,
          values,
          color=_COLORS[i % len(_COLORS)],
          linewidth=1.3,
          linestyle=_STYLES[i // len(_COLORS) % len(_STYLES)],
          marker='o' if len(steps) < 20 else None,
          markersize=3,
        )
    axes.set_xlabel('step', fontsize=8)
    axes.set_title(_METRICS.get(metric, metric), fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
  _legend_of_runs(figure, list(runs))
  return figure


def _legend_of_runs(figure, names):
  from matplotlib.lines import Line2D

  lines = [
    Line2D(
      [], [], color=_COLORS[i % len(_COLORS)], linestyle=_STYLES[i // len(_COLORS) % len(_STYLES)]
    )
    for i in range(len(names))
  ]
  legend = figure.legend(lines, names, loc='outside lower center', fontsize=8, frameon=False)
  for text in legend.get_texts():
    text.set_parse_math(False)


def draw_predictions(examples: Examples, names: Sequence[str]) -> Figure:
  """Images with what they are taken for, how surely, and, where that is wrong, what they are.

  Args:
    names: of the classes.
  """
  columns = min(4, len(examples.images))
  rows = -(-len(examples.images) // columns)
  figure = _figure(1.9 * columns, 2.1 * rows + 0.5)
  grid = list(figure.subplots(rows, columns, squeeze=False).flat)
  for axes in grid:
    axes.axis('off')
  correct = examples.correct
  for axes, image, (label, predicted), probability, right in zip(
    grid, examples.images, examples.captions(names), examples.probability, correct
  ):
    axes.imshow(image)
    text = f'{"✓" if right else "✗"} {_short(predicted)} {100 * probability:.0f} %'
    axes.set_title(
      text if right else f'{text}\nis {_short(label)}',
      fontsize=8,
      parse_math=False,
      color=_COLORS[0] if right else _COLORS[1],
    )
  figure.suptitle(
    f'{np.count_nonzero(correct)} of {_count(len(correct), "image")} right', fontsize=10
  )
  return figure


def _short(name, most=22):
  return name if len(name) <= most else name[: most - 1] + '…'


def save(figure: Figure, path: str | os.PathLike, most_bytes: int = 300_000) -> None:
  """Writes a PNG in one piece, as of `png`; raises InputError when it cannot be written."""
  with replacing(path) as temporary:
    temporary.write_bytes(png(figure, most_bytes))


def png(figure: Figure, most_bytes: int = 300_000) -> bytes:
  """The figure as a PNG, with fewer pixels when it would be larger than `most_bytes`."""
  for dpi in (110, 90, 75, 60, 45, 35, 25):
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=dpi)
    if buffer.tell() < most_bytes:
      break
  return buffer.getvalue()


def _figure(width: float, height: float) -> Figure:
  """An empty figure, inches; titles need some width whatever it shows."""
  try:
    from matplotlib.figure import Figure  # not pyplot, which would look for a display
  except ImportError as e:
    raise InputError('pictures need matplotlib: pip install matplotlib') from e
  return Figure((max(width, 4.0), height), layout='constrained')


def _sides(
  shape: tuple[int, int], longest: float, more: tuple[float, float] = (0, 0)
) -> tuple[float, float]:
  """Width and height, inches, of something of (rows, columns), and `more` of both."""
  scale = longest / max(shape)
  return shape[1] * scale + more[0], shape[0] * scale + more[1]


def _count(n, what):
  return f'{n:,} {what}' + 's' * (n != 1)
