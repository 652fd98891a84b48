"""Perceptual hashes of images: 64 bits that hardly change when an image is copied with changes.

ImageHash's DCT hash (phash). An image that training would see is hashed as it is and with its
uniform borders cut off; an image of a test set, of which there are few, also mirrored and cut to
nine windows, one of which is close to any crop of 5 to 10 %.
"""

from __future__ import annotations

import cv2
import numpy as np

from vit_jax.data.decode import use_one_opencv_thread
from vit_jax.errors import InputError

# Names what is computed below: another number when any hash would change.
HASH_VERSION = 'phash64-1'

_SIDE = 128  # larger images are averaged down to this first
_FLAT = 16  # grey levels by which the pixels of a border may differ
_WINDOW = 0.92  # side of the windows, of the image's
_WINDOW_AT = [(y, x) for y in (0, 0.5, 1) for x in (0, 0.5, 1)]


def train_hashes(image: np.ndarray) -> np.ndarray:
  """The hashes of a training image: as it is, and without its borders if it has any.

  Args:
    image: (H, W, 3) uint8 RGB.
  Returns:
    (1 or 2,) uint64.
  Raises:
    InputError: when ImageHash is not installed.
  """
  return _pack([_phash(view) for view in _views(image)])


def against_hashes(image: np.ndarray) -> np.ndarray:
  """The hashes of a test image: (20 or 22,) uint64, of its views and of their mirror images.

  The views are those of `train_hashes` and nine windows. Raises as that does.
  """
  views = _views(image)
  height, width = views[0].shape
  h, w = max(round(height * _WINDOW), 1), max(round(width * _WINDOW), 1)
  for at_y, at_x in _WINDOW_AT:
    y, x = round((height - h) * at_y), round((width - w) * at_x)
    views.append(views[0][y : y + h, x : x + w])
  return _pack([_phash(v) for view in views for v in (view, view[:, ::-1])])


def trim_borders(grey: np.ndarray) -> np.ndarray:
  """Cuts off edges of one grey level, as of framed or letterboxed images.

  Args:
    grey: (H, W) uint8.
  Returns:
    A view of it; all of it when less than half of a side would remain.
  """
  height, width = grey.shape
  top, bottom = _flat_rows(grey), _flat_rows(grey[::-1])
  if 2 * (top + bottom) > height:
    return grey
  grey = grey[top : height - bottom]
  left, right = _flat_rows(grey.T), _flat_rows(grey.T[::-1])
  return grey[:, left : width - right] if 2 * (left + right) <= width else grey


def _flat_rows(grey: np.ndarray) -> int:
  """How many of the first rows differ nowhere from the first one's mean by more than _FLAT."""
  half = grey[: len(grey) // 2 + 1]
  level = half[0].mean()
  # Most images have no border: then the first row says so.
  if max(half[0].max() - level, level - half[0].min()) > _FLAT:
    return 0
  flat = (half.max(axis=1) - level <= _FLAT) & (level - half.min(axis=1) <= _FLAT)
  return len(half) if flat.all() else int(flat.argmin())


def _views(image: np.ndarray) -> list[np.ndarray]:
  """The image in grey, and without its borders if it has any; of _SIDE pixels a side at most."""
  use_one_opencv_thread()
  grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
  trimmed = trim_borders(grey)
  return [_shrink(view) for view in ([grey] if trimmed.shape == grey.shape else [grey, trimmed])]


def _shrink(grey):
  """At most _SIDE pixels a side; the hash looks at 32, whatever the shape."""
  height, width = grey.shape
  size = min(width, _SIDE), min(height, _SIDE)
  return grey if size == (width, height) else cv2.resize(grey, size, interpolation=cv2.INTER_AREA)


def _phash(grey: np.ndarray) -> np.ndarray:
  """(64,) bool."""
  try:
    import imagehash
  except ImportError as e:
    raise InputError("hashing images needs ImageHash: pip install 'vit_jax[dedup]'") from e
  from PIL import Image

  return imagehash.phash(Image.fromarray(np.ascontiguousarray(grey))).hash.ravel()


def _pack(hashes: list[np.ndarray]) -> np.ndarray:
  """Lists of 64 bits, the most significant first, to uint64."""
  return np.packbits(hashes, axis=1).view('>u8')[:, 0].astype(np.uint64)
