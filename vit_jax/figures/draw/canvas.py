"""Create matplotlib figures and write them as PNG files. matplotlib is imported when needed."""

from __future__ import annotations

import io
import os
import typing

from vit_jax.errors import InputError
from vit_jax.files import replacing

if typing.TYPE_CHECKING:
  from matplotlib.figure import Figure

# The colors of Okabe and Ito, which color-blind readers can tell apart.
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')


def new_figure(width: float, height: float) -> Figure:
  """Return an empty figure of this size in inches, but at least wide enough for a title."""
  try:
    from matplotlib.figure import Figure  # unlike pyplot, it does not look for a display
  except ImportError as e:
    raise InputError('Drawing needs matplotlib. Install it with: pip install matplotlib') from e
  return Figure((max(width, 4.0), height), layout='constrained')


def size_in_inches(shape: tuple[int, ...], longest: float) -> tuple[float, float]:
  """Return width and height, in inches, of an array (rows, columns), given its longest side."""
  scale = longest / max(shape)
  return shape[1] * scale, shape[0] * scale


def count_images(n: int) -> str:
  """Return '1 image' or '2 images'."""
  return f'{n:,} image' + 's' * (n != 1)


def save(figure: Figure, path: str | os.PathLike, most_bytes: int = 300_000) -> None:
  """Write a figure as a PNG file, atomically.

  Args:
    figure: the figure.
    path: path of the file.
    most_bytes: maximum size; see `png`.

  Raises:
    InputError: the file cannot be written.
  """
  with replacing(path) as temporary:
    temporary.write_bytes(png(figure, most_bytes))


def png(figure: Figure, most_bytes: int = 300_000) -> bytes:
  """Return the figure as a PNG, at a lower resolution if it would exceed `most_bytes`."""
  buffer = io.BytesIO()
  for dpi in (110, 90, 75, 60, 45, 35, 25):
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=dpi)
    if buffer.tell() < most_bytes:
      break
  return buffer.getvalue()
