"""Resize (H, W, 3) uint8 images with the filters of published pipelines.

- 'bilinear': half-pixel centers, no antialiasing, as tf.image.resize does by default.
- 'area': a new pixel is the mean of the area that it covers, as in tf.image.resize with
  method='area'. The published models are evaluated with it after pretraining.
- 'bicubic' and 'bilinear_antialias': Pillow's filters, which are antialiased, as in timm and
  Hugging Face's transformers.

All of them round to the nearest level. The published TensorFlow code cuts the fraction off before
it crops, so its pixels are half a level darker on average.
"""

import cv2
import numpy as np

from vit_jax.data.decode import use_one_opencv_thread

FILTERS = ('bilinear', 'area', 'bicubic', 'bilinear_antialias')
_PILLOW = {'bilinear_antialias': 2, 'bicubic': 3}  # values of PIL.Image.Resampling
_Rectangle = tuple[float, float, float, float]  # left, top, right, bottom in pixels


def resize(image: np.ndarray, height: int, width: int, eval_filter: str = 'bilinear') -> np.ndarray:
  """Resize to (height, width, 3) uint8.

  Args:
    image: (H, W, 3) uint8.
    height: new height in pixels.
    width: new width in pixels.
    eval_filter: one of FILTERS.
  """
  use_one_opencv_thread()
  if eval_filter == 'bilinear':
    # OpenCV interpolates uint8 in 11-bit fixed point (off by up to .8), but uint16 in float32.
    # uint16 is exact up to rounding, and faster than converting to float32 and back.
    return cv2.resize(image.astype(np.uint16), (width, height)).astype(np.uint8)
  if eval_filter in _PILLOW:
    return _pillow_resize(image, height, width, eval_filter)
  if height <= image.shape[0] and width <= image.shape[1]:
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
  new, sides = image, (height, width)
  # An axis that shrinks comes first, so that a panorama does not grow without bound.
  for axis in sorted((0, 1), key=lambda axis: sides[axis] > image.shape[axis]):
    new = _resize_axis(new, axis, sides[axis], 'area')
  return _rounded(new)


def resize_and_crop(
  image: np.ndarray, size: int, resize_size: int, eval_filter: str = 'bilinear'
) -> np.ndarray:
  """Resize the short side to resize_size, and return the center of size x size pixels.

  The long side is rounded to the nearest pixel. With Pillow's filters it is rounded down, as in
  torchvision, which timm and Hugging Face use.
  """
  short = min(image.shape[:2])
  if eval_filter in _PILLOW:
    height, width = (int(resize_size * side / short) for side in image.shape[:2])
    return _pillow_crop(image, (height, width), size, eval_filter)
  height, width = (round(side * (resize_size / short)) for side in image.shape[:2])
  if eval_filter == 'area' and height <= image.shape[0] and width <= image.shape[1]:
    return _center(resize(image, height, width, eval_filter), size)
  # Resize the long side first and crop it, so that a panorama does not grow without bound.
  use_one_opencv_thread()
  new = image
  for axis in (1, 0) if width > height else (0, 1):
    side = (height, width)[axis]
    start = (side - size) // 2
    if side > max(image.shape[axis], 8 * size):
      new = _enlarge(new, axis, side, eval_filter, start, start + size)
    else:
      new = _resize_axis(new, axis, side, eval_filter)
      new = new[start : start + size] if axis == 0 else new[:, start : start + size]
  return _rounded(new)


def squash_and_crop(
  image: np.ndarray, size: int, resize_size: int, eval_filter: str = 'bilinear'
) -> np.ndarray:
  """Resize both sides to resize_size, and return the center of size x size pixels."""
  if eval_filter in _PILLOW:
    return _pillow_crop(image, (resize_size, resize_size), size, eval_filter)
  return _center(resize(image, resize_size, resize_size, eval_filter), size)


def _resize_axis(image: np.ndarray, axis: int, size: int, eval_filter: str) -> np.ndarray:
  """Resize one axis of (H, W, 3), bilinearly or by area. Return float32."""
  shape = [*image.shape[:2]]
  shape[axis] = size
  if eval_filter == 'area' and size > image.shape[axis]:
    return _enlarge(image, axis, size, eval_filter, 0, size)
  interpolation = cv2.INTER_AREA if eval_filter == 'area' else cv2.INTER_LINEAR
  return cv2.resize(image.astype(np.float32), (shape[1], shape[0]), interpolation=interpolation)


def _enlarge(
  image: np.ndarray, axis: int, size: int, eval_filter: str, start: int, stop: int
) -> np.ndarray:
  """Enlarge an axis of (H, W, 3) to `size`, and return its pixels from start to stop as float32.

  With 'area', a new pixel covers less than one old pixel, so it lies in one or across the border of
  two. (OpenCV's INTER_AREA only shrinks like TensorFlow's 'area'.)
  """
  old = image.shape[axis]
  if eval_filter == 'area':
    edges = np.arange(start, stop + 1) * (old / size)
    low = edges[:-1].astype(int)
    share = np.clip((edges[1:] - (low + 1)) * (size / old), 0, 1)
  else:
    centers = np.clip((np.arange(start, stop) + 0.5) * (old / size) - 0.5, 0, old - 1)
    low = centers.astype(int)
    share = centers - low
  share = share.astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (-1, 1))
  high = np.minimum(low + 1, old - 1)
  return image.take(low, axis) * (1 - share) + image.take(high, axis) * share


def _center(image: np.ndarray, size: int) -> np.ndarray:
  y, x = ((side - size) // 2 for side in image.shape[:2])
  return np.ascontiguousarray(image[y : y + size, x : x + size])


def _pillow_crop(
  image: np.ndarray, resized: tuple[int, int], size: int, eval_filter: str
) -> np.ndarray:
  """Resize to the height and width `resized`, and return the center of size x size pixels."""
  top, left = (round((side - size) / 2) for side in resized)
  if max(resized) <= 8 * min(resized):
    whole = _pillow_resize(image, *resized, eval_filter)
    return np.ascontiguousarray(whole[top : top + size, left : left + size])
  # A panorama would grow without bound. Pillow can compute only the crop, which gives the same
  # pixels except where it then rounds rows before columns instead of columns before rows.
  y_scale, x_scale = (old / new for old, new in zip(image.shape, resized))
  box = left * x_scale, top * y_scale, (left + size) * x_scale, (top + size) * y_scale
  return _pillow_resize(image, size, size, eval_filter, box)


def _pillow_resize(
  image: np.ndarray, height: int, width: int, eval_filter: str, box: _Rectangle | None = None
) -> np.ndarray:
  from PIL import Image  # it takes a moment, and few commands need it

  resized = Image.fromarray(image).resize((width, height), _PILLOW[eval_filter], box)
  return np.array(resized)


def _rounded(image: np.ndarray) -> np.ndarray:
  return np.rint(image).astype(np.uint8)
