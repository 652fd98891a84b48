"""A contact sheet: pairs of images side by side, from the most alike to the least."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

_SIDE, _GAP, _TEXT = 128, 12, 15  # pixels: of an image, between pairs, of a line of text
_COLUMNS = 4
_LETTERS = 40  # below a pair


def choose_pairs(distances: Sequence[int], count: int) -> list[int]:
  """Returns which of the pairs to show, closest first: of each distance as many as may be.

  Args:
    distances: of all pairs.
    count: how many pairs to show at most. A distance with few pairs leaves its share to the
      others; of one with more than its share, some are taken at even steps.
  """
  groups = [np.flatnonzero(np.asarray(distances) == d) for d in np.unique(distances)]
  share, shares = count, {}
  for left, i in zip(
    range(len(groups), 0, -1), sorted(range(len(groups)), key=lambda i: len(groups[i]))
  ):
    shares[i] = min(len(groups[i]), -(-share // left))
    share -= shares[i]
  return [
    int(groups[i][j])
    for i in range(len(groups))
    for j in np.linspace(0, len(groups[i]) - 1, shares[i]).astype(int)
  ]


def draw_sheet(
  pairs: Sequence[tuple[np.ndarray, np.ndarray, Sequence[str]]], title: str
) -> np.ndarray:
  """Draws pairs of images, four a row, with their lines of text below: (H, W, 3) uint8 RGB.

  Args:
    pairs: (training image, test image, lines); images are (h, w, 3) uint8 RGB of any size.
    title: of the sheet.
  """
  lines = max((len(text) for _, _, text in pairs), default=0)
  width, height = 2 * _SIDE + 2 + _GAP, _SIDE + _TEXT * lines + _GAP
  rows = -(-len(pairs) // _COLUMNS)
  top = _GAP + _TEXT + _GAP
  sheet = np.full((top + rows * height, _GAP + _COLUMNS * width, 3), 255, np.uint8)
  _write(sheet, title, _GAP, _GAP + _TEXT - 4)
  for i, (left, right, text) in enumerate(pairs):
    y, x = top + i // _COLUMNS * height, _GAP + i % _COLUMNS * width
    for image, at in ((left, x), (right, x + _SIDE + 2)):
      sheet[y : y + _SIDE, at : at + _SIDE] = _fit(image)
    for number, line in enumerate(text):
      _write(sheet, line, x, y + _SIDE + _TEXT * (number + 1) - 3, _LETTERS)
  return sheet


def _fit(image: np.ndarray) -> np.ndarray:
  """The whole image on a grey square, small ones in visible pixels."""
  height, width = image.shape[:2]
  scale = _SIDE / max(height, width)
  size = max(round(width * scale), 1), max(round(height * scale), 1)
  image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
  square = np.full((_SIDE, _SIDE, 3), 224, np.uint8)
  y, x = (_SIDE - size[1]) // 2, (_SIDE - size[0]) // 2
  square[y : y + size[1], x : x + size[0]] = image
  return square


def _write(sheet, text, x, y, most=None):
  """A line of text; of one longer than `most` letters, the end."""
  text = text if most is None or len(text) <= most else '...' + text[3 - most :]
  cv2.putText(sheet, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
