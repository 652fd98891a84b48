"""Infer a checkpoint's model from the names and shapes of its arrays."""

from collections.abc import Mapping
import re
from typing import Any

from vit_jax.errors import InputError
from vit_jax.models.sizes import RESNET_UNITS, VARIANTS, Variant
from vit_jax.pretrained.array_sizes import PATCHES, ArraySizes, count_units
from vit_jax.pretrained.metadata import EMPTY, MODEL_FIELDS, Metadata
from vit_jax.pretrained.posembed import square_grid

_BIT_ROOT = 'resnet/root_block/standardized_conv2d/kernel'
Fields = dict[str, Any]  # keyword arguments of create_model


def infer_model(
  arrays: Mapping[str, Any], metadata: Metadata = EMPTY
) -> tuple[str, dict[str, Any]]:
  """Return the name and the keyword arguments with which `create_model` builds the model.

  Arrays and metadata do not always show everything. A learned position embedding is assumed to be
  added once, not 'shared' by all blocks. If there is no learned one, 'sincos2d' is assumed. If
  nothing shows image_size, it is left out.

  Args:
    arrays: {canonical name: array}, or anything with a shape in place of an array.
    metadata: the file's metadata, from `read_checkpoint`. It takes precedence over the arrays.

  Returns:
    (name, fields) for create_model(name, **fields).

  Raises:
    InputError: `create_model` cannot build a model with these arrays.
  """
  name, fields = _bit(arrays) if _BIT_ROOT in arrays else _vision_transformer(ArraySizes(arrays))
  recorded = {field: getattr(metadata, field) for field in (*MODEL_FIELDS, 'image_size')}
  return name, fields | {field: value for field, value in recorded.items() if value is not None}


def _bit(arrays: Mapping[str, Any]) -> tuple[str, Fields]:
  units = count_units(arrays, r'resnet/block(\d+)/unit\d+/a/standardized_conv2d/kernel')
  backbone = next((name for name, known in RESNET_UNITS.items() if known == units), None)
  if backbone is None:
    raise InputError(f'No BiT ResNet has {units} units.')
  width = arrays[_BIT_ROOT].shape[-1] // 64
  bias = 'resnet/head/conv2d/bias'
  num_classes = arrays[bias].shape[0] if bias in arrays else 0
  return f'BiT-{backbone}x{width}', {'num_classes': num_classes}


def _vision_transformer(sizes: ArraySizes) -> tuple[str, Fields]:
  _check_ends(sizes)
  letter, fields = _nearest_variant(sizes.variant)
  patch = sizes.patch_size[0]
  name = f'ViT-{letter}/{patch}'
  if sizes.resnet_units is not None:
    name, stages = _hybrid(sizes.resnet_units, letter, patch, sizes.resnet_stride)
    fields |= stages
  position, grid = _position(sizes)
  if grid:
    stride = patch * sizes.resnet_stride
    fields['image_size'] = grid[0] * stride, grid[1] * stride
  fields |= position | {
    'num_classes': sizes.num_classes,
    'head': sizes.head,
    'representation_size': sizes.representation_size or None,
    'registers': sizes.registers,
    'attention': 'axial' if sizes.axial else 'full',
    'pre_norm': sizes.pre_norm,
    'patch_bias': sizes.patch_bias,
    'qkv_bias': sizes.qkv_bias,
    'layer_scale': 1.0 if sizes.layer_scale else None,
  }
  return name, fields


def _check_ends(sizes: ArraySizes) -> None:
  """Raise InputError if images or features of this kind do not fit our models."""
  rows, columns = sizes.patch_size
  colors, width = sizes.shape(PATCHES)[2], sizes.representation_size or sizes.hidden_dim
  if sizes.resnet_units is None and colors != 3:
    raise InputError(
      f'The number of channels of its images is {colors}, but create_model only makes models for '
      'RGB images.'
    )
  if rows != columns:
    raise InputError(
      f'Its patches are {rows}x{columns} pixels, but create_model only makes square patches.'
    )
  inputs = sizes.shape('head/kernel')[0] if sizes.num_classes else width
  if inputs != width:
    raise InputError(
      f'Its head takes {inputs} features, but the encoder gives {width}. The classifiers of '
      "Hugging Face's DINOv2 also take the mean of the patches, for which create_model has no head."
    )


def _nearest_variant(variant: Variant) -> tuple[str, Fields]:
  """Return the letter of the nearest variant, and the fields in which `variant` differs."""
  matches = {
    letter: sum(a == b for a, b in zip(variant, known)) for letter, known in VARIANTS.items()
  }
  letter = max(matches, key=matches.__getitem__)
  known = VARIANTS[letter]._asdict()
  return letter, {k: v for k, v in variant._asdict().items() if v != known[k]}


def _hybrid(
  units: tuple[int, ...], letter: str, patch: int, resnet_stride: int
) -> tuple[str, Fields]:
  """Return the name and the extra fields of a hybrid whose ResNet has these units per stage."""
  if not units:
    return f'R+ViT-{letter}/{2 * patch}', {}  # the published R+Ti/16 has patches of 8
  for backbone, (*most, third, last) in RESNET_UNITS.items():
    for stages, known in (4, (*most, third, last)), (3, (*most, third + last)):
      if units == known:
        return f'{backbone}+ViT-{letter}/{patch * resnet_stride}', {'resnet_stages': stages}
  raise InputError(f'No hybrid has a ResNet with {units} units.')


def _position(sizes: ArraySizes) -> tuple[Fields, tuple[int, int] | None]:
  """Return the position fields, and the grid (h, w) of patches if the arrays show it."""
  names = [name for name in sizes.arrays if re.search(r'posembed_input/|relative_position/', name)]
  if not names:
    return {'pos_embedding': 'sincos2d'}, None
  in_blocks = any('/encoderblock_' in name for name in names)
  if any('relative_position/' in name for name in names):
    place = 'stem' if in_blocks else 'shared'
    return {'pos_embedding': 'relative', 'pos_embedding_at': place}, None
  fields = {'pos_embedding_at': 'every' if in_blocks else 'stem'}
  prefix = names[0].rsplit('/', 1)[0]
  if f'{prefix}/rows' in sizes.arrays:
    grid = sizes.shape(f'{prefix}/rows')[0], sizes.shape(f'{prefix}/columns')[0]
    return {'pos_embedding': 'learned2d'} | fields, grid
  num_patches = sizes.shape(f'{prefix}/pos_embedding')[1] - sizes.class_token
  return {'pos_embedding': 'learned'} | fields, square_grid(num_patches)
