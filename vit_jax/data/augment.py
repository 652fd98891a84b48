"""Augment images by RandAugment (arXiv 1909.13719), as AugReg uses it (arXiv 2106.10270, 3.3).

A few operations are applied to an image, one after the other, each drawn from the same sixteen. One
magnitude controls the strength of all of them: OPERATIONS turns it into angles, factors and
thresholds. The scale is the published one, which originally ended at 10. Magnitude 0 is not the
identity: Posterize then keeps one bit, and Brightness keeps a tenth. From magnitude 10 on, Solarize
does nothing.

The operations give the same results as the Pillow operations of the same names. Two differ from the
published TensorFlow code. Its Contrast starts from the number of pixels / 256 (196 at 224 px)
instead of the mean gray. Its Solarize stores the threshold as uint8, which turns 256 into 0, so at
magnitudes 10 and 20 it inverts everything.
"""

from collections.abc import Callable, Sequence
import functools
import math

import cv2
import numpy as np

from vit_jax.data.decode import use_one_opencv_thread
from vit_jax.errors import InputError, unknown

Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]

FILL = 128  # value of pixels outside the image and of those that Cutout covers
_MAX_MAGNITUDE = 30  # the largest magnitude in the paper
_VALUES = np.arange(256)


def rand_augment(
  image: np.ndarray,
  rng: np.random.Generator,
  num_ops: int = 2,
  magnitude: float = 15,
  operations: Sequence[str] | None = None,
) -> np.ndarray:
  """Apply random operations to an image.

  Args:
    image: (H, W, 3) uint8 RGB of any size. It is not changed.
    rng: the source of randomness.
    num_ops: number of operations, drawn independently.
    magnitude: strength of the operations, 0 to 30.
    operations: names from OPERATIONS to draw from. Defaults to all of them.

  Returns:
    (H, W, 3) uint8, a function of the arguments and the state of `rng`.

  Raises:
    InputError: an operation is unknown, or a number is out of range.
  """
  names = _check_arguments(num_ops, magnitude, operations)
  use_one_opencv_thread()
  for _ in range(num_ops):
    image = OPERATIONS[names[rng.integers(len(names))]](image, magnitude / 10, rng)
  return image


def make_augment(
  num_ops: int, magnitude: float, operations: Sequence[str] | None = None
) -> Augment | None:
  """Return `rand_augment` with these arguments, or None if num_ops is 0."""
  _check_arguments(num_ops, magnitude, operations)
  if not num_ops:
    return None
  return functools.partial(
    rand_augment, num_ops=num_ops, magnitude=magnitude, operations=operations
  )


def _check_arguments(
  num_ops: int, magnitude: float, operations: Sequence[str] | None
) -> tuple[str, ...]:
  """Return the names of the operations to draw from."""
  if num_ops < 0:
    raise InputError(
      f'The number of RandAugment operations must be at least 0, but it is {num_ops}.'
    )
  if not 0 <= magnitude <= _MAX_MAGNITUDE:
    raise InputError(
      f'The magnitude of RandAugment must be from 0 to {_MAX_MAGNITUDE}, but it is {magnitude}.'
    )
  names = tuple(OPERATIONS if operations is None else operations)
  for name in names:
    if name not in OPERATIONS:
      raise unknown('RandAugment operation', name, OPERATIONS)
  if not names:
    raise InputError(
      f'RandAugment has no operations to draw from. Available: {", ".join(OPERATIONS)}.'
    )
  return names


# Operations on single values. A table holds the result for each value from 0 to 255.


def autocontrast(image: np.ndarray) -> np.ndarray:
  """Stretch each channel to 0..255."""
  tables = []
  for histogram in _histograms(image):
    low, high = np.flatnonzero(histogram)[[0, -1]]
    scale = 255 / max(high - low, 1)
    tables.append(_VALUES * scale - low * scale if low < high else _VALUES)
  return _look_up(image, np.stack(tables, axis=-1).clip(0, 255).astype(np.uint8))


def equalize(image: np.ndarray) -> np.ndarray:
  """Make the values of each channel about equally frequent, with Pillow's integer arithmetic."""
  tables = []
  for histogram in _histograms(image):
    below = histogram.cumsum() - histogram
    step = below[np.flatnonzero(histogram)[-1]] // 255
    tables.append((below + step // 2) // step if step else _VALUES)
  return _look_up(image, np.stack(tables, axis=-1).clip(0, 255).astype(np.uint8))


def invert(image: np.ndarray) -> np.ndarray:
  """Replace each value v by 255 - v."""
  return cv2.bitwise_not(image)


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
  """Keep the upper `bits` bits (1 to 8) of every value."""
  return _look_up(image, _VALUES & (256 - 2 ** (8 - bits)))


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
  """Invert the values that are greater than or equal to `threshold`."""
  return _look_up(image, np.where(threshold <= _VALUES, 255 - _VALUES, _VALUES))


def solarize_add(image: np.ndarray, addition: int) -> np.ndarray:
  """Add `addition` to the values below 128, but not beyond 255."""
  return _look_up(image, np.where(_VALUES < 128, np.minimum(_VALUES + addition, 255), _VALUES))


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
  """Scale the distance from black by `factor`: 0 gives black, 1 the image."""
  return _look_up(image, np.rint(_VALUES * factor).clip(0, 255))


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
  """Scale the distance from the mean gray of the image: 0 gives that gray, 1 the image."""
  mean = round(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0])
  return _look_up(image, np.rint(mean + (_VALUES - mean) * factor).clip(0, 255))


def _look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
  """Replace values by the entries of a table, (256,) or, for each channel, (256, 3)."""
  return cv2.LUT(image, table.astype(np.uint8).reshape(1, 256, -1))


def _histograms(image: np.ndarray) -> list[np.ndarray]:
  """Return one histogram, (256,) counts, for each channel."""
  return [
    cv2.calcHist([image], [channel], None, [256], [0, 256]).ravel().astype(np.int64)
    for channel in range(3)
  ]


# Operations that combine several values: the channels of a pixel, or neighboring pixels.


def color(image: np.ndarray, factor: float) -> np.ndarray:
  """Scale the distance from the gray image: 0 gives the gray image, 1 the image."""
  gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
  return cv2.addWeighted(image, factor, gray, 1 - factor, 0)


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
  """Scale the distance from a smoothed image: 0 gives it, 1 the image. The border stays."""
  smooth = cv2.filter2D(image, -1, _SMOOTH)
  out = cv2.addWeighted(image, factor, smooth, 1 - factor, 0)
  for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
    out[edge] = image[edge]
  return out


_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


# Operations that move pixels. They take the nearest pixel, or FILL outside the image.


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
  """Rotate the image about its center, counterclockwise."""
  h, w = image.shape[:2]
  y, x = (h - 1) / 2, (w - 1) / 2
  cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
  return _warp(image, [[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]])


def shear_x(image: np.ndarray, slope: float) -> np.ndarray:
  """Move each row to the left by `slope` times its distance from the first row."""
  return _warp(image, [[1, slope, 0], [0, 1, 0]])


def shear_y(image: np.ndarray, slope: float) -> np.ndarray:
  """Move each column up by `slope` times its distance from the first column."""
  return _warp(image, [[1, 0, 0], [slope, 1, 0]])


def translate(image: np.ndarray, x: float, y: float) -> np.ndarray:
  """Move the image x pixels to the left and y pixels up."""
  return _warp(image, [[1, 0, x], [0, 1, y]])


def cutout(image: np.ndarray, half: int, rng: np.random.Generator) -> np.ndarray:
  """Fill a square of side 2 * half with its center anywhere in the image (arXiv 1708.04552)."""
  y, x = (int(rng.integers(side)) for side in image.shape[:2])
  image = image.copy()
  image[max(0, y - half) : y + half, max(0, x - half) : x + half] = FILL
  return image


def _warp(image: np.ndarray, matrix: Sequence[Sequence[float]]) -> np.ndarray:
  """Move pixels. The (2, 3) matrix maps (x, y, 1) in the result to (x, y) in the image."""
  return cv2.warpAffine(
    image,
    np.asarray(matrix, np.float64),
    image.shape[1::-1],
    flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
    borderMode=cv2.BORDER_CONSTANT,
    borderValue=(FILL,) * 3,
  )


# The strength of each operation. m is magnitude / 10.


def _random_sign(value: float, rng: np.random.Generator) -> float:
  return value if rng.random() < 0.5 else -value


def _pixels(number: float, image: np.ndarray) -> float:
  """Scale a number of pixels for this image. RandAugment assumes images of 224 pixels."""
  return number * min(image.shape[:2]) / 224


OPERATIONS: dict[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
  'AutoContrast': lambda image, m, rng: autocontrast(image),
  'Equalize': lambda image, m, rng: equalize(image),
  'Invert': lambda image, m, rng: invert(image),
  'Rotate': lambda image, m, rng: rotate(image, _random_sign(30 * m, rng)),
  'Posterize': lambda image, m, rng: posterize(image, min(max(int(4 * m), 1), 8)),
  'Solarize': lambda image, m, rng: solarize(image, int(256 * m)),
  'SolarizeAdd': lambda image, m, rng: solarize_add(image, int(110 * m)),
  'Color': lambda image, m, rng: color(image, 1.8 * m + 0.1),
  'Contrast': lambda image, m, rng: contrast(image, 1.8 * m + 0.1),
  'Brightness': lambda image, m, rng: brightness(image, 1.8 * m + 0.1),
  'Sharpness': lambda image, m, rng: sharpness(image, 1.8 * m + 0.1),
  'ShearX': lambda image, m, rng: shear_x(image, _random_sign(0.3 * m, rng)),
  'ShearY': lambda image, m, rng: shear_y(image, _random_sign(0.3 * m, rng)),
  'TranslateX': lambda image, m, rng: translate(
    image, _random_sign(_pixels(100 * m, image), rng), 0
  ),
  'TranslateY': lambda image, m, rng: translate(
    image, 0, _random_sign(_pixels(100 * m, image), rng)
  ),
  'Cutout': lambda image, m, rng: cutout(image, int(_pixels(40 * m, image)), rng),
}
