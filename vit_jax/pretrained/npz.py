"""Read and write published `.npz` files, which hold arrays with '/'-separated names.

Three dialects were published over the years. `canonical` translates all of them to one: the names
of the first published files in linen's spelling, without a prefix, and one set of arrays per block.
"""

from collections.abc import Mapping
import logging
import math
import os
import re

import numpy as np

from vit_jax.errors import InputError, machine_failure, remedy, shortlist, unknown
from vit_jax.files import replacing

POSITIONS = 'Transformer/posembed_input/pos_embedding'
_ROOT_POSITIONS = 'pos_embedding'  # the newer dialect's name
SPELLINGS = ('pre_linen', 'linen')
# The original code numbered a block's sublayers together (LayerNorm_0, attention_1,
# LayerNorm_2, MLP_3). linen numbers each kind separately.
_PRE_LINEN = {
  'MultiHeadDotProductAttention_1': 'MultiHeadDotProductAttention_0',
  'LayerNorm_2': 'LayerNorm_1',
  'MlpBlock_3': 'MlpBlock_0',
}
_FROM_LINEN = {new: old for old, new in _PRE_LINEN.items()}
# Prefixes of the image model's parameters, longest first: in image-text models, in files with the
# optimizer's state, and in files of parameters only.
_PREFIXES = ('params/img/', 'opt/target/', 'params/')
_BLOCK = 'Transformer/encoderblock'
log = logging.getLogger('vit_jax')


def to_linen(name: str) -> str:
  """Translate '.../encoderblock_0/MlpBlock_3/...' to '.../encoderblock_0/MlpBlock_0/...'."""
  return '/'.join(_PRE_LINEN.get(part, part) for part in name.split('/'))


def to_pre_linen(name: str) -> str:
  """Undo `to_linen`. Only the blocks had these numbers, not the MAP head."""
  if not name.startswith(_BLOCK):
    return name
  return '/'.join(_FROM_LINEN.get(part, part) for part in name.split('/'))


def read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """Read an npz file as {canonical name: array}, and verify its zip checksums.

  Raises:
    InputError: the file is damaged, or not an npz file of arrays.
  """
  try:
    archive = np.load(path, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
      raise ValueError('it holds a single array')
    with archive:
      members = archive.zip.namelist() if archive.zip else []
      if any(name.endswith('data.pkl') for name in members):
        raise pickle_error(path)
      strange = [name for name in members if not name.endswith('.npy')]
      if strange or not members:
        raise ValueError(f'it holds {shortlist(strange)}' if strange else 'it is empty')
      for name in members:
        _check_header(archive, name)
      arrays = {name: archive[name] for name in archive.files}
  except InputError:
    raise
  except Exception as e:  # damage raises anything: zipfile, zlib, struct, NumPy's header parser
    if machine_failure(e):
      raise
    cause = getattr(e, 'strerror', None) or e or type(e).__name__
    raise InputError(
      f'Cannot read {path} as an npz file of arrays: {cause}. {remedy(e, "Download it again.")}'
    ) from e
  return canonical(arrays, path)


def _check_header(npz: np.lib.npyio.NpzFile, name: str) -> None:
  """Raise ValueError if an array claims more bytes than the file has, before memory is taken."""
  readers = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
  }
  archive = npz.zip
  assert archive is not None  # it is open
  with archive.open(name) as f:
    version = np.lib.format.read_magic(f)
    # NumPy has public readers of these versions only. It writes version 3 only for structured
    # arrays whose fields have names outside of Latin-1, which no checkpoint holds.
    if version in readers:
      shape, _, dtype = readers[version](f)
      if math.prod(shape) * dtype.itemsize > archive.getinfo(name).file_size:
        raise ValueError(f'{name} claims the shape {shape}, which is more than the file holds')


def pickle_error(path: str | os.PathLike[str]) -> InputError:
  """Return the error for a PyTorch file, which is never opened."""
  return InputError(
    f'{path} is a PyTorch pickle, which can run any code when it is read. Convert it to '
    'safetensors.'
  )


def write_npz(
  arrays: Mapping[str, np.ndarray], path: str | os.PathLike[str], *, spelling: str = 'pre_linen'
) -> None:
  """Write {canonical name: array} as a published file.

  Args:
    arrays: {canonical name: array}.
    path: the file. It is replaced as a whole.
    spelling: 'pre_linen', as in the first published files, which the original code and timm read,
      or 'linen'.

  Raises:
    InputError: the spelling is unknown, or the file cannot be written.
  """
  if spelling not in SPELLINGS:
    raise unknown('spelling', spelling, SPELLINGS)
  if spelling == 'pre_linen':
    # The GroupNorm of that time had arrays of four axes, except in ResNets that are only a stem.
    has_stages = any(name.startswith('block1/') for name in arrays)
    arrays = {
      to_pre_linen(k): v[None, None, None] if has_stages and _is_group_norm(k) else v
      for k, v in arrays.items()
    }
  with replacing(path) as temporary, open(temporary, 'wb') as f:
    np.savez(f, **arrays)  # pyright: ignore[reportArgumentType]


def canonical(arrays: dict[str, np.ndarray], path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """Translate the names and shapes of any dialect to the canonical ones.

  The newer dialect has no position for the class token. The position embedding gets a row of zeros
  for it, which adds nothing to the token.

  Args:
    arrays: {name in the file: array}.
    path: the file's path, for messages.

  Raises:
    InputError: the file has an array twice, in two spellings.
  """
  prefix = next((p for p in _PREFIXES if any(name.startswith(p) for name in arrays)), '')
  others = [name for name in arrays if not name.startswith(prefix)]
  if others:
    log.warning('%s: Read only %s... and ignored %s.', path, prefix, shortlist(others))
  result, root_positions = {}, False
  for name in arrays.keys() - set(others):
    short = re.sub(r'(standardized_conv2d|group_norm)_\d+', r'\1', name.removeprefix(prefix))
    for new, array in _unstack(to_linen(short), arrays[name]):
      if new == _ROOT_POSITIONS:
        new, root_positions = POSITIONS, True
      if _is_group_norm(new) and array.shape[:3] == (1, 1, 1):
        array = array.reshape(-1)
      if new in result:
        raise InputError(
          f'{path} has {new} twice, in two spellings. Remove one of the arrays from the file.'
        )
      result[new] = array
  if root_positions and 'cls' in result:
    result[POSITIONS] = with_cls_row(result[POSITIONS])
  return dict(sorted(result.items()))


def with_cls_row(positions: np.ndarray) -> np.ndarray:
  """Prepend a row of zeros: (1, N, D) -> (1, 1 + N, D)."""
  return np.pad(positions, ((0, 0), (1, 0), (0, 0)))


def _unstack(name: str, array: np.ndarray) -> list[tuple[str, np.ndarray]]:
  """Split an array that `scan` stacked over the blocks (axis 0) into one array per block."""
  if not name.startswith(f'{_BLOCK}/'):
    return [(name, array)]
  return [(f'{_BLOCK}_{i}{name.removeprefix(_BLOCK)}', x) for i, x in enumerate(array)]


def _is_group_norm(name: str) -> bool:
  return re.search(r'(^|/)gn[^/]*/(scale|bias)$', name) is not None
