"""RandAugment (arXiv 1909.13719) on uint8 images, as AugReg uses it (arXiv 2106.10270, 3.3).

An image gets a few operations, one after the other, each drawn from the same sixteen. How far each
goes is up to one magnitude, which OPERATIONS turns into angles, factors, thresholds. The scale is
the published one, on which 10 was once the most and 0 does not mean nothing: at 0 Posterize keeps
one bit and Brightness a tenth; from 10 on Solarize does nothing.

Operations do what their names do in Pillow. The published TensorFlow code differs in two: its
Contrast pulls away from the number of pixels / 256 (196 at 224 px), not from the mean grey; its
Solarize has thresholds in uint8, where 256 is 0, so that at magnitudes 10 and 20 it inverts all.
"""

from collections.abc import Callable, Sequence
import functools
import math

import cv2
import numpy as np

from vit_jax.data.decode import use_one_opencv_thread
from vit_jax.errors import InputError

Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]

FILL = 128  # what comes in from outside the image, and under Cutout
_MOST = 30  # of the magnitudes that the paper looks at
_VALUES = np.arange(256)


def rand_augment(
  image: np.ndarray,
  rng: np.random.Generator,
  num_ops: int = 2,
  magnitude: float = 15,
  operations: Sequence[str] | None = None,
) -> np.ndarray:
  """Applies `num_ops` operations, each drawn from all, whatever was drawn before.

  Args:
    image: (H, W, 3) uint8 RGB of any size; it stays as it is.
    magnitude: 0 to 30.
    operations: names from OPERATIONS; None: all.
  Returns:
    (H, W, 3) uint8, a function of the arguments and the state of `rng`.
  Raises:
    InputError: for an unknown operation or numbers out of range.
  """
  names = _checked(num_ops, magnitude, operations)
  use_one_opencv_thread()
  for _ in range(num_ops):
    image = OPERATIONS[names[rng.integers(len(names))]](image, magnitude / 10, rng)
  return image


def make_augment(
  num_ops: int, magnitude: float, operations: Sequence[str] | None = None
) -> Augment | None:
  """Return `rand_augment` with these arguments, or None if num_ops is 0."""
  _checked(num_ops, magnitude, operations)
  if not num_ops:
    return None
  return functools.partial(
    rand_augment, num_ops=num_ops, magnitude=magnitude, operations=operations
  )


def _checked(num_ops, magnitude, operations):
  if num_ops < 0:
    raise InputError(f'the number of RandAugment operations must not be negative, got {num_ops}')
  if not 0 <= magnitude <= _MOST:
    raise InputError(f'the magnitude of RandAugment must be in 0..{_MOST}, got {magnitude}')
  names = tuple(OPERATIONS if operations is None else operations)
  unknown = [name for name in names if name not in OPERATIONS]
  if unknown or not names:
    problem = (
      f'unknown RandAugment operation {unknown[0]!r}'
      if unknown
      else 'RandAugment has no operations to draw from'
    )
    raise InputError(f'{problem}; there are {", ".join(OPERATIONS)}')
  return names


# --- values, each by itself: a table of what 0..255 become


def autocontrast(image: np.ndarray) -> np.ndarray:
  """Stretches each channel to 0..255."""
  tables = []
  for histogram in _histograms(image):
    low, high = np.flatnonzero(histogram)[[0, -1]]
    scale = 255 / max(high - low, 1)
    tables.append(_VALUES * scale - low * scale if low < high else _VALUES)
  return _look_up(image, np.stack(tables, axis=-1).clip(0, 255).astype(np.uint8))


def equalize(image: np.ndarray) -> np.ndarray:
  """Makes the values of each channel about equally frequent, in Pillow's whole numbers."""
  tables = []
  for histogram in _histograms(image):
    below = histogram.cumsum() - histogram
    step = below[np.flatnonzero(histogram)[-1]] // 255
    tables.append((below + step // 2) // step if step else _VALUES)
  return _look_up(image, np.stack(tables, axis=-1).clip(0, 255).astype(np.uint8))


def invert(image: np.ndarray) -> np.ndarray:
  """V -> 255 - v."""
  return cv2.bitwise_not(image)


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
  """Keeps the upper 1..8 bits of every value."""
  return _look_up(image, _VALUES & (256 - 2 ** (8 - bits)))


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
  """Inverts the values from `threshold` on."""
  return _look_up(image, np.where(_VALUES < threshold, _VALUES, 255 - _VALUES))


def solarize_add(image: np.ndarray, addition: int) -> np.ndarray:
  """Adds to the values below 128, up to 255."""
  return _look_up(image, np.where(_VALUES < 128, np.minimum(_VALUES + addition, 255), _VALUES))


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
  """Away from black by `factor`: 0 gives black, 1 the image."""
  return _look_up(image, np.rint(_VALUES * factor).clip(0, 255))


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
  """Away from the image's mean grey by `factor`: 0 gives that grey, 1 the image."""
  mean = round(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0])
  return _look_up(image, np.rint(mean + (_VALUES - mean) * factor).clip(0, 255))


def _look_up(image, table):  # table: (256,) or, one a channel, (256, 3)
  return cv2.LUT(image, table.astype(np.uint8).reshape(1, 256, -1))


def _histograms(image):
  return [
    cv2.calcHist([image], [channel], None, [256], [0, 256]).ravel().astype(np.int64)
    for channel in range(3)
  ]


# --- values beside each other


def color(image: np.ndarray, factor: float) -> np.ndarray:
  """Away from its grey by `factor`: 0 gives the grey image, 1 the image."""
  grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
  return cv2.addWeighted(image, factor, grey, 1 - factor, 0)


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
  """Away from a smoothed image by `factor`: 0 gives that, 1 the image. The border stays."""
  smooth = cv2.filter2D(image, -1, _SMOOTH)
  out = cv2.addWeighted(image, factor, smooth, 1 - factor, 0)
  for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
    out[edge] = image[edge]
  return out


_SMOOTH = np.float32([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13


# --- where values are: the nearest pixel, FILL from outside


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
  """Turns the image about its centre, counter-clockwise."""
  h, w = image.shape[:2]
  y, x = (h - 1) / 2, (w - 1) / 2
  cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
  return _warp(image, [[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]])


def shear_x(image: np.ndarray, slope: float) -> np.ndarray:
  """Moves each row to the left by `slope` times its distance from the first."""
  return _warp(image, [[1, slope, 0], [0, 1, 0]])


def shear_y(image: np.ndarray, slope: float) -> np.ndarray:
  """Moves each column up by `slope` times its distance from the first."""
  return _warp(image, [[1, 0, 0], [slope, 1, 0]])


def translate(image: np.ndarray, x: float, y: float) -> np.ndarray:
  """Moves the image to the left and up by so many pixels."""
  return _warp(image, [[1, 0, x], [0, 1, y]])


def cutout(image: np.ndarray, half: int, rng: np.random.Generator) -> np.ndarray:
  """Fills a square of side 2 * half, its centre anywhere in the image (arXiv 1708.04552)."""
  y, x = (int(rng.integers(side)) for side in image.shape[:2])
  image = image.copy()
  image[max(0, y - half) : y + half, max(0, x - half) : x + half] = FILL
  return image


def _warp(image, matrix):  # matrix: (2, 3), from (x, y, 1) of the result to (x, y) of the image
  return cv2.warpAffine(
    image,
    np.float64(matrix),
    image.shape[1::-1],
    flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
    borderMode=cv2.BORDER_CONSTANT,
    borderValue=(FILL,) * 3,
  )


# --- what a magnitude means; m = magnitude / 10


def _either(value, rng):
  return value if rng.random() < 0.5 else -value


def _pixels(number, image):
  """Pixels of an image of 224 px, where RandAugment counts them, in proportion in other sizes."""
  return number * min(image.shape[:2]) / 224


OPERATIONS: dict[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
  'AutoContrast': lambda image, m, rng: autocontrast(image),
  'Equalize': lambda image, m, rng: equalize(image),
  'Invert': lambda image, m, rng: invert(image),
  'Rotate': lambda image, m, rng: rotate(image, _either(30 * m, rng)),
  'Posterize': lambda image, m, rng: posterize(image, min(max(int(4 * m), 1), 8)),
  'Solarize': lambda image, m, rng: solarize(image, int(256 * m)),
  'SolarizeAdd': lambda image, m, rng: solarize_add(image, int(110 * m)),
  'Color': lambda image, m, rng: color(image, 1.8 * m + 0.1),
  'Contrast': lambda image, m, rng: contrast(image, 1.8 * m + 0.1),
  'Brightness': lambda image, m, rng: brightness(image, 1.8 * m + 0.1),
  'Sharpness': lambda image, m, rng: sharpness(image, 1.8 * m + 0.1),
  'ShearX': lambda image, m, rng: shear_x(image, _either(0.3 * m, rng)),
  'ShearY': lambda image, m, rng: shear_y(image, _either(0.3 * m, rng)),
  'TranslateX': lambda image, m, rng: translate(image, _either(_pixels(100 * m, image), rng), 0),
  'TranslateY': lambda image, m, rng: translate(image, 0, _either(_pixels(100 * m, image), rng)),
  'Cutout': lambda image, m, rng: cutout(image, int(_pixels(40 * m, image)), rng),
}
