"""Translate position embeddings between our layout and those of timm and Hugging Face.

Our layout has a row for the class token and none for registers. Theirs may have no row for the
class token, or rows for the registers as well.
"""

from collections.abc import Mapping

import numpy as np

from vit_jax.pretrained.npz import POSITIONS, with_cls_row
from vit_jax.pretrained.posembed import square_grid


def read_positions(arrays: dict[str, np.ndarray], num_patches: int | None) -> None:
  """Change the position embedding in `arrays` to our layout, in place.

  If the class token has no row, it gets a row of zeros. Rows of registers (in timm without
  no_embed_class) are added to the registers, as the model would do.

  Args:
    arrays: {canonical name: array}.
    num_patches: number of patches in the grid. None: unknown, so the grid is assumed to be square.
  """
  positions = arrays.get(POSITIONS)
  if positions is None or positions.ndim != 3:
    return
  registers = arrays.get('registers')
  num_registers = 0 if registers is None else registers.shape[1]
  num_cls = int('cls' in arrays)
  rows = positions.shape[1]

  def is_grid(n: int) -> bool:
    return n == num_patches or square_grid(n) is not None

  if num_registers and not is_grid(rows - num_cls) and is_grid(rows - num_cls - num_registers):
    register_rows = slice(num_cls, num_cls + num_registers)
    if positions[:, register_rows].any():
      arrays['registers'] = registers + positions[:, register_rows]
    arrays[POSITIONS] = np.delete(positions, register_rows, axis=1)
  elif num_cls and rows != (num_patches or 0) + 1 and is_grid(rows):
    arrays[POSITIONS] = with_cls_row(positions)


def write_positions(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], bool]:
  """Return (arrays with timm's layout of positions, value of timm's option no_embed_class).

  If the class token's row is all zeros, it is dropped. Otherwise registers get rows of zeros,
  because timm then expects rows for them.
  """
  arrays = dict(arrays)
  positions = arrays.get(POSITIONS)
  has_registers = 'registers' in arrays
  if positions is None or 'cls' not in arrays:
    return arrays, has_registers
  if not positions[:, 0].any():
    arrays[POSITIONS] = positions[:, 1:]
    return arrays, True
  if has_registers:
    zeros = np.zeros_like(arrays['registers'])
    arrays[POSITIONS] = np.concatenate([positions[:, :1], zeros, positions[:, 1:]], axis=1)
  return arrays, False
