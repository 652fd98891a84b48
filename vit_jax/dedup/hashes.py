"""Perceptual hashes: 64 bits that change little when an image is resized, recompressed or edited.

The hash is ImageHash's DCT hash (phash). A training image is hashed as it is and with its uniform
borders removed. A test image, of which there are few, is also hashed mirrored and in nine windows,
one of which is close to any crop that removes 5 to 10 % of the image.
"""

from __future__ import annotations

import cv2
import numpy as np

from vit_jax.data.decode import use_one_opencv_thread
from vit_jax.errors import InputError

# Names the algorithm below. Change the number whenever any hash would change.
HASH_VERSION = 'phash64-1'

_SIDE = 128  # larger images are first averaged down to this
_FLAT = 16  # gray levels by which the pixels of a border may differ
_WINDOW = 0.92  # side of a window, as a fraction of the image's
_WINDOW_AT = [(y, x) for y in (0, 0.5, 1) for x in (0, 0.5, 1)]


def train_hashes(image: np.ndarray) -> np.ndarray:
  """Return the hashes of a training image: as it is, and without its borders if it has any.

  Args:
    image: (H, W, 3) uint8 RGB.

  Returns:
    (1 or 2,) uint64.

  Raises:
    InputError: ImageHash is not installed.
  """
  return _pack([_phash(view) for view in _views(image)])


def against_hashes(image: np.ndarray) -> np.ndarray:
  """Return the hashes of a test image's views and of their mirror images: (20 or 22,) uint64.

  The views are those of `train_hashes` and nine windows. Arguments and errors are the same, too.
  """
  views = _views(image)
  height, width = views[0].shape
  h, w = max(round(height * _WINDOW), 1), max(round(width * _WINDOW), 1)
  for at_y, at_x in _WINDOW_AT:
    y, x = round((height - h) * at_y), round((width - w) * at_x)
    views.append(views[0][y : y + h, x : x + w])
  return _pack([_phash(v) for view in views for v in (view, view[:, ::-1])])


def trim_borders(gray: np.ndarray) -> np.ndarray:
  """Remove edges of a single gray level, such as those of a framed or letterboxed image.

  Args:
    gray: (H, W) uint8.

  Returns:
    A view of the image. A pair of opposite edges stays if less than half the side would remain.
  """
  height, width = gray.shape
  top, bottom = _flat_rows(gray), _flat_rows(gray[::-1])
  if 2 * (top + bottom) > height:
    return gray
  gray = gray[top : height - bottom]
  left, right = _flat_rows(gray.T), _flat_rows(gray.T[::-1])
  return gray[:, left : width - right] if 2 * (left + right) <= width else gray


def _flat_rows(gray: np.ndarray) -> int:
  """Count the first rows in which no pixel differs from the first row's mean by more than _FLAT."""
  half = gray[: len(gray) // 2 + 1]
  level = half[0].mean()
  # Most images have no border, which the first row alone shows.
  if max(half[0].max() - level, level - half[0].min()) > _FLAT:
    return 0
  flat = (half.max(axis=1) - level <= _FLAT) & (level - half.min(axis=1) <= _FLAT)
  return len(half) if flat.all() else int(flat.argmin())


def _views(image: np.ndarray) -> list[np.ndarray]:
  """Return the image in gray, and without its borders if it has any, at most _SIDE pixels wide."""
  use_one_opencv_thread()
  gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
  trimmed = trim_borders(gray)
  return [_shrink(view) for view in ([gray] if trimmed.shape == gray.shape else [gray, trimmed])]


def _shrink(gray: np.ndarray) -> np.ndarray:
  """Shrink each side to at most _SIDE pixels. The hash resizes to 32 x 32 anyway."""
  height, width = gray.shape
  size = min(width, _SIDE), min(height, _SIDE)
  return gray if size == (width, height) else cv2.resize(gray, size, interpolation=cv2.INTER_AREA)


def _phash(gray: np.ndarray) -> np.ndarray:
  """Return the hash as (64,) bool."""
  try:
    import imagehash
  except ImportError as e:
    raise InputError(
      "Hashing images needs ImageHash. Install it with: pip install 'vit_jax[dedup]'"
    ) from e
  from PIL import Image

  return imagehash.phash(Image.fromarray(np.ascontiguousarray(gray))).hash.ravel()


def _pack(hashes: list[np.ndarray]) -> np.ndarray:
  """Pack arrays of 64 bits, the most significant first, into (N,) uint64."""
  return np.packbits(hashes, axis=1).view('>u8')[:, 0].astype(np.uint64)
