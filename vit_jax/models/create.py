"""Create models by name."""

import dataclasses
import re
from typing import Any

from flax import linen as nn
import jax.numpy as jnp

from vit_jax.errors import InputError, unknown
from vit_jax.models.activation_functions import ACTIVATIONS
from vit_jax.models.dot_product_attention import IMPLEMENTATIONS
from vit_jax.models.position import PLACES, POSITIONS
from vit_jax.models.resnet import BiT
from vit_jax.models.scan import REMAT
from vit_jax.models.sizes import RESNET_UNITS, VARIANTS, ResNet, Variant
from vit_jax.models.vit import ATTENTIONS, HEADS, VisionTransformer

_CHOICES = dict(
  head=HEADS,
  pos_embedding=POSITIONS,
  pos_embedding_at=PLACES,
  attention=ATTENTIONS,
  attention_implementation=IMPLEMENTATIONS,
  activation=tuple(ACTIVATIONS),
  remat=tuple(REMAT),
)
# Fields of the modules that are not arguments of `create_model`.
_NO_OVERRIDES = {
  'variant',
  'patch_size',
  'image_size',
  'num_classes',
  'resnet',
  'usage',
  'parent',
  'name',
}
_BIT_NAME = r'BiT-(?P<backbone>R\d+)x(?P<width>[1-9]\d*)'
_VIT_NAME = r'(?:(?P<backbone>R\d*)\+)?ViT-(?P<size>[A-Za-z]+)/(?P<patch>[1-9]\d*)'
_BIT_BACKBONES = [name for name in RESNET_UNITS if name != 'R26']


def create_model(
  name: str, *, num_classes: int, image_size: int | tuple[int, int] = 224, **overrides: Any
) -> nn.Module:
  """Create a model of the paper by its name.

  Args:
    name: one of
      - 'ViT-<size>/<patch>', e.g. 'ViT-B/16', where the size is Ti, S, B, L, H, g, G or e (see
        `sizes`), and the patch size is any number of pixels.
      - '<resnet>+ViT-<size>/<stride>', e.g. 'R50+ViT-B/16', a hybrid. The ResNet is R26, R50, R101
        or R152, or R for only the stem of a ResNet.
      - 'BiT-<resnet>x<width>', e.g. 'BiT-R50x1'.
    num_classes: width of the head. With 0 the model has no head and returns its representation
      (B, D).
    image_size: side of the images, or (height, width), in pixels. It must be a multiple of the
      patch size.
    **overrides: fields of `VisionTransformer` (head, dropout, dtype, pos_embedding, ...) or of its
      `Variant` (hidden_dim, mlp_dim, num_heads, num_layers). None keeps the value that the name
      implies. A hybrid also takes resnet_stages: 4, or 3 to move the blocks of stage 4 into stage 3
      (section 4.1). The default is 4 if the stride is a multiple of 32, else 3.

  Returns:
    A Flax module. model.apply({'params': params}, images) returns logits (B, num_classes).

  Raises:
    InputError: the name or a field is unknown, or a value does not fit.
  """
  overrides = {k: v for k, v in overrides.items() if v is not None}
  height, width = (image_size,) * 2 if isinstance(image_size, int) else image_size
  if num_classes < 0:
    raise InputError(f'num_classes must not be negative, but it is {num_classes}.')
  if 'dtype' in overrides:
    overrides['dtype'] = jnp.dtype(overrides['dtype'])
  if (match := re.fullmatch(_BIT_NAME, name)) and match['backbone'] in _BIT_BACKBONES:
    resnet = ResNet(RESNET_UNITS[match['backbone']], 64 * int(match['width']))
    overrides = _without_defaults(overrides)
    _check_fields(name, overrides, BiT, ())
    return BiT(resnet, (height, width), num_classes, **overrides)
  match = re.fullmatch(_VIT_NAME, name)
  backbones = (None, 'R', *RESNET_UNITS)
  if not match or match['size'] not in VARIANTS or match['backbone'] not in backbones:
    raise InputError(
      f'Unknown model {name!r}. Names are ViT-<size>/<patch>, such as ViT-B/16, where the size is '
      f'one of {", ".join(VARIANTS)}, hybrids such as R50+ViT-B/16, and BiT-R<50|101|152>x<width>, '
      'such as BiT-R50x1.'
    )
  return _create_vision_transformer(match, (height, width), num_classes, overrides)


def _create_vision_transformer(
  match: re.Match[str], image_size: tuple[int, int], num_classes: int, overrides: dict[str, Any]
) -> VisionTransformer:
  """Create a ViT or a hybrid from a match of _VIT_NAME."""
  name, backbone, patch = match[0], match['backbone'], int(match['patch'])
  stages = overrides.pop('resnet_stages', None)
  if stages is not None and not (backbone in RESNET_UNITS and stages in (3, 4)):
    raise InputError(
      f'resnet_stages={stages} does not fit {name}. It must be 3 or 4, and only hybrids of '
      f'{", ".join(RESNET_UNITS)} have it.'
    )
  sizes = {k: overrides.pop(k) for k in Variant._fields if k in overrides}
  _check_fields(name, overrides, VisionTransformer, Variant._fields + ('resnet_stages',))
  _check_values(name, overrides)
  variant = VARIANTS[match['size']]._replace(**sizes)
  for field, size in zip(('hidden_dim', 'mlp_dim', 'num_heads'), variant):
    if size < 1:
      raise InputError(f'{field} must be at least 1, but it is {size}.')
  if variant.hidden_dim % variant.num_heads:
    raise InputError(
      f'hidden_dim={variant.hidden_dim} is not divisible by num_heads={variant.num_heads}.'
    )
  resnet = _resnet(backbone, stages, patch) if backbone else None
  if resnet and patch % resnet.stride and backbone != 'R':
    raise InputError(
      f'{name} cannot be built: stage {len(resnet.units)} of {backbone} has stride '
      f'{resnet.stride}, which does not divide {patch}.'
    )
  patch_size = _patch_size(backbone, resnet, patch)
  model = VisionTransformer(variant, patch_size, image_size, num_classes, resnet, **overrides)
  if any(side % model.stride or side < model.stride for side in image_size):
    raise InputError(
      f'image_size {image_size[0]}x{image_size[1]} is not a multiple of the '
      f'{"stride" if resnet else "patch size"} {model.stride} of {name}. '
      f'Try {max(1, round(image_size[0] / model.stride)) * model.stride}.'
    )
  return model


def _resnet(backbone: str, stages: int | None, stride: int) -> ResNet:
  """Return the ResNet of a hybrid. With 3 stages, the units of stage 4 move into stage 3."""
  if backbone == 'R':
    return ResNet(())
  units = RESNET_UNITS[backbone]
  if (stages or (3 if stride % 32 else 4)) == 3:
    units = (*units[:2], units[2] + units[3])
  return ResNet(units)


def _patch_size(backbone: str | None, resnet: ResNet | None, stride: int) -> int:
  """Return the side of a patch, in pixels or in positions of the ResNet's output."""
  if backbone == 'R':
    return max(1, stride // 2)  # the published R+Ti/16 has patches of 8 on a stem of stride 4
  return stride // resnet.stride if resnet else stride


def _without_defaults(overrides: dict[str, Any]) -> dict[str, Any]:
  """Return the overrides that are not defaults of a ViT. A config has these for every model."""
  defaults = {f.name: f.default or None for f in dataclasses.fields(VisionTransformer)}
  is_default = lambda field, value: field in defaults and defaults[field] == (value or None)
  return {k: v for k, v in overrides.items() if k == 'dtype' or not is_default(k, v)}


def _check_fields(
  name: str, overrides: dict[str, Any], model: type[nn.Module], more: tuple[str, ...]
) -> None:
  """Raise InputError if an override is not a field of the model."""
  fields = [f.name for f in dataclasses.fields(model) if f.name not in _NO_OVERRIDES]
  for field in sorted(set(overrides) - set(fields)):
    raise unknown(f'{name} field', field, [*fields, *more])


def _check_values(name: str, overrides: dict[str, Any]) -> None:
  """Raise InputError if a field of a ViT, or a combination of fields, has an impossible value."""
  for field, choices in _CHOICES.items():
    if field in overrides and overrides[field] not in choices:
      raise unknown(field, overrides[field], choices)
  get = lambda field: overrides.get(field, getattr(VisionTransformer, field))
  for field in ('dropout', 'stochastic_depth'):
    if not 0 <= get(field) < 1:
      raise InputError(f'{field} must be in [0, 1), but it is {get(field)}.')
  for field in ('registers', 'layer_scale'):
    if (get(field) or 0) < 0:
      raise InputError(f'{field} of {name} must not be negative, but it is {get(field)}.')
  place = get('pos_embedding_at')
  if get('attention') == 'axial':
    if get('head') == 'token' or get('registers'):
      raise InputError(
        "attention='axial' works only on the grid of patches. "
        "Use head='gap' or 'map', and no registers."
      )
    if get('pos_embedding') == 'relative' and place == 'shared':
      raise InputError(
        "With attention='axial', rows and columns have relative positions of their own. "
        "Use pos_embedding_at='stem' or 'every' instead of 'shared'."
      )
  implementation = get('attention_implementation')
  if implementation not in (None, 'plain') and (
    get('attention') == 'axial' or get('pos_embedding') == 'relative'
  ):
    raise InputError(
      f'attention_implementation={implementation!r} has no axial attention and no relative '
      "position embeddings. Use 'plain', or leave it out."
    )
  if implementation == 'cudnn' and get('dtype') == jnp.float32:
    raise InputError(
      "attention_implementation='cudnn' computes in bfloat16 only. Use dtype='bfloat16', or "
      "attention_implementation='plain'."
    )
  if get('registers') and place != 'stem':
    raise InputError(
      f"Registers have no position, so pos_embedding_at={place!r} does not fit them. Use 'stem'."
    )
