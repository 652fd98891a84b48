"""Preprocess encoded images into (H, W, 3) uint8 pixels for training and evaluation.

An image is decoded (`decode`), cropped and resized. In training it is also flipped and augmented
(`augment`). Pixels stay uint8. The step maps them to [-1, 1] on the device.

There are two presets: 'inception' for pretraining from scratch (section 4.1 of the ViT paper) and
'bit' for fine-tuning (section 3 of the BiT paper). Evaluation has a third one, 'squash', for
few-shot evaluation and for models of timm.

Training resizes bilinearly without antialiasing, as the published pipelines do. Evaluation has a
choice of filters (`resize`).
"""

from collections.abc import Callable, Sequence
import functools
import math
from typing import Protocol

import cv2
import numpy as np

from vit_jax.data.augment import Augment
from vit_jax.data.decode import Box, decode_crop, decode_image
from vit_jax.data.resample import FILTERS, resize, resize_and_crop, squash_and_crop
from vit_jax.errors import InputError, unknown
from vit_jax.models.usage import DEFAULT_FILTERS

Preprocess = Callable[[bytes, np.random.Generator], np.ndarray]


class EvalPreprocess(Protocol):
  """Preprocessing for evaluation: a `Preprocess` that needs no randomness.

  It takes an encoded image, or an image that is already decoded, (height, width, 3) uint8.
  """

  def __call__(
    self, data: bytes | np.ndarray, rng: np.random.Generator | None = None, /
  ) -> np.ndarray:
    """Return (H, W, 3) uint8."""
    ...


PRESETS = ('inception', 'bit')
EVAL_PRESETS = tuple(DEFAULT_FILTERS)
# Default of resize_size / image_size.
_RESIZE_RATIO = {'inception': 256 / 224, 'bit': 448 / 384, 'squash': 256 / 224}
_ATTEMPTS = 100


def make_train_preprocess(
  preset: str,
  image_size: int,
  *,
  resize_size: int | None = None,
  flip: bool = True,
  apply_exif: bool = False,
  fast_dct: bool = False,
  augment: Augment | None = None,
) -> Preprocess:
  """Return the function (encoded image, generator) -> (S, S, 3) uint8 RGB for training.

  'inception' crops a random box (see `inception_box`) and resizes it to S x S.
  'bit' resizes the image to a square of side resize_size, and crops S x S at random.

  The function can be pickled and called from many threads. It raises ValueError for bytes that are
  not a whole image.

  Args:
    preset: 'inception' or 'bit'.
    image_size: S.
    resize_size: only for 'bit'. Defaults to S * 448 / 384. `bit_sizes` has the BiT paper's rule.
    flip: mirror the image left to right with probability 1/2.
    apply_exif: rotate images as their EXIF orientation says.
    fast_dct: decode JPEGs with the fast DCT, see `decode_image`.
    augment: function that is applied to the (S, S, 3) uint8 image at the end.

  Raises:
    InputError: the preset is unknown, image_size is less than 1, or resize_size is less than
      image_size.
  """
  if preset not in PRESETS:
    raise unknown('preset', preset, PRESETS)
  resize_size = _check_sizes(preset, image_size, resize_size)
  decode = functools.partial(
    decode_crop if preset == 'inception' else decode_image, apply_exif=apply_exif, fast_dct=fast_dct
  )
  if preset == 'inception':
    crop = functools.partial(_inception_crop, size=image_size, decode=decode)
  else:
    crop = functools.partial(_bit_crop, size=image_size, resize_size=resize_size, decode=decode)
  return functools.partial(_train, crop=crop, flip=flip, augment=augment)


def make_eval_preprocess(
  preset: str,
  image_size: int | tuple[int, int],
  *,
  resize_size: int | None = None,
  eval_filter: str | None = None,
  apply_exif: bool = False,
  fast_dct: bool = False,
) -> EvalPreprocess:
  """Return the function image -> (H, W, 3) uint8 RGB for evaluation and prediction.

  'inception' resizes the short side to resize_size, and crops the center.
  'bit' resizes the image to H x W.
  'squash' resizes both sides to resize_size, and crops the center.

  The function can be pickled and called from many threads. It raises ValueError for bytes that are
  not a whole image.

  Args:
    preset: 'inception', 'bit' or 'squash'.
    image_size: (H, W), or the side of a square. 'inception' and 'squash' take squares only.
    resize_size: not for 'bit'. Defaults to image_size * 256 / 224.
    eval_filter: 'bilinear', 'area', 'bicubic' or 'bilinear_antialias', see `vit_jax.data.resample`.
      None: 'area' for 'inception', and 'bilinear' for the others, as in the published code.
    apply_exif: rotate encoded images as their EXIF orientation says.
    fast_dct: decode JPEGs with the fast DCT, see `decode_image`.

  Raises:
    InputError: the preset or the filter is unknown or image_size is less than 1. Except for 'bit',
      also if image_size is not a square or is greater than resize_size.
  """
  if preset not in EVAL_PRESETS:
    raise unknown('preset', preset, EVAL_PRESETS)
  eval_filter = DEFAULT_FILTERS[preset] if eval_filter is None else eval_filter
  if eval_filter not in FILTERS:
    raise unknown('filter', eval_filter, FILTERS)
  decode = functools.partial(decode_image, apply_exif=apply_exif, fast_dct=fast_dct)
  height, width = image_size if isinstance(image_size, Sequence) else (image_size, image_size)
  if preset == 'bit':
    _check_sizes(preset, min(height, width), None)
    fit = functools.partial(resize, height=height, width=width, eval_filter=eval_filter)
    return functools.partial(_evaluate, fit=fit, decode=decode)
  resize_size = _check_sizes(preset, height, resize_size)
  if height != width:
    raise InputError(
      f'The preset {preset!r} crops squares, but the images of the model are {height}x{width} '
      "pixels. Use the preset 'bit'."
    )
  fit = resize_and_crop if preset == 'inception' else squash_and_crop
  fit = functools.partial(fit, size=height, resize_size=resize_size, eval_filter=eval_filter)
  return functools.partial(_evaluate, fit=fit, decode=decode)


def _check_sizes(preset: str, image_size: int, resize_size: int | None) -> int:
  """Return resize_size or its default. Raise InputError if the arguments do not fit."""
  if image_size < 1:
    raise InputError(f'image_size must be at least 1, but it is {image_size}.')
  if resize_size is None:
    return round(image_size * _RESIZE_RATIO[preset])
  if resize_size < image_size:
    raise InputError(
      f'resize_size ({resize_size}) is smaller than image_size ({image_size}). Images are resized '
      'before they are cropped, so it must be at least as large.'
    )
  return resize_size


def bit_sizes(height: int, width: int) -> tuple[int, int]:
  """Return (resize_size, image_size) by the BiT paper's rule, for images of this size in pixels.

  All images of a batch have one size, so pass the size of a typical image of the dataset.
  """
  return (160, 128) if height * width < 96 * 96 else (512, 480)


def inception_box(
  height: int,
  width: int,
  rng: np.random.Generator,
  area: tuple[float, float] = (0.05, 1.0),
  aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
  """Draw the random box of Inception training, as published ViT pipelines draw it.

  The aspect (width / height) is uniform in its range. Then the box's height is uniform over the
  integers that keep its area in range and its width inside the image. So the area is not uniform:
  its mean is .343 of a large image, not .525. If rounding puts a box out of range, another one is
  drawn. After 100 attempts the box is the whole image.

  Args:
    height: height of the image in pixels.
    width: width of the image in pixels.
    rng: the source of randomness.
    area: smallest and largest area, as fractions of the image's area.
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
    if h * w < smallest:  # The width was rounded. One row more or less makes up for it.
      h += 1
    elif h * w > largest:
      h -= 1
    w = round(h * ratio)
    if 0 < h <= height and 0 < w <= width and smallest <= h * w <= largest:
      # The last offset is never drawn. The published pipelines do not draw it either.
      return int(rng.integers(max(height - h, 1))), int(rng.integers(max(width - w, 1))), h, w
  return 0, 0, height, width


def _train(
  data: bytes, rng: np.random.Generator, *, crop: Preprocess, flip: bool, augment: Augment | None
) -> np.ndarray:
  image = crop(data, rng)
  if flip and rng.random() < 0.5:
    # NumPy takes 20 times as long to copy a view with a negative stride.
    image = cv2.flip(image, 1)
  return augment(image, rng) if augment else image


def _inception_crop(
  data: bytes, rng: np.random.Generator, *, size: int, decode: Callable[..., np.ndarray]
) -> np.ndarray:
  return resize(decode(data, lambda h, w: inception_box(h, w, rng)), size, size)


def _bit_crop(
  data: bytes,
  rng: np.random.Generator,
  *,
  size: int,
  resize_size: int,
  decode: Callable[[bytes], np.ndarray],
) -> np.ndarray:
  image = resize(decode(data), resize_size, resize_size)
  y, x = (int(offset) for offset in rng.integers(resize_size - size + 1, size=2))
  return np.ascontiguousarray(image[y : y + size, x : x + size])


def _evaluate(
  data: bytes | np.ndarray,
  rng: np.random.Generator | None = None,
  /,
  *,
  fit: Callable[[np.ndarray], np.ndarray],
  decode: Callable[[bytes], np.ndarray],
) -> np.ndarray:
  del rng  # nothing is random
  return fit(data if isinstance(data, np.ndarray) else decode(data))
