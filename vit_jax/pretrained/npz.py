"""Published `.npz` files: flat dictionaries of arrays with '/'-separated names.

`canonical` brings the dialects of a decade to one: linen's spelling of the names in the first
published files, without a prefix, blocks one by one.
"""

from collections.abc import Mapping
import logging
import os
import re

import numpy as np

from vit_jax.errors import InputError, shortlist
from vit_jax.files import replacing

POSITIONS = 'Transformer/posembed_input/pos_embedding'
_ROOT_POSITIONS = 'pos_embedding'  # of the newer dialect
SPELLINGS = ('pre_linen', 'linen')
# The original code numbered a block's sublayers together (LayerNorm_0, attention_1,
# LayerNorm_2, MLP_3); linen numbers each kind by itself.
_PRE_LINEN = {
  'MultiHeadDotProductAttention_1': 'MultiHeadDotProductAttention_0',
  'LayerNorm_2': 'LayerNorm_1',
  'MlpBlock_3': 'MlpBlock_0',
}
_FROM_LINEN = {new: old for old, new in _PRE_LINEN.items()}
# Where the image model's parameters lie in a file, the longest first: of an image-text model,
# with the optimizer's state, by themselves.
_PREFIXES = ('params/img/', 'opt/target/', 'params/')
_BLOCK = 'Transformer/encoderblock'
log = logging.getLogger('vit_jax')


def to_linen(name: str) -> str:
  """'Transformer/encoderblock_0/MlpBlock_3/...' -> 'Transformer/encoderblock_0/MlpBlock_0/...'."""
  return '/'.join(_PRE_LINEN.get(part, part) for part in name.split('/'))


def to_pre_linen(name: str) -> str:
  """The inverse of `to_linen`; only blocks were numbered so, not the MAP head."""
  if not name.startswith(_BLOCK):
    return name
  return '/'.join(_FROM_LINEN.get(part, part) for part in name.split('/'))


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads an npz file into {canonical name: array}; zip's checksums are verified.

  Raises:
    InputError: naming the file, when it is damaged or no npz file of arrays.
  """
  try:
    archive = np.load(path, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
      raise ValueError('it holds a single array')
    with archive:
      members = archive.zip.namelist()
      if any(name.endswith('data.pkl') for name in members):
        raise InputError(
          f'{path} is a pickle of PyTorch, which can run any code when it is read: '
          'convert it to safetensors'
        )
      strange = [name for name in members if not name.endswith('.npy')]
      if strange or not members:
        raise ValueError(f'it holds {shortlist(strange)}' if strange else 'it is empty')
      arrays = {name: archive[name] for name in archive.files}
  except InputError:
    raise
  except Exception as e:  # zipfile, zlib, struct, NumPy's header parser: all kinds on damage
    raise InputError(
      f'{path} is not a readable npz file of arrays ({e or type(e).__name__}); download it again'
    ) from e
  return canonical(arrays, path)


def write_npz(
  arrays: Mapping[str, np.ndarray], path: str | os.PathLike, *, spelling: str = 'pre_linen'
) -> None:
  """Writes {canonical name: array} as a published file.

  Args:
    path: replaced in one piece.
    spelling: 'pre_linen', as the first published files: what the original code and timm read;
      or 'linen'.

  Raises:
    InputError: for an unknown spelling, or when the file cannot be written.
  """
  if spelling not in SPELLINGS:
    raise InputError(f'unknown spelling {spelling!r}; there are {", ".join(SPELLINGS)}')
  if spelling == 'pre_linen':
    # The GroupNorm of that time had four axes; a stem alone is published with one.
    has_stages = any(name.startswith('block1/') for name in arrays)
    arrays = {
      to_pre_linen(k): v[None, None, None] if has_stages and _is_group_norm(k) else v
      for k, v in arrays.items()
    }
  with replacing(path) as temporary, open(temporary, 'wb') as f:
    np.savez(f, **arrays)


def canonical(arrays: dict[str, np.ndarray], path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Any dialect's names and shapes -> the canonical ones.

  Root-level positions of a model with a class token have no row for it: a zero row is put in
  front, which adds nothing to the class token, as nothing was added where they come from.
  """
  prefix = next((p for p in _PREFIXES if any(name.startswith(p) for name in arrays)), '')
  others = [name for name in arrays if not name.startswith(prefix)]
  if others:
    log.warning('%s: read only %s..., not %s', path, prefix, shortlist(others))
  result, at_root = {}, False
  for name in arrays.keys() - set(others):
    short = re.sub(r'(standardized_conv2d|group_norm)_\d+', r'\1', name.removeprefix(prefix))
    for new, array in _unstacked(to_linen(short), arrays[name]):
      if new == _ROOT_POSITIONS:
        new, at_root = POSITIONS, True
      if _is_group_norm(new) and array.shape[:3] == (1, 1, 1):
        array = array.reshape(-1)
      if new in result:
        raise InputError(f'{path} has {new} twice, in two spellings')
      result[new] = array
  if at_root and 'cls' in result:
    result[POSITIONS] = with_cls_row(result[POSITIONS])
  return dict(sorted(result.items()))


def with_cls_row(positions: np.ndarray) -> np.ndarray:
  """(1, N, D) -> (1, 1 + N, D) with a zero row in front."""
  return np.pad(positions, ((0, 0), (1, 0), (0, 0)))


def _unstacked(name, array):
  """Splits an array of a scan over the blocks, stacked on axis 0, into one for each block."""
  if not name.startswith(f'{_BLOCK}/'):
    return [(name, array)]
  return [(f'{_BLOCK}_{i}{name.removeprefix(_BLOCK)}', x) for i, x in enumerate(array)]


def _is_group_norm(name):
  return re.search(r'(^|/)gn[^/]*/(scale|bias)$', name) is not None
