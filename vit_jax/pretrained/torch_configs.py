"""Write the config.json from which timm or Hugging Face's transformers build a model."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.errors import InputError, unknown
from vit_jax.pretrained.array_sizes import ArraySizes
from vit_jax.pretrained.config_json import POOLING, Json, placeholder_names
from vit_jax.pretrained.metadata import Metadata
from vit_jax.pretrained.posembed import square_grid
from vit_jax.pretrained.torch_preprocessing import pair, to_hf, to_timm

_TO_HF: dict[str | None, str] = {
  'gelu': 'gelu',
  'gelu_tanh': 'gelu_pytorch_tanh',
  'quick_gelu': 'quick_gelu',
}
# {width: timm's architecture}. model_args holds every difference between it and the model.
_TIMM_NAMES = {
  192: 'vit_tiny_patch16_224',
  384: 'vit_small_patch16_224',
  768: 'vit_base_patch16_224',
  1024: 'vit_large_patch16_224',
  1280: 'vit_huge_patch14_224',
}
# model_args cannot hold norm_eps. timm has two values, and the architecture decides between them.
_TIMM_EPS: dict[float | None, str | None] = {1e-6: None, 1e-5: 'vit_base_patch16_clip_224'}
_HOLD_EVERY_MODEL = 'Write npz or orbax instead, which hold every model.'


def timm_config(arrays: Mapping[str, np.ndarray], metadata: Metadata, no_embed_class: bool) -> Json:
  """Return the config.json from which `timm.create_model('local-dir:DIR')` builds the model.

  Args:
    arrays: {canonical name: array}.
    metadata: properties that the arrays do not show.
    no_embed_class: timm's option, True if the class token has no position embedding.

  Raises:
    InputError: timm's config cannot describe the model.
  """
  sizes = ArraySizes(arrays)
  _check_plain(sizes, metadata)
  _check_timm(sizes, metadata)
  image_size = _image_size(sizes, metadata)
  architecture = _TIMM_EPS.get(metadata.norm_eps) or _TIMM_NAMES.get(sizes.hidden_dim)
  pooling = {ours: theirs for theirs, ours in POOLING.items()}[sizes.head]
  args = dict(
    img_size=list(image_size),
    patch_size=sizes.patch_size[0],
    embed_dim=sizes.hidden_dim,
    depth=sizes.num_layers,
    num_heads=sizes.num_heads,
    mlp_ratio=_mlp_ratio(sizes),
    class_token=sizes.class_token,
    global_pool=pooling,
    fc_norm=False,
    act_layer=metadata.activation,
    qkv_bias=sizes.qkv_bias,
    pre_norm=sizes.pre_norm,
    no_embed_class=no_embed_class,
    reg_tokens=sizes.registers,
    pos_embed='none' if sizes.num_patches is None else 'learn',
  )
  if sizes.layer_scale:
    args['init_values'] = 1e-5
  pretrained_cfg = dict(
    input_size=[3, *image_size],
    fixed_input_size=True,
    num_classes=sizes.num_classes,
    **to_timm(metadata, image_size),
    mean=metadata.image_mean or [0.5] * 3,
    std=metadata.image_std or [0.5] * 3,
    first_conv='patch_embed.proj',
    classifier='head',
    license='other',
  )
  return dict(
    architecture=architecture or 'vit_base_patch16_224',
    num_classes=sizes.num_classes,
    num_features=sizes.hidden_dim,
    global_pool=pooling,
    model_args=args,
    **({'label_names': metadata.class_names} if metadata.class_names else {}),
    pretrained_cfg=pretrained_cfg,
  )


def hf_config(arrays: Mapping[str, np.ndarray], metadata: Metadata) -> Json:
  """Return the config.json from which transformers builds the model.

  This is a ViTForImageClassification if there is a head, and a ViTModel if there is none. Without a
  head but with LayerScale, it is a Dinov2Model or Dinov2WithRegistersModel.

  Raises:
    InputError: transformers cannot build the model.
  """
  sizes = ArraySizes(arrays)
  _check_plain(sizes, metadata)
  _check_hf(sizes)
  image_size = _image_size(sizes, metadata)
  config = dict(
    attention_probs_dropout_prob=0.0,
    dtype='float32',
    hidden_act=_TO_HF[metadata.activation],
    hidden_dropout_prob=0.0,
    hidden_size=sizes.hidden_dim,
    image_size=image_size[0] if len(set(image_size)) == 1 else list(image_size),
    initializer_range=0.02,
    layer_norm_eps=metadata.norm_eps,
    num_attention_heads=sizes.num_heads,
    num_channels=3,
    num_hidden_layers=sizes.num_layers,
    patch_size=sizes.patch_size[0],
    qkv_bias=sizes.qkv_bias,
  )
  config |= _hf_dinov2(sizes) if _is_dinov2(sizes) else _hf_vit(sizes)
  if sizes.num_classes:
    config |= _hf_labels(metadata.class_names, sizes.num_classes)
  return dict(sorted(config.items()))


def hf_preprocessor(config: Mapping[str, Any], metadata: Metadata) -> Json:
  """Return the preprocessor_config.json that belongs to the config from `hf_config`."""
  fields = to_hf(metadata, pair(config['image_size'])) | dict(
    do_normalize=True,
    do_rescale=True,
    do_resize=True,
    image_mean=metadata.image_mean or [0.5] * 3,
    image_std=metadata.image_std or [0.5] * 3,
    rescale_factor=1 / 255,
  )
  return dict(sorted(fields.items()))


def _check_plain(sizes: ArraySizes, metadata: Metadata) -> None:
  """Raise InputError for a model that neither timm nor transformers can build."""
  if metadata.activation not in _TO_HF:
    raise unknown('activation', metadata.activation, _TO_HF)
  if metadata.pos_embedding_at not in (None, 'stem'):
    raise InputError(
      f'Neither timm nor transformers has pos_embedding_at={metadata.pos_embedding_at!r}. '
      f'{_HOLD_EVERY_MODEL}'
    )
  if not sizes.is_vision_transformer or sizes.axial:
    raise InputError(
      'PyTorch formats hold only plain Vision Transformers, not BiT ResNets or axial attention. '
      f'{_HOLD_EVERY_MODEL}'
    )
  names = metadata.class_names
  if names and len(names) != sizes.num_classes:
    raise InputError(
      f'There are {len(names)} class names, but the head has {sizes.num_classes} outputs. Give one '
      'name for each output.'
    )


def _check_timm(sizes: ArraySizes, metadata: Metadata) -> None:
  if metadata.norm_eps not in _TIMM_EPS:
    raise InputError(
      f'timm has no config for norm_eps={metadata.norm_eps:g}, only for 1e-6 and 1e-5. Write hf '
      'instead, or give norm_eps=1e-6 (--norm_eps=1e-6) if the small difference does not matter.'
    )
  if sizes.pre_norm == sizes.patch_bias:
    raise InputError(
      'timm has pre_norm=True only together with patch_bias=False, and pre_norm=False only with '
      f'patch_bias=True. {_HOLD_EVERY_MODEL}'
    )
  if sizes.num_patches is None and metadata.pos_embedding != 'none':
    raise InputError(
      "The arrays have no position embedding. timm can hold pos_embedding='none' but not "
      "'sincos2d', which has no parameters either. Give the model, so that this is known, or "
      '--pos_embedding=none.'
    )


def _check_hf(sizes: ArraySizes) -> None:
  dinov2 = _is_dinov2(sizes)
  problems = {
    f'head={sizes.head!r}': sizes.head != 'token',
    'pre_norm': sizes.pre_norm,
    'patch_bias=False': not sizes.patch_bias,
    'no position embedding': sizes.num_patches is None,
    'a head on top of pre_logits': sizes.representation_size and sizes.num_classes,
    'a head on top of LayerScale or registers': dinov2 and sizes.num_classes,
    'pre_logits together with LayerScale or registers': dinov2 and sizes.representation_size,
    'registers without LayerScale': sizes.registers and not sizes.layer_scale,
    'LayerScale with an MLP that is not a multiple of the width': dinov2
    and sizes.mlp_dim % sizes.hidden_dim,
  }
  for problem, applies in problems.items():
    if applies:
      raise InputError(f'No model of transformers has {problem}. {_HOLD_EVERY_MODEL}')


def _is_dinov2(sizes: ArraySizes) -> bool:
  return sizes.layer_scale or sizes.registers > 0


def _hf_dinov2(sizes: ArraySizes) -> Json:
  config = dict(
    architectures=['Dinov2Model'],
    model_type='dinov2',
    mlp_ratio=sizes.mlp_dim // sizes.hidden_dim,
    layerscale_value=1.0,
    use_swiglu_ffn=False,
  )
  if sizes.registers:
    config |= dict(
      architectures=['Dinov2WithRegistersModel'],
      model_type='dinov2_with_registers',
      num_register_tokens=sizes.registers,
    )
  return config


def _hf_vit(sizes: ArraySizes) -> Json:
  config = dict(
    architectures=['ViTForImageClassification' if sizes.num_classes else 'ViTModel'],
    model_type='vit',
    intermediate_size=sizes.mlp_dim,
    encoder_stride=sizes.patch_size[0],
  )
  if sizes.representation_size:
    config |= dict(pooler_act='tanh', pooler_output_size=sizes.representation_size)
  return config


def _hf_labels(class_names: list[str] | None, num_classes: int) -> Json:
  names = class_names or placeholder_names(num_classes)
  return dict(
    id2label={str(i): name for i, name in enumerate(names)},
    label2id={name: i for i, name in enumerate(names)},
  )


def _mlp_ratio(sizes: ArraySizes) -> float:
  """Return a ratio for which int(hidden_dim * ratio) is mlp_dim, as timm computes it."""
  ratio = sizes.mlp_dim / sizes.hidden_dim
  if int(sizes.hidden_dim * ratio) == sizes.mlp_dim:
    return ratio
  return (sizes.mlp_dim + 0.5) / sizes.hidden_dim


def _image_size(sizes: ArraySizes, metadata: Metadata) -> tuple[int, int]:
  """Return the recorded image size if it fits the positions, else that of a square grid."""
  if sizes.num_patches is None:
    return metadata.image_size or (224, 224)
  if metadata.image_size and sizes.fits(metadata.image_size):
    return metadata.image_size
  grid = square_grid(sizes.num_patches)
  if grid is None:
    raise InputError(
      f'The {sizes.num_patches} positions do not make a square grid. Give the model, or the image '
      'size that they are for (--image_size=H,W).'
    )
  return grid[0] * sizes.stride[0], grid[1] * sizes.stride[1]
