"""Models by name."""

import re
from typing import Any

from flax import linen as nn
import jax.numpy as jnp

from vit_jax.errors import InputError
from vit_jax.models.variants import VARIANTS, Variant
from vit_jax.models.vit import VisionTransformer

HEADS = ('token', 'gap')
OVERRIDES = ('head', 'representation_size', 'dropout', 'head_bias_init', 'activation', 'dtype')


def create_model(name: str, *, num_classes: int, image_size: int | tuple[int, int] = 224,
                 **overrides: Any) -> nn.Module:
  """Makes a model of the paper by its name.

  Args:
    name: 'ViT-<size>/<patch>', e.g. 'ViT-B/16'; sizes Ti S B L H g G e (table 1), any patch.
    num_classes: width of the head.
    image_size: pixels, a side or (height, width); a multiple of the patch size.
    **overrides: fields of the model: head='token'|'gap', representation_size, dropout,
      head_bias_init, activation, dtype; or of its size: hidden_dim, mlp_dim, num_heads,
      num_layers (None: as in the table).
  Returns:
    A Flax module; model.apply({'params': params}, images) gives (B, num_classes) logits.
  Raises:
    InputError: for an unknown name or a value that cannot be built.
  """
  match = re.fullmatch(r'ViT-([A-Za-z]+)/([1-9][0-9]*)', name)
  if not match or match[1] not in VARIANTS:
    raise InputError(f'unknown model {name!r}; names are ViT-<size>/<patch> with size one of '
                     f'{", ".join(VARIANTS)}, e.g. ViT-B/16')
  patch = int(match[2])
  height, width = (image_size,) * 2 if isinstance(image_size, int) else image_size
  if height % patch or width % patch or min(height, width) < patch:
    raise InputError(f'image_size {height}x{width} is not a multiple of the patch size {patch} '
                     f'of {name}; try {max(1, round(height / patch)) * patch}')
  if num_classes < 1:
    raise InputError(f'num_classes must be positive, got {num_classes}')
  head = overrides.get('head', 'token')
  if head not in HEADS:
    raise InputError(f'unknown head {head!r}; heads are {", ".join(HEADS)}')
  if not 0 <= overrides.get('dropout', 0) < 1:
    raise InputError(f'dropout must be in [0, 1), got {overrides["dropout"]}')
  sizes = {k: v for k in Variant._fields if (v := overrides.pop(k, None)) is not None}
  variant = VARIANTS[match[1]]._replace(**sizes)
  if variant.hidden_dim % variant.num_heads:
    raise InputError(f'hidden_dim {variant.hidden_dim} is not divisible by num_heads '
                     f'{variant.num_heads}')
  unknown = sorted(set(overrides) - set(OVERRIDES))
  if unknown:
    raise InputError(f'unknown field {unknown[0]!r} of {name}; there are '
                     f'{", ".join(OVERRIDES + Variant._fields)}')
  overrides['dtype'] = jnp.dtype(overrides.get('dtype', 'float32'))
  return VisionTransformer(variant, patch, (height, width), num_classes, **overrides)
