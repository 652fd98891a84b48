"""Draw a contact sheet: pairs of images side by side, the closest pairs first."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from vit_jax.files import printable

_SIDE, _GAP, _LINE = 128, 12, 15  # pixels: side of an image, space between pairs, height of a line
_COLUMNS = 4
_LETTERS = 40  # in a line below a pair


def choose_pairs(distances: Sequence[int] | np.ndarray, count: int) -> list[int]:
  """Return the indices of the pairs to show, closest first, with every distance represented.

  Args:
    distances: Hamming distances of all pairs.
    count: maximum number of pairs. Each distance gets an equal share of them. A distance that has
      fewer pairs leaves the rest of its share to the others, and one that has more is sampled at
      even steps.
  """
  groups = [np.flatnonzero(np.asarray(distances) == d) for d in np.unique(distances)]
  smallest_first = sorted(range(len(groups)), key=lambda i: len(groups[i]))
  remaining, shares = count, {}
  for groups_left, i in zip(range(len(groups), 0, -1), smallest_first):
    shares[i] = min(len(groups[i]), -(-remaining // groups_left))
    remaining -= shares[i]
  return [
    int(groups[i][j])
    for i in range(len(groups))
    for j in np.linspace(0, len(groups[i]) - 1, shares[i]).astype(int)
  ]


def draw_sheet(
  pairs: Sequence[tuple[np.ndarray, np.ndarray, Sequence[str]]], title: str
) -> np.ndarray:
  """Draw pairs of images, four in a row, with text below each: (H, W, 3) uint8 RGB.

  Args:
    pairs: (training image, test image, lines of text). Images are (h, w, 3) uint8 RGB of any size.
    title: title of the sheet.
  """
  lines = max((len(text) for _, _, text in pairs), default=0)
  width, height = 2 * _SIDE + 2 + _GAP, _SIDE + _LINE * lines + _GAP
  rows = -(-len(pairs) // _COLUMNS)
  top = _GAP + _LINE + _GAP
  sheet = np.full((top + rows * height, _GAP + _COLUMNS * width, 3), 255, np.uint8)
  _write(sheet, title, _GAP, _GAP + _LINE - 4)
  for i, (left, right, text) in enumerate(pairs):
    y, x = top + i // _COLUMNS * height, _GAP + i % _COLUMNS * width
    for image, x_image in ((left, x), (right, x + _SIDE + 2)):
      sheet[y : y + _SIDE, x_image : x_image + _SIDE] = _fit(image)
    for number, line in enumerate(text):
      _write(sheet, line, x, y + _SIDE + _LINE * (number + 1) - 3, _LETTERS)
  return sheet


def _fit(image: np.ndarray) -> np.ndarray:
  """Return the whole image on a gray square. Small images are enlarged to visible pixels."""
  height, width = image.shape[:2]
  scale = _SIDE / max(height, width)
  size = max(round(width * scale), 1), max(round(height * scale), 1)
  image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
  square = np.full((_SIDE, _SIDE, 3), 224, np.uint8)
  y, x = (_SIDE - size[1]) // 2, (_SIDE - size[0]) // 2
  square[y : y + size[1], x : x + size[0]] = image
  return square


def _write(sheet: np.ndarray, text: str, x: int, y: int, max_letters: int | None = None) -> None:
  """Write a line of text. If it is longer than max_letters, write only its end."""
  text = printable(text)  # OpenCV crashes on bytes that are no character
  if max_letters is not None and len(text) > max_letters:
    text = '...' + text[3 - max_letters :]
  cv2.putText(sheet, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
