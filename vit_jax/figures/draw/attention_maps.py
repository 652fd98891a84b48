"""Draw attention: mean distances of heads, rollout over images, maps of single heads."""

from __future__ import annotations

import typing

import cv2
import numpy as np

from vit_jax.figures.draw.canvas import COLORS, count_images, new_figure, size_in_inches

if typing.TYPE_CHECKING:
  import jax
  from matplotlib.figure import Figure

_OPACITY = 0.6  # of the map in an overlay
# Quantile drawn in yellow. A single patch may have a hundred times the weight of all others.
_YELLOW = 0.98


def draw_attention_distance(
  distance: np.ndarray,
  uniform: float,
  image_size: tuple[int, int],
  num_images: int,
  axial: bool = False,
) -> Figure:
  """Draw the mean attention distance of every head against depth (paper figure 7, right).

  Args:
    distance: (A, H), mean over the images, in pixels.
    uniform: `uniform_distance`, drawn as a line for comparison.
    image_size: height and width in pixels.
    num_images: number of images that the mean was taken over.
    axial: True if attention alternates between rows and columns.
  """
  depth, heads = distance.shape
  figure = new_figure(6, 4)
  axes = figure.add_subplot()
  axes.axhline(uniform, color='black', linestyle='--', linewidth=1, label='uniform attention')
  kinds = {'head': slice(None)}
  if axial:
    kinds = {'head, along rows': slice(0, None, 2), 'head, along columns': slice(1, None, 2)}
  for (label, layers), color, marker in zip(kinds.items(), COLORS, 'os'):
    axes.plot(
      np.repeat(np.arange(depth)[layers], heads),
      distance[layers].ravel(),
      marker,
      color=color,
      markersize=5,
      alpha=0.7,
      markeredgewidth=0,
      label=label,
    )
  axes.set_xticks(np.arange(0, depth, -(-depth // 16)))
  axes.set_ylim(0, 1.1 * max(distance.max(), uniform))
  unit = 'attention layer' if axial else 'block'
  axes.set(xlabel=f'{unit} (0 is the first)', ylabel='mean attention distance (pixels)')
  axes.set_title(
    f'Attention distance of {heads} heads\n'
    f'mean over {count_images(num_images)} of {image_size[0]}x{image_size[1]} pixels',
    fontsize=10,
  )
  axes.grid(alpha=0.3)
  figure.legend(loc='outside lower center', ncols=3, fontsize=8, frameon=False)
  return figure


def overlay(image: np.ndarray, attention: np.ndarray | jax.Array) -> np.ndarray:
  """Draw a map in color over the image in gray.

  Dark blue is the smallest value of the map. Yellow is its 98 % quantile and everything above.

  Args:
    image: (H, W, 3) uint8.
    attention: (h, w).

  Returns:
    (H, W, 3) uint8.
  """
  from matplotlib import colormaps

  attention = np.asarray(attention)  # OpenCV does not accept arrays of JAX
  low, high = attention.min(), np.quantile(attention, _YELLOW)
  share = ((attention - low) / (high - low)).clip(0, 1) if high > low else np.ones_like(attention)
  share = cv2.resize(share.astype(np.float32), image.shape[1::-1])
  colors = colormaps['viridis'](share)[..., :3] * 255
  gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
  return (_OPACITY * colors + (1 - _OPACITY) * gray).round().astype(np.uint8)


def draw_rollout(
  images: np.ndarray, attention: np.ndarray | jax.Array, heads: str = 'mean'
) -> Figure:
  """Draw each image beside its attention rollout (paper figure 6).

  Args:
    images: (B, H, W, 3) uint8.
    attention: (B, h, w), the rollout of each image.
    heads: how the heads were combined, for the title.
  """
  pairs = min(2, len(images))  # in a row
  rows = -(-len(images) // pairs)
  width, height = size_in_inches(images.shape[1:3], 2.2)
  figure = new_figure(2 * pairs * width + 0.4, rows * (height + 0.45) + 0.6)
  grid = figure.subplots(rows, 2 * pairs, squeeze=False).flat
  for axes in grid:
    axes.axis('off')
  for i, (image, weights) in enumerate(zip(images, attention)):
    original, colored = grid[2 * i], grid[2 * i + 1]
    original.imshow(image)
    original.set_title('input image', fontsize=8)
    colored.imshow(overlay(image, weights))
    low, high, most = np.quantile(weights, [0, _YELLOW, 1]) / weights.mean()
    colored.set_title(
      f'blue {low:.2f}, yellow {high:.2f} x mean\nmaximum {most:.2f} x mean', fontsize=8
    )
  figure.suptitle(
    f'Attention rollout, {heads} over heads:\nhow much each patch contributes to the output',
    fontsize=10,
  )
  return figure


def draw_attention_maps(image: np.ndarray, maps: np.ndarray | jax.Array, layer: str) -> Figure:
  """Draw an image and the attention map of every head, each scaled to its largest weight.

  Args:
    image: (H, W, 3) uint8.
    maps: (heads, h, w).
    layer: name of the layer, for the title, such as 'block 11, from the class token'.
  """
  rows = -(-(len(maps) + 1) // 7)
  columns = -(-(len(maps) + 1) // rows)
  width, height = size_in_inches(image.shape[:2], 1.6)
  figure = new_figure(columns * width + 0.9, rows * (height + 0.25) + 0.5)
  grid = figure.subplots(rows, columns, squeeze=False)
  for axes in grid.flat:
    axes.axis('off')
  grid.flat[0].imshow(image)
  grid.flat[0].set_title('input image', fontsize=8)
  shown = []
  for head, (axes, weights) in enumerate(zip(grid.flat[1:], maps)):
    largest = weights.max()
    scaled = weights / max(largest, np.finfo(np.float32).tiny)
    shown.append(axes.imshow(scaled, cmap='viridis', vmin=0, vmax=1, interpolation='nearest'))
    axes.set_title(f'head {head}: {100 * largest:.1f} %', fontsize=8)
  bar = figure.colorbar(shown[0], ax=grid, shrink=0.8, pad=0.01)
  bar.ax.tick_params(labelsize=8)
  bar.set_label('relative to the largest', fontsize=8)
  figure.suptitle(
    f'Attention of {layer}\npercentages are the largest weight of each head', fontsize=10
  )
  return figure
