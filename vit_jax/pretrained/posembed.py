"""Resize learned position embeddings and patch kernels for another image or patch size.

Every resize is separable: rows and columns are each multiplied by a small (new, old) matrix, in
float64.
"""

from collections.abc import Callable
import operator
from typing import Any

import numpy as np

from vit_jax.errors import InputError, unknown

Size = int | tuple[int, int]  # pixels: a side, or (height, width)
METHODS = ('bilinear', 'half_pixel', 'bicubic')


def resize_posembed(
  pos_embedding: np.ndarray,
  new_grid: tuple[int, int],
  old_grid: tuple[int, int] | None = None,
  num_prefix_tokens: int = 1,
  method: str = 'bilinear',
) -> np.ndarray:
  """Interpolate a position embedding to another grid of patches (paper section 3.2).

  Args:
    pos_embedding: (1, N, D) with N = num_prefix_tokens + h * w. Patches are in row-major order.
    new_grid: (h', w') in patches.
    old_grid: (h, w) in patches. None: the grid is square.
    num_prefix_tokens: number of leading rows that belong to no patch, such as the class token's.
      They are not changed.
    method: the interpolation.
      'bilinear': the first and last rows and columns stay where they are (corners aligned), as in
        the published code. The SciPy zoom of that code has a bug: it zeroes the last row and
        column for some sizes, such as 28 -> 24. This function does not. If there is only one new
        row, it is the first old row.
      'half_pixel': bilinear between patch centers, antialiased when the grid shrinks. It equals
        timm's 'bilinear' with antialias=True.
      'bicubic': like 'half_pixel', with Keys' cubic, a = -1/2, as in Pillow. It equals timm's
        default, antialiased. DINOv2's own code uses PyTorch's cubic, a = -3/4, without
        antialiasing.

  Returns:
    (1, num_prefix_tokens + h' * w', D), a NumPy array of the same dtype. The values do not change
    if the grids are equal.

  Raises:
    InputError: the method is unknown, or a grid is not positive or does not match N.
  """
  if method not in METHODS:
    raise unknown('resize method', method, METHODS)
  array = np.asarray(pos_embedding)
  if array.ndim != 3 or len(array) != 1:
    raise InputError(f'A position embedding must have the shape (1, N, D), but got {array.shape}.')
  prefix, patches = array[:, :num_prefix_tokens], array[:, num_prefix_tokens:]
  h, w = _old_grid(array.shape[1], old_grid, num_prefix_tokens)
  new_h, new_w = _pair(new_grid, 'new_grid')
  if (h, w) == (new_h, new_w):
    return array
  grid = patches.reshape(h, w, -1)
  grid = _resize(grid, _weights(h, new_h, method), _weights(w, new_w, method))
  return np.concatenate([prefix, grid.reshape(1, new_h * new_w, -1)], axis=1)


def resize_patch_embedding(kernel: np.ndarray, new_patch_size: Size) -> np.ndarray:
  """Resize the patch embedding to another patch size (FlexiViT, arXiv 2212.08013 section 3.4).

  Let B resize a patch x to the new size. The new kernel w' = pinv(B^T) w makes <B x, w'> as close
  to <x, w> as possible, averaged over white noise x. If the new patch is larger, both are equal, so
  enlarging a patch does not change its token. B is bilinear between pixel centers without
  antialiasing, as in the paper's code and in vit_jax.data's resize of images.

  Args:
    kernel: (p, q, C, D).
    new_patch_size: pixels, a side or (p', q').

  Returns:
    (p', q', C, D), a NumPy array of the same dtype. The values do not change if the sizes are
    equal.

  Raises:
    InputError: the kernel does not have four axes, or the size is not positive.
  """
  kernel = np.asarray(kernel)
  if kernel.ndim != 4:
    raise InputError(
      f'A patch embedding kernel must have the shape (p, p, C, D), but got {kernel.shape}.'
    )
  is_side = np.ndim(new_patch_size) == 0
  size = _pair((new_patch_size,) * 2 if is_side else new_patch_size, 'new_patch_size')
  if kernel.shape[:2] == size:
    return kernel
  # B is a Kronecker product of two small matrices, so its pseudo-inverse is the product of theirs.
  rows, columns = (
    np.linalg.pinv(_half_pixel_weights(old, new, _triangle, widen=False).T)
    for old, new in zip(kernel.shape, size)
  )
  return _resize(kernel, rows, columns)


def _resize(x: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
  """Apply the weights (h', h) and (w', w) to x (h, w, ...), in float64. Returns (h', w', ...)."""
  y = np.einsum('ab,cd,bd...->ac...', rows, columns, x.astype(np.float64), optimize=True)
  return y.astype(x.dtype)


def _weights(old: int, new: int, method: str) -> np.ndarray:
  """Return the interpolation weights of the old points, (new, old). Each row sums to 1."""
  if method == 'half_pixel':
    return _half_pixel_weights(old, new, _triangle, widen=True)
  if method == 'bicubic':
    return _half_pixel_weights(old, new, _cubic, widen=True)
  at = np.arange(new) * (old - 1) / max(new - 1, 1)
  return _triangle(at[:, None] - np.arange(old))


def _half_pixel_weights(
  old: int, new: int, kernel: Callable[[np.ndarray], np.ndarray], widen: bool
) -> np.ndarray:
  """Return interpolation weights between centers of cells, (new, old).

  At the border, weights outside the grid are dropped and the others are scaled to sum to 1.

  Args:
    old: number of old points.
    new: number of new points.
    kernel: weight as a function of the distance.
    widen: antialias, by widening the kernel to the new spacing if that is larger.
  """
  scale = old / new
  at = (np.arange(new) + 0.5) * scale - 0.5
  distance = at[:, None] - np.arange(old)
  weights = kernel(distance / max(scale, 1) if widen else distance)
  return weights / weights.sum(axis=1, keepdims=True)


def _triangle(x: np.ndarray) -> np.ndarray:
  """Return the weights of linear interpolation at distances x."""
  return np.maximum(0, 1 - np.abs(x))


def _cubic(x: np.ndarray, a: float = -0.5) -> np.ndarray:
  """Return the weights of Keys' cubic interpolation at distances x."""
  x = np.abs(x)
  inner = ((a + 2) * x - (a + 3)) * x**2 + 1
  outer = a * (((x - 5) * x + 8) * x - 4)
  return np.where(x < 1, inner, np.where(x < 2, outer, 0))


def square_grid(num_patches: int) -> tuple[int, int] | None:
  """Return (side, side) if the number of patches is a square, else None."""
  side = round(max(num_patches, 0) ** 0.5)
  return (side, side) if side and side**2 == num_patches else None


def _old_grid(length: int, grid: tuple[int, int] | None, num_prefix_tokens: int) -> tuple[int, int]:
  """Return the grid (h, w) of a position embedding with `length` rows."""
  patches = length - num_prefix_tokens
  if num_prefix_tokens < 0 or patches < 1:
    raise InputError(
      f'A position embedding with {length} rows has no grid after '
      f'{num_prefix_tokens} prefix tokens.'
    )
  if grid is None:
    if square := square_grid(patches):
      return square
    raise InputError(
      f'{patches} patch positions do not make a square grid. Give old_grid=(h, w), or another '
      f'num_prefix_tokens than {num_prefix_tokens}.'
    )
  h, w = _pair(grid, 'old_grid')
  if h * w != patches:
    raise InputError(
      f'old_grid {h}x{w} has {h * w} patches, but the position embedding has {patches} after '
      f'{num_prefix_tokens} prefix tokens.'
    )
  return h, w


def _pair(sizes: Any, name: str) -> tuple[int, int]:
  """Return two positive whole numbers, or raise InputError."""
  try:
    a, b = map(operator.index, sizes)
  except (TypeError, ValueError):  # not whole numbers, or not two
    a = b = 0
  if min(a, b) < 1:
    raise InputError(f'{name} must be two positive whole numbers, but got {sizes!r}.')
  return a, b
