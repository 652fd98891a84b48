"""Another image or patch size: learned position embeddings and patch kernels, resized.

Every resize here is separable: a small (new, old) matrix for the rows and one for the columns,
made in float64 and applied by one einsum.
"""

import operator

import numpy as np

from vit_jax.errors import InputError

METHODS = ('bilinear', 'half_pixel', 'bicubic')


def resize_posembed(
  pos_embedding: np.ndarray,
  new_grid: tuple[int, int],
  old_grid: tuple[int, int] | None = None,
  num_prefix_tokens: int = 1,
  method: str = 'bilinear',
) -> np.ndarray:
  """Interpolates a position embedding to another grid of patches (paper section 3.2).

  Args:
    pos_embedding: (1, N, D), N = num_prefix_tokens + h * w, patches row by row.
    new_grid: (h', w') in patches.
    old_grid: (h, w) in patches; None when it is square.
    num_prefix_tokens: leading rows that belong to no patch (1: the class token's); kept as is.
    method: how the grid is read between its points.
      'bilinear': the first and last rows and columns stay where they are (corners aligned), as
        the published code does where it is right: its SciPy zoom zeroes the last row and column
        of some sizes, such as 28 -> 24. A single new row is the first old one.
      'half_pixel': bilinear between patch centres, widened to an average where the grid shrinks:
        timm's 'bilinear' with antialias=True.
      'bicubic': likewise with Keys' cubic, a = -1/2, as Pillow: timm's default, antialiased.
        DINOv2's own code takes torch's other cubic, a = -3/4 and not antialiased.
  Returns:
    (1, num_prefix_tokens + h' * w', D), NumPy, of the same dtype; the same values when the grids
    are equal.
  Raises:
    InputError: for an unknown method, or a grid that is not positive or does not fit N.
  """
  if method not in METHODS:
    raise InputError(f'unknown resize method {method!r}; methods are {", ".join(METHODS)}')
  array = np.asarray(pos_embedding)
  if array.ndim != 3 or len(array) != 1:
    raise InputError(f'a position embedding is (1, N, D), got {array.shape}')
  prefix, patches = array[:, :num_prefix_tokens], array[:, num_prefix_tokens:]
  h, w = _old_grid(array.shape[1], old_grid, num_prefix_tokens)
  new_h, new_w = _pair(new_grid, 'new_grid')
  if (h, w) == (new_h, new_w):
    return array
  grid = patches.reshape(h, w, -1)
  grid = _resize(grid, _weights(h, new_h, method), _weights(w, new_w, method))
  return np.concatenate([prefix, grid.reshape(1, new_h * new_w, -1)], axis=1)


def resize_patch_embedding(kernel: np.ndarray, new_patch_size: int | tuple[int, int]) -> np.ndarray:
  """Resizes the patch embedding to another patch size (FlexiViT, arXiv 2212.08013 section 3.4).

  With B the resize of a patch x to the new size, the new kernel w' = pinv(B^T) w makes <B x, w'>
  as near to <x, w> as possible, averaged over white noise x. For a larger patch both are equal:
  tokens of a patch do not change when it is enlarged. B is bilinear between pixel centres without
  antialiasing, as in the paper's code and the resize of images in vit_jax.data.

  Args:
    kernel: (p, q, C, D).
    new_patch_size: pixels, a side or (p', q').
  Returns:
    (p', q', C, D), NumPy, of the same dtype; the same values when the sizes are equal.
  Raises:
    InputError: when the kernel is no such array or the size is not positive.
  """
  kernel = np.asarray(kernel)
  if kernel.ndim != 4:
    raise InputError(f'a patch embedding kernel is (p, p, C, D), got {kernel.shape}')
  size = (new_patch_size,) * 2 if np.ndim(new_patch_size) == 0 else new_patch_size
  size = _pair(size, 'new_patch_size')
  if kernel.shape[:2] == size:
    return kernel
  # B is the Kronecker product of two small matrices, so its pseudo-inverse is that of theirs.
  rows, columns = (
    np.linalg.pinv(_half_pixel_weights(old, new, _triangle, widen=False).T)
    for old, new in zip(kernel.shape, size)
  )
  return _resize(kernel, rows, columns)


def _resize(x: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
  """(h, w, ...) -> (h', w', ...) with weights (h', h) and (w', w), in float64."""
  y = np.einsum('ab,cd,bd...->ac...', rows, columns, x.astype(np.float64), optimize=True)
  return y.astype(x.dtype)


def _weights(old: int, new: int, method: str) -> np.ndarray:
  """(new, old): what each new point takes of the old ones; rows sum to 1."""
  if method == 'half_pixel':
    return _half_pixel_weights(old, new, _triangle, widen=True)
  if method == 'bicubic':
    return _half_pixel_weights(old, new, _cubic, widen=True)
  at = np.arange(new) * (old - 1) / max(new - 1, 1)
  return _triangle(at[:, None] - np.arange(old))


def _half_pixel_weights(old, new, kernel, widen):
  """Points are centres of cells; at the border, weights outside the grid are left out."""
  scale = old / new
  at = (np.arange(new) + 0.5) * scale - 0.5
  distance = at[:, None] - np.arange(old)
  weights = kernel(distance / max(scale, 1) if widen else distance)
  return weights / weights.sum(axis=1, keepdims=True)


def _triangle(x):
  return np.maximum(0, 1 - np.abs(x))


def _cubic(x, a=-0.5):
  x = np.abs(x)
  inner = ((a + 2) * x - (a + 3)) * x**2 + 1
  outer = a * (((x - 5) * x + 8) * x - 4)
  return np.where(x < 1, inner, np.where(x < 2, outer, 0))


def _old_grid(length, grid, num_prefix_tokens):
  """(h, w) of `length` rows, some of them no patches."""
  patches = length - num_prefix_tokens
  if num_prefix_tokens < 0 or patches < 1:
    raise InputError(
      f'a position embedding of {length} rows has no grid after {num_prefix_tokens} prefix tokens'
    )
  if grid is None:
    side = round(patches**0.5)
    if side**2 != patches:
      raise InputError(
        f'{patches} patch positions are no square grid: give old_grid=(h, w), or '
        f'another num_prefix_tokens than {num_prefix_tokens}'
      )
    return side, side
  h, w = _pair(grid, 'old_grid')
  if h * w != patches:
    raise InputError(
      f'old_grid {h}x{w} has {h * w} patches, the position embedding has {patches} '
      f'after {num_prefix_tokens} prefix tokens'
    )
  return h, w


def _pair(sizes, name):
  try:
    a, b = map(operator.index, sizes)
  except (TypeError, ValueError):  # not whole, not two
    a = b = 0
  if min(a, b) < 1:
    raise InputError(f'{name} must be two positive whole numbers, got {sizes!r}')
  return a, b
