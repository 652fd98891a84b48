"""Image bytes to the (S, S, 3) uint8 array a model trains or is evaluated on.

Presets: 'inception' (pretraining from scratch, section 4.1 of the ViT paper) and 'bit'
(fine-tuning, section 3 of the BiT paper). Each is a pure function of (bytes, random generator).
Pixels stay uint8 here; the step on the device maps them to [-1, 1].
"""

from collections.abc import Callable
import functools
import math

import cv2
import numpy as np

from vit_jax.data.augment import Augment
from vit_jax.data.decode import Box, decode_crop, decode_image, use_one_opencv_thread
from vit_jax.errors import InputError

Preprocess = Callable[[bytes, np.random.Generator], np.ndarray]

PRESETS = ('inception', 'bit')
_ATTEMPTS = 100


def make_preprocess(
  preset: str,
  *,
  image_size: int,
  train: bool,
  flip: bool = True,
  apply_exif: bool = False,
  resize_size: int | None = None,
  augment: Augment | None = None,
) -> Preprocess:
  """Returns the function that turns (bytes, generator) into (S, S, 3) uint8 RGB, S = image_size.

    'inception' train: a random box (see inception_box) resized to S x S, flip.
    'inception' eval:  short side resized to resize_size (None: S * 256 / 224), centre crop.
    'bit' train:       resized to a square of side resize_size (None: S * 448 / 384), random crop,
                       flip. bit_sizes gives the sizes of the BiT paper.
    'bit' eval:        resized to S x S.

  Args:
    flip: in training, mirror left to right with probability 1/2.
    apply_exif: turn images as their EXIF orientation says.
    augment: in training, what happens to the (S, S, 3) uint8 image after that.

  The function can be pickled and called from many threads at once and raises ValueError for bytes
  that are not a whole image. When not train, it ignores the generator, and also takes an image
  that is decoded already, (H, W, 3) uint8.

  Raises:
    InputError: unknown preset, image_size below 1, or resize_size below image_size.
  """
  if preset not in PRESETS:
    raise InputError(f'unknown preprocessing {preset!r}: choose one of {", ".join(PRESETS)}')
  if image_size < 1:
    raise InputError(f'image_size must be at least 1, got {image_size}')
  if resize_size is None:
    resize_size = round(image_size * (256 / 224 if preset == 'inception' else 448 / 384))
  if resize_size < image_size:
    raise InputError(f'resize_size ({resize_size}) is smaller than image_size ({image_size})')
  if preset == 'inception':
    if train:
      return functools.partial(
        _inception_train, size=image_size, flip=flip, apply_exif=apply_exif, augment=augment
      )
    return functools.partial(
      _inception_eval, size=image_size, resize_size=resize_size, apply_exif=apply_exif
    )
  if train:
    return functools.partial(
      _bit_train,
      size=image_size,
      resize_size=resize_size,
      flip=flip,
      apply_exif=apply_exif,
      augment=augment,
    )
  return functools.partial(_bit_eval, size=image_size, apply_exif=apply_exif)


def bit_sizes(height: int, width: int) -> tuple[int, int]:
  """(resize_size, image_size) of the BiT paper's rule for images of this size in pixels.

  A batch has one size, so a data set follows the rule by the size of its typical image.
  """
  return (160, 128) if height * width < 96 * 96 else (512, 480)


def inception_box(
  height: int,
  width: int,
  rng: np.random.Generator,
  area: tuple[float, float] = (0.05, 1.0),
  aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
  """Draws the random box of Inception training, as published ViT pipelines draw it.

  The aspect (width / height) is uniform in its range; then the box's height is uniform over the
  integers that keep its area in range and its width inside the image. So the area is not uniform:
  its mean is .343 of a large image, not .525. Boxes that rounding has put out of range are drawn
  again; after 100 attempts the box is the whole image.

  Args:
    height, width: of the image in pixels.
    area: smallest and largest area as fractions of the image's.
    aspect: smallest and largest width / height.

  Returns:
    (y, x, box height, box width) in pixels, inside the image.
  """
  smallest, largest = area[0] * height * width, area[1] * height * width
  for _ in range(_ATTEMPTS):
    ratio = rng.uniform(*aspect)
    low = round(math.sqrt(smallest / ratio))
    high = round(math.sqrt(largest / ratio))
    # The tallest box whose rounded width is still inside the image.
    high = min(high, height, math.ceil((width + 0.5) / ratio) - 1)
    h = int(rng.integers(low, high, endpoint=True)) if low < high else high
    w = round(h * ratio)
    if h * w < smallest:  # rounding of the width: one row more or less repairs it
      h += 1
    elif h * w > largest:
      h -= 1
    w = round(h * ratio)
    if 0 < h <= height and 0 < w <= width and smallest <= h * w <= largest:
      # The last offset is never drawn, nor is it by the pipelines this follows.
      return int(rng.integers(max(height - h, 1))), int(rng.integers(max(width - w, 1))), h, w
  return 0, 0, height, width


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Bilinear resize of (H, W, 3) uint8, half-pixel centres, no antialias, rounded to nearest."""
  use_one_opencv_thread()
  # OpenCV interpolates uint8 in 11-bit fixed point (off by up to .8) but uint16 in float32; that
  # is exact to rounding, and faster than converting to float32 and back.
  return cv2.resize(image.astype(np.uint16), (width, height)).astype(np.uint8)


def _inception_train(
  data: bytes,
  rng: np.random.Generator,
  *,
  size: int,
  flip: bool,
  apply_exif: bool,
  augment: Augment | None,
) -> np.ndarray:
  crop = decode_crop(data, lambda h, w: inception_box(h, w, rng), apply_exif=apply_exif)
  return _augmented(resize(crop, size, size), rng, flip, augment)


def _inception_eval(
  data: bytes, rng: np.random.Generator, *, size: int, resize_size: int, apply_exif: bool
) -> np.ndarray:
  del rng
  image = _decoded(data, apply_exif)
  scale = resize_size / min(image.shape[:2])
  height, width = (round(side * scale) for side in image.shape[:2])
  y, x = (height - size) // 2, (width - size) // 2
  # In two steps, the long side first and cut: a panorama's other side would grow without bound.
  use_one_opencv_thread()
  image = image.astype(np.float32)
  if width > height:
    image = cv2.resize(image, (width, image.shape[0]))[:, x : x + size]
    image = cv2.resize(image, (size, height))[y : y + size]
  else:
    image = cv2.resize(image, (image.shape[1], height))[y : y + size]
    image = cv2.resize(image, (width, size))[:, x : x + size]
  return np.rint(image).astype(np.uint8)


def _bit_train(
  data: bytes,
  rng: np.random.Generator,
  *,
  size: int,
  resize_size: int,
  flip: bool,
  apply_exif: bool,
  augment: Augment | None,
) -> np.ndarray:
  image = resize(decode_image(data, apply_exif=apply_exif), resize_size, resize_size)
  y, x = (int(offset) for offset in rng.integers(resize_size - size + 1, size=2))
  return _augmented(np.ascontiguousarray(image[y : y + size, x : x + size]), rng, flip, augment)


def _bit_eval(data: bytes, rng: np.random.Generator, *, size: int, apply_exif: bool) -> np.ndarray:
  del rng
  return resize(_decoded(data, apply_exif), size, size)


def _decoded(data: bytes | np.ndarray, apply_exif: bool) -> np.ndarray:
  return data if isinstance(data, np.ndarray) else decode_image(data, apply_exif=apply_exif)


def _augmented(
  image: np.ndarray, rng: np.random.Generator, flip: bool, augment: Augment | None
) -> np.ndarray:
  if flip and rng.random() < 0.5:
    # cv2.flip: copying a view with a negative stride takes NumPy 20 times as long.
    image = cv2.flip(image, 1)
  return augment(image, rng) if augment else image
