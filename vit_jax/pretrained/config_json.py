"""The config.json beside safetensors: read, and written for timm and for Hugging Face."""

from collections.abc import Mapping
import json
import os
from typing import Any

import numpy as np

from vit_jax.errors import InputError
from vit_jax.pretrained.metadata import Metadata
from vit_jax.pretrained.npz import POSITIONS

_HF_ACTIVATIONS = {
  'gelu': 'gelu',
  'gelu_pytorch_tanh': 'gelu_tanh',
  'gelu_new': 'gelu_tanh',
  'gelu_fast': 'gelu_tanh',
  'quick_gelu': 'quick_gelu',
  'erf': 'gelu',
  'tanh': 'gelu_tanh',
}
_TO_HF = {'gelu': 'gelu', 'gelu_tanh': 'gelu_pytorch_tanh', 'quick_gelu': 'quick_gelu'}
_POOLING = {'token': 'token', 'avg': 'gap', 'map': 'map'}
# An architecture by which timm knows the width; all else that differs goes into model_args.
_TIMM_NAMES = {
  192: 'vit_tiny_patch16_224',
  384: 'vit_small_patch16_224',
  768: 'vit_base_patch16_224',
  1024: 'vit_large_patch16_224',
  1280: 'vit_huge_patch14_224',
}
# norm_eps cannot be in model_args: it is one of timm's two, by architecture.
_TIMM_EPS = {1e-6: None, 1e-5: 'vit_base_patch16_clip_224'}


def read_config(text: str | bytes, path: str | os.PathLike) -> Metadata:
  """Reads timm's or Hugging Face's config.json; `path` is for errors.

  Raises:
    InputError: naming the file, when it is no such JSON.
  """
  try:
    config = json.loads(text)
    if not isinstance(config, dict):
      raise ValueError('not an object')
    return _metadata(config)
  except (ValueError, TypeError, KeyError, AttributeError) as e:
    raise InputError(f'{path} has no readable config of a model ({e})') from e


def _metadata(config):
  args = config.get('model_args') or {}
  architecture = config.get('architecture') or ''
  activation = config.get('hidden_act') or args.get('act_layer') or config.get('gelu')
  eps = config.get('layer_norm_eps')
  if architecture.startswith(('vit_', 'deit')) and 'siglip' not in architecture:
    activation = activation or ('quick_gelu' if 'quickgelu' in architecture else 'gelu')
    eps = eps or (1e-5 if '_clip_' in architecture else 1e-6)
  cfg = config.get('pretrained_cfg') or {}
  size = (
    config.get('image_size')
    or args.get('img_size')
    or config.get('img_size')
    or cfg.get('input_size', [])[1:]
  )
  heads = config.get('num_attention_heads') or args.get('num_heads') or config.get('num_heads')
  pooling = args.get('global_pool') or config.get('global_pool')
  return Metadata(
    num_heads=heads and int(heads),
    activation=activation and _HF_ACTIVATIONS.get(activation, activation),
    norm_eps=eps and float(eps),
    head=_POOLING.get(pooling, pooling) or None,
    pos_embedding='none' if args.get('pos_embed') == 'none' else None,
    image_size=_pair(size) if size else None,
    **_normalization(cfg.get('mean') or config.get('mean'), cfg.get('std') or config.get('std')),
    class_names=_class_names(config, cfg),
  )


def read_preprocessor(text: str | bytes, path: str | os.PathLike) -> dict[str, Any]:
  """image_mean and image_std of Hugging Face's preprocessor_config.json, as fields of `Metadata`."""
  try:
    config = json.loads(text)
    return _normalization(config.get('image_mean'), config.get('image_std'))
  except (ValueError, TypeError, AttributeError) as e:
    raise InputError(f'{path} has no readable config of a preprocessor ({e})') from e


def _normalization(mean, std):
  if not mean or not std:
    return {}
  return dict(image_mean=tuple(map(float, mean)), image_std=tuple(map(float, std)))


def _pair(size):
  height, width = (size, size) if isinstance(size, int) else size
  return int(height), int(width)


def _class_names(config, cfg):
  names = config.get('label_names') or config.get('labels') or cfg.get('label_names')
  if not names and config.get('id2label'):
    by_id = {int(k): v for k, v in config['id2label'].items()}
    names = [by_id[i] for i in range(len(by_id))]
    if names == [f'LABEL_{i}' for i in range(len(names))]:
      return None  # what transformers writes when it was told nothing
  return list(names) if names else None


def timm_config(
  arrays: Mapping[str, np.ndarray], metadata: Metadata, no_embed_class: bool
) -> dict[str, Any]:
  """The config.json with which `timm.create_model('local-dir:DIR')` makes the same model.

  Raises:
    InputError: for what timm's config cannot say.
  """
  shape = _Shape(arrays, metadata)
  if metadata.norm_eps not in _TIMM_EPS:
    raise InputError(
      f'timm has no config for norm_eps={metadata.norm_eps:g}, only 1e-6 and 1e-5; '
      'write hf, or say norm_eps=1e-6 if the small difference does not matter'
    )
  pre_norm, patch_bias = 'Transformer/pre_norm/scale' in arrays, 'embedding/bias' in arrays
  if pre_norm == patch_bias:
    raise InputError('timm has pre_norm=True with patch_bias=False or neither, no other pair')
  if POSITIONS not in arrays and metadata.pos_embedding != 'none':
    raise InputError(
      'there is no position embedding: give the model, since timm can hold '
      "pos_embedding='none' but not 'sincos2d', which has no parameters either"
    )
  head = {'token': 'token', 'gap': 'avg', 'map': 'map'}[shape.head]
  args = dict(
    img_size=list(shape.image_size),
    patch_size=shape.patch,
    embed_dim=shape.width,
    depth=shape.depth,
    num_heads=shape.num_heads,
    mlp_ratio=shape.mlp_ratio,
    class_token='cls' in arrays,
    global_pool=head,
    fc_norm=False,
    act_layer=metadata.activation,
    qkv_bias=shape.qkv_bias,
    pre_norm=pre_norm,
    no_embed_class=no_embed_class,
    reg_tokens=shape.registers,
    pos_embed='learn' if POSITIONS in arrays else 'none',
  )
  if shape.layer_scale:
    args['init_values'] = 1e-5
  size = [3, *shape.image_size]
  return dict(
    architecture=_TIMM_EPS[metadata.norm_eps]
    or _TIMM_NAMES.get(shape.width, 'vit_base_patch16_224'),
    num_classes=shape.num_classes,
    num_features=shape.width,
    global_pool=head,
    model_args=args,
    **({'label_names': metadata.class_names} if metadata.class_names else {}),
    pretrained_cfg=dict(
      input_size=size,
      fixed_input_size=True,
      num_classes=shape.num_classes,
      crop_pct=0.9,
      interpolation='bilinear',
      mean=metadata.image_mean or [0.5] * 3,
      std=metadata.image_std or [0.5] * 3,
      first_conv='patch_embed.proj',
      classifier='head',
      license='other',
    ),
  )


def hf_config(arrays: Mapping[str, np.ndarray], metadata: Metadata) -> dict[str, Any]:
  """The config.json with which transformers makes the same model.

  ViTForImageClassification when there is a head, ViTModel when there is none,
  Dinov2Model (WithRegisters) when there is LayerScale and no head.

  Raises:
    InputError: for what none of them is.
  """
  shape = _Shape(arrays, metadata)
  dinov2 = shape.layer_scale or shape.registers
  pooler = 'pre_logits/kernel' in arrays
  wrong = {
    f'head={shape.head!r}': shape.head != 'token',
    'pre_norm': 'Transformer/pre_norm/scale' in arrays,
    'patch_bias=False': 'embedding/bias' not in arrays,
    'no position embedding': POSITIONS not in arrays,
    'a head on top of pre_logits': pooler and shape.num_classes,
    'a head on top of LayerScale or registers': dinov2 and shape.num_classes,
    'pre_logits and LayerScale or registers': dinov2 and pooler,
    'registers without LayerScale': shape.registers and not shape.layer_scale,
    'LayerScale and an MLP of no whole multiple of the width': dinov2
    and shape.mlp_dim % shape.width,
  }
  for what, is_so in wrong.items():
    if is_so:
      raise InputError(f'no model of transformers has {what}; npz and orbax hold every model')
  config = dict(
    attention_probs_dropout_prob=0.0,
    dtype='float32',
    hidden_act=_TO_HF[metadata.activation],
    hidden_dropout_prob=0.0,
    hidden_size=shape.width,
    image_size=shape.image_size[0] if len(set(shape.image_size)) == 1 else list(shape.image_size),
    initializer_range=0.02,
    layer_norm_eps=metadata.norm_eps,
    num_attention_heads=shape.num_heads,
    num_channels=3,
    num_hidden_layers=shape.depth,
    patch_size=shape.patch,
    qkv_bias=shape.qkv_bias,
  )
  if dinov2:
    kind = 'dinov2_with_registers' if shape.registers else 'dinov2'
    architecture = 'Dinov2WithRegistersModel' if shape.registers else 'Dinov2Model'
    config |= dict(
      model_type=kind,
      mlp_ratio=shape.mlp_dim // shape.width,
      layerscale_value=1.0,
      use_swiglu_ffn=False,
    )
    if shape.registers:
      config['num_register_tokens'] = shape.registers
  else:
    architecture = 'ViTForImageClassification' if shape.num_classes else 'ViTModel'
    config |= dict(model_type='vit', intermediate_size=shape.mlp_dim, encoder_stride=shape.patch)
    if pooler:
      config |= dict(pooler_act='tanh', pooler_output_size=arrays['pre_logits/bias'].shape[0])
  if shape.num_classes:
    names = metadata.class_names or [f'LABEL_{i}' for i in range(shape.num_classes)]
    config |= dict(
      id2label={str(i): n for i, n in enumerate(names)},
      label2id={n: i for i, n in enumerate(names)},
    )
  return dict(sorted((config | {'architectures': [architecture]}).items()))


def hf_preprocessor(config: Mapping[str, Any], metadata: Metadata) -> dict[str, Any]:
  """The preprocessor_config.json that goes with the config of `hf_config`."""
  size = config['image_size']
  height, width = (size, size) if isinstance(size, int) else size
  return dict(
    do_normalize=True,
    do_rescale=True,
    do_resize=True,
    image_mean=metadata.image_mean or [0.5] * 3,
    image_processor_type='ViTImageProcessor',
    image_std=metadata.image_std or [0.5] * 3,
    resample=2,
    rescale_factor=1 / 255,
    size=dict(height=height, width=width),
  )


class _Shape:
  """The sizes of a plain Vision Transformer, read off its arrays."""

  def __init__(self, arrays: Mapping[str, np.ndarray], metadata: Metadata):
    if metadata.activation not in _TO_HF:
      raise InputError(f'unknown activation {metadata.activation!r}; there are {", ".join(_TO_HF)}')
    if metadata.pos_embedding_at not in (None, 'stem'):
      raise InputError(
        f'neither timm nor transformers has pos_embedding_at='
        f'{metadata.pos_embedding_at!r}; npz and orbax hold every model'
      )
    block = 'Transformer/encoderblock_0'
    query = f'{block}/MultiHeadDotProductAttention_0/query'
    for name in ('embedding/kernel', f'{query}/kernel', f'{block}/MlpBlock_0/Dense_0/kernel'):
      if name not in arrays:
        raise InputError(
          f'only plain Vision Transformers can be written for PyTorch, and {name} '
          'is missing; npz and orbax hold every model'
        )
    self.patch, _, _, self.width = arrays['embedding/kernel'].shape
    self.num_heads = arrays[f'{query}/kernel'].shape[1]
    self.qkv_bias = f'{query}/bias' in arrays
    self.mlp_dim = arrays[f'{block}/MlpBlock_0/Dense_0/kernel'].shape[1]
    self.depth = sum(
      name.endswith('/LayerNorm_0/scale') and name.startswith('Transformer/') for name in arrays
    )
    self.layer_scale = f'{block}/LayerScale_0/scale' in arrays
    self.registers = arrays['registers'].shape[1] if 'registers' in arrays else 0
    self.num_classes = arrays['head/kernel'].shape[1] if 'head/kernel' in arrays else 0
    self.head = 'map' if 'MAPHead_0/probe' in arrays else 'token' if 'cls' in arrays else 'gap'
    self.image_size = self._image_size(arrays, metadata)
    if metadata.class_names and len(metadata.class_names) != self.num_classes:
      raise InputError(f'{len(metadata.class_names)} class names for a head of {self.num_classes}')

  @property
  def mlp_ratio(self) -> float:
    """A ratio r with int(width * r) == mlp_dim, which is how both compute it."""
    ratio = self.mlp_dim / self.width
    return ratio if int(self.width * ratio) == self.mlp_dim else (self.mlp_dim + 0.5) / self.width

  def _image_size(self, arrays, metadata):
    if POSITIONS not in arrays:
      return metadata.image_size or (224, 224)
    patches = arrays[POSITIONS].shape[1] - ('cls' in arrays)
    size = metadata.image_size
    if size and (size[0] // self.patch) * (size[1] // self.patch) == patches:
      return tuple(size)
    side = round(patches**0.5)
    if side**2 != patches:
      raise InputError(
        f'the {patches} positions are no square grid: give the model or the image size they are for'
      )
    return (side * self.patch,) * 2
