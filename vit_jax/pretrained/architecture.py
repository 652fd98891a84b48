"""Which model a checkpoint is of, from the names and shapes of its arrays."""

from collections.abc import Mapping
import re
from typing import Any

import numpy as np

from vit_jax.errors import InputError
from vit_jax.models.sizes import RESNET_UNITS, VARIANTS, ResNet, Variant
from vit_jax.pretrained.metadata import Metadata

# Better by a file than by its arrays:
_TOLD = ('activation', 'norm_eps', 'head', 'pos_embedding', 'pos_embedding_at', 'image_size')
_BIT_ROOT = 'resnet/root_block/standardized_conv2d/kernel'


def infer_model(
  arrays: Mapping[str, np.ndarray], metadata: Metadata = Metadata()
) -> tuple[str, dict[str, Any]]:
  """Returns the name and the keyword arguments with which `create_model` makes the model.

  Neither arrays nor `metadata` tell whether a learned position embedding is added once (assumed) or
  is 'shared' by all blocks. Where none was learned, 'sincos2d' is assumed. Where nothing tells
  image_size, it is left out.

  Args:
    arrays: {canonical name: array}, and
    metadata: what else the file says, as of `read_checkpoint`.
  Raises:
    InputError: the arrays are of no model that `create_model` makes.
  """
  name, found = _bit(arrays) if _BIT_ROOT in arrays else _vision_transformer(arrays)
  told = {field: getattr(metadata, field) for field in _TOLD}
  return name, found | {field: value for field, value in told.items() if value is not None}


def _bit(arrays):
  units = _units(arrays, r'resnet/block(\d+)/unit\d+/a/standardized_conv2d/kernel')
  backbone = next((name for name, known in RESNET_UNITS.items() if known == units), None)
  if backbone is None:
    raise InputError(f'no BiT ResNet has {units} units')
  width = arrays[_BIT_ROOT].shape[-1] // 64
  return f'BiT-{backbone}x{width}', {'num_classes': _width(arrays, 'resnet/head/conv2d/bias')}


def _vision_transformer(arrays):
  axial = 'Transformer/encoderblock_0/row/LayerNorm_0/scale' in arrays
  block = 'Transformer/encoderblock_0/' + 'row/' * axial
  attention, mlp = block + 'MultiHeadDotProductAttention_0/', block + 'MlpBlock_0/'
  patch, _, _, hidden_dim = _shape(arrays, 'embedding/kernel')
  blocks = {
    match[1] for name in arrays if (match := re.match(r'Transformer/encoderblock_(\d+)/', name))
  }
  letter, found = _size(
    Variant(
      hidden_dim,
      _shape(arrays, mlp + 'Dense_0/kernel')[1],
      _shape(arrays, attention + 'query/kernel')[1],
      len(blocks),
    )
  )
  name, stride = f'ViT-{letter}/{patch}', patch
  if 'conv_root/kernel' in arrays:
    name, stride, stages = _hybrid(arrays, letter, patch)
    found |= stages
  position, grid = _position(arrays, 'cls' in arrays)
  if grid:
    found['image_size'] = grid[0] * stride, grid[1] * stride
  found |= position
  found |= {
    'num_classes': _width(arrays, 'head/bias'),
    'head': 'token' if 'cls' in arrays else 'map' if 'MAPHead_0/probe' in arrays else 'gap',
    'representation_size': _width(arrays, 'pre_logits/bias') or None,
    'registers': arrays['registers'].shape[1] if 'registers' in arrays else 0,
    'attention': 'axial' if axial else 'full',
    'pre_norm': 'Transformer/pre_norm/scale' in arrays,
    'patch_bias': 'embedding/bias' in arrays,
    'qkv_bias': attention + 'query/bias' in arrays,
    'layer_scale': float(block + 'LayerScale_0/scale' in arrays),
  }
  return name, found


def _size(variant):
  """The letter of the nearest size in the table, and overrides for what differs from it."""
  letters = [
    (sum(a == b for a, b in zip(variant, known)), letter) for letter, known in VARIANTS.items()
  ]
  letter = max(letters, key=lambda pair: pair[0])[1]
  known = VARIANTS[letter]._asdict()
  return letter, {k: v for k, v in variant._asdict().items() if v != known[k]}


def _hybrid(arrays, letter, patch):
  """(name, pixels between patches, overrides)."""
  units = _units(arrays, r'block(\d+)/unit\d+/conv1/kernel')
  stride = patch * ResNet(units).stride
  if not units:
    return f'R+ViT-{letter}/{2 * patch}', stride, {}  # the published R+Ti/16 has patches of 8
  for backbone, (*most, third, last) in RESNET_UNITS.items():
    for stages, known in (4, (*most, third, last)), (3, (*most, third + last)):
      if units == known:
        return f'{backbone}+ViT-{letter}/{stride}', stride, {'resnet_stages': stages}
  raise InputError(f'no hybrid has a ResNet of {units} units')


def _position(arrays, has_cls):
  """The overrides for positions, and the grid (h, w) of patches where they tell it."""
  names = [name for name in arrays if re.search(r'posembed_input/|relative_position/', name)]
  if not names:
    return {'pos_embedding': 'sincos2d'}, None
  own = any('/encoderblock_' in name for name in names)
  if any('relative_position/' in name for name in names):
    return {'pos_embedding': 'relative', 'pos_embedding_at': 'stem' if own else 'shared'}, None
  prefix = names[0].rsplit('/', 1)[0]
  at = {'pos_embedding_at': 'every' if own else 'stem'}
  if f'{prefix}/rows' in arrays:
    grid = tuple(_shape(arrays, f'{prefix}/{axis}')[0] for axis in ('rows', 'columns'))
    return {'pos_embedding': 'learned2d'} | at, grid
  patches = _shape(arrays, f'{prefix}/pos_embedding')[1] - has_cls
  side = round(patches**0.5)
  return {'pos_embedding': 'learned'} | at, (side, side) if side**2 == patches else None


def _units(arrays, pattern):
  """How many units each block of a ResNet has."""
  blocks = [int(match[1]) for name in arrays if (match := re.fullmatch(pattern, name))]
  return tuple(blocks.count(block) for block in sorted(set(blocks)))


def _width(arrays, bias):
  return len(arrays[bias]) if bias in arrays else 0


def _shape(arrays, name):
  if name not in arrays:
    raise InputError(f'the arrays are of no model that create_model makes: {name} is missing')
  return arrays[name].shape
