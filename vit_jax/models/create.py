"""Models by name."""

import dataclasses
import re
from typing import Any

from flax import linen as nn
import jax.numpy as jnp

from vit_jax.errors import InputError
from vit_jax.models.layers import ACTIVATIONS
from vit_jax.models.position import PLACES, POSITIONS
from vit_jax.models.resnet import BiT
from vit_jax.models.sizes import RESNET_UNITS, VARIANTS, ResNet, Variant
from vit_jax.models.vit import HEADS, REMAT, VisionTransformer

_CHOICES = dict(
  head=HEADS,
  pos_embedding=POSITIONS,
  pos_embedding_at=PLACES,
  attention=('full', 'axial'),
  activation=tuple(ACTIVATIONS),
  remat=tuple(REMAT),
)
_FROM_THE_NAME = {'variant', 'patch_size', 'image_size', 'num_classes', 'resnet', 'parent', 'name'}


def create_model(
  name: str, *, num_classes: int, image_size: int | tuple[int, int] = 224, **overrides: Any
) -> nn.Module:
  """Makes a model of the paper by its name.

  Args:
    name: 'ViT-<size>/<patch>', e.g. 'ViT-B/16': sizes Ti S B L H g G e (table 1), any patch;
      '<resnet>+ViT-<size>/<stride>', e.g. 'R50+ViT-B/16': hybrids of R26, R50, R101, R152, or R,
      the stem alone; 'BiT-<resnet>x<width>', e.g. 'BiT-R50x1'.
    num_classes: width of the head; 0: no head, the model returns its representation (B, D).
    image_size: pixels, a side or (height, width); a multiple of the patch size.
    **overrides: fields of `VisionTransformer` (head, dropout, dtype, pos_embedding, ...) or of its
      size (hidden_dim, mlp_dim, num_heads, num_layers); None: as the name says. A hybrid's
      resnet_stages: 4, or 3 with the blocks of stage 4 moved into stage 3 (section 4.1); by
      default 3 where the stride is not a multiple of 32.
  Returns:
    A Flax module; model.apply({'params': params}, images) gives (B, num_classes) logits.
  Raises:
    InputError: for an unknown name or a value that cannot be built.
  """
  overrides = {k: v for k, v in overrides.items() if v is not None}
  size = (image_size,) * 2 if isinstance(image_size, int) else tuple(image_size)
  if num_classes < 0:
    raise InputError(f'num_classes must not be negative, got {num_classes}')
  if 'dtype' in overrides:
    overrides['dtype'] = jnp.dtype(overrides['dtype'])
  if match := re.fullmatch(r'BiT-(R\d+)x([1-9]\d*)', name):
    if match[1] in RESNET_UNITS and match[1] != 'R26':
      resnet = ResNet(RESNET_UNITS[match[1]], 64 * int(match[2]))
      overrides = _without_defaults(overrides)
      _check_fields(name, overrides, BiT, ())
      return BiT(resnet, size, num_classes, **overrides)
  elif match := re.fullmatch(r'(?:(R\d*)\+)?ViT-([A-Za-z]+)/([1-9]\d*)', name):
    if match[2] in VARIANTS and (match[1] or 'R') in {'R', *RESNET_UNITS}:
      return _vision_transformer(
        name, match[1], match[2], int(match[3]), size, num_classes, overrides
      )
  raise InputError(
    f'unknown model {name!r}; names are ViT-<size>/<patch> with size one of '
    f'{", ".join(VARIANTS)}, e.g. ViT-B/16; hybrids such as R50+ViT-B/16; '
    'BiT-R<50|101|152>x<width>, e.g. BiT-R50x1'
  )


def _vision_transformer(name, backbone, letter, patch, image_size, num_classes, overrides):
  stages = overrides.pop('resnet_stages', None)
  if stages is not None and not (backbone in RESNET_UNITS and stages in (3, 4)):
    raise InputError(
      f'resnet_stages={stages} does not fit {name}: it is 3 or 4, for hybrids of '
      f'{", ".join(RESNET_UNITS)}'
    )
  sizes = {k: overrides.pop(k) for k in Variant._fields if k in overrides}
  _check_fields(name, overrides, VisionTransformer, Variant._fields + ('resnet_stages',))
  _check_values(name, overrides)
  variant = VARIANTS[letter]._replace(**sizes)
  if variant.hidden_dim % variant.num_heads:
    raise InputError(
      f'hidden_dim {variant.hidden_dim} is not divisible by num_heads {variant.num_heads}'
    )
  resnet = _resnet(backbone, stages, patch) if backbone else None
  if resnet and patch % resnet.stride and backbone != 'R':
    raise InputError(
      f'{name} cannot be: stage {len(resnet.units)} of {backbone} has stride '
      f'{resnet.stride}, which does not divide {patch}'
    )
  model = VisionTransformer(
    variant, _patch_size(backbone, resnet, patch), image_size, num_classes, resnet, **overrides
  )
  stride = model.patch_size * (resnet.stride if resnet else 1)
  if any(s % stride or s < stride for s in image_size):
    what = 'stride' if resnet else 'patch size'
    raise InputError(
      f'image_size {image_size[0]}x{image_size[1]} is not a multiple of the {what} '
      f'{stride} of {name}; try {max(1, round(image_size[0] / stride)) * stride}'
    )
  return model


def _resnet(backbone, stages, stride):
  if backbone == 'R':
    return ResNet(())
  units = RESNET_UNITS[backbone]
  if (stages or (3 if stride % 32 else 4)) == 3:
    units = (*units[:2], units[2] + units[3])
  return ResNet(units)


def _patch_size(backbone, resnet, stride):
  if backbone == 'R':
    return max(1, stride // 2)  # the published R+Ti/16: patches of 8 on a stem of stride 4
  return stride // resnet.stride if resnet else stride


def _without_defaults(overrides):
  """Drops what only says the ViT's default: a config has the same fields for every model."""
  defaults = {f.name: f.default for f in dataclasses.fields(VisionTransformer)}
  return {
    k: v for k, v in overrides.items() if k == 'dtype' or k not in defaults or v != defaults[k]
  }


def _check_fields(name, overrides, model, more):
  fields = [f.name for f in dataclasses.fields(model) if f.name not in _FROM_THE_NAME]
  unknown = sorted(set(overrides) - set(fields))
  if unknown:
    raise InputError(
      f'unknown field {unknown[0]!r} of {name}; there are {", ".join([*fields, *more])}'
    )


def _check_values(name, overrides):
  for field, choices in _CHOICES.items():
    if field in overrides and overrides[field] not in choices:
      raise InputError(f'unknown {field} {overrides[field]!r}; there are {", ".join(choices)}')
  get = lambda field: overrides.get(field, getattr(VisionTransformer, field))
  for field in ('dropout', 'stochastic_depth'):
    if not 0 <= get(field) < 1:
      raise InputError(f'{field} must be in [0, 1), got {get(field)}')
  if get('registers') < 0 or get('layer_scale') < 0:
    raise InputError(f'registers and layer_scale of {name} must not be negative')
  if get('attention') == 'axial' and (get('head') == 'token' or get('registers')):
    raise InputError(
      "attention='axial' works on the grid of patches alone: "
      "give head='gap' or 'map', and no registers"
    )
  if (
    get('attention') == 'axial'
    and get('pos_embedding') == 'relative'
    and (get('pos_embedding_at') == 'shared')
  ):
    raise InputError(
      "with attention='axial' rows and columns have relative positions of their "
      "own: pos_embedding_at='shared' cannot be"
    )
  if get('registers') and get('pos_embedding_at') != 'stem':
    raise InputError(
      f'registers have no position: pos_embedding_at={get("pos_embedding_at")!r} '
      "cannot be, only 'stem'"
    )
