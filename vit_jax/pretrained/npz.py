"""Published `.npz` files: flat dictionaries of arrays with '/'-separated names."""

import os
import zipfile
import zlib

import numpy as np

from vit_jax.errors import InputError

# The original code numbered a block's sublayers together (LayerNorm_0, attention_1,
# LayerNorm_2, MLP_3); linen numbers each kind by itself. Names here are linen's.
_PRE_LINEN = {'MultiHeadDotProductAttention_1': 'MultiHeadDotProductAttention_0',
              'LayerNorm_2': 'LayerNorm_1', 'MlpBlock_3': 'MlpBlock_0'}


def to_linen(name: str) -> str:
  """'Transformer/encoderblock_0/MlpBlock_3/...' -> 'Transformer/encoderblock_0/MlpBlock_0/...'."""
  return '/'.join(_PRE_LINEN.get(part, part) for part in name.split('/'))


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads a published npz file into {linen name: array}.

  Raises:
    InputError: naming the file, when it is missing, damaged or no npz file of arrays.
  """
  try:
    archive = np.load(path, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
      raise ValueError('it holds a single array')
    with archive:
      return {to_linen(name): archive[name] for name in archive.files}
  except FileNotFoundError:
    raise InputError(f'{path}: no such file') from None
  except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as e:
    raise InputError(f'{path} is not a readable npz file of arrays ({e}); '
                     'download it again') from e
