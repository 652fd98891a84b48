"""Read the config.json beside a safetensors file, as timm or Hugging Face wrote it."""

from collections.abc import Sequence
import json
import os
from typing import Any

from vit_jax.errors import InputError
from vit_jax.pretrained import torch_preprocessing
from vit_jax.pretrained.metadata import EMPTY, Metadata
from vit_jax.pretrained.torch_preprocessing import pair

# {name in timm or Hugging Face: our name}
_ACTIVATIONS = {
  'gelu': 'gelu',
  'gelu_pytorch_tanh': 'gelu_tanh',
  'gelu_new': 'gelu_tanh',
  'gelu_fast': 'gelu_tanh',
  'quick_gelu': 'quick_gelu',
  'erf': 'gelu',
  'tanh': 'gelu_tanh',
}
POOLING = {'token': 'token', 'avg': 'gap', 'map': 'map'}
Json = dict[str, Any]


def read_config(
  text: str | bytes, path: str | os.PathLike[str], preprocessor: Metadata = EMPTY
) -> Metadata:
  """Read the config.json of timm or Hugging Face.

  Args:
    text: the content of the file.
    path: the file's path, for errors.
    preprocessor: what the preprocessor_config.json beside it says.

  Raises:
    InputError: the file is not a model's config.json.
  """
  try:
    config = json.loads(text)
    if not isinstance(config, dict):
      raise ValueError('not an object')
    metadata = _metadata(config)
    if metadata.image_size:
      preprocessor = preprocessor.for_image_size(metadata.image_size)
    else:  # the arrays show the model's size, from which the preprocessor's may differ
      preprocessor = preprocessor._replace(image_size=None)
    return metadata.updated(preprocessor).updated(torch_preprocessing.read_own(config))
  except (ValueError, TypeError, KeyError, AttributeError) as e:
    raise InputError(
      f'Cannot read the config of a model in {path} ({e}). Download the file again.'
    ) from e


def read_preprocessor(text: str | bytes, path: str | os.PathLike[str]) -> Metadata:
  """Read Hugging Face's preprocessor_config.json: how it resizes, crops and normalizes images.

  Raises:
    InputError: the file is not a preprocessor_config.json.
  """
  try:
    config = json.loads(text)
    mean, std = config.get('image_mean'), config.get('image_std')
    if config.get('do_normalize') is False:  # pixels stay in [0, 1]
      mean, std = (0.0,) * 3, (1.0,) * 3
    metadata = torch_preprocessing.from_hf(config).updated(_normalization(mean, std))
    return metadata.updated(torch_preprocessing.read_own(config))
  except (ValueError, TypeError, AttributeError) as e:
    raise InputError(
      f'Cannot read the config of a preprocessor in {path} ({e}). Download the file again.'
    ) from e


def _metadata(config: Json) -> Metadata:
  """Return the metadata in a config.json of timm, of Hugging Face, or of older versions."""
  args = config.get('model_args') or {}
  pretrained_cfg = config.get('pretrained_cfg') or {}
  architecture = config.get('architecture') or ''
  activation = config.get('hidden_act') or args.get('act_layer') or config.get('gelu')
  eps = config.get('layer_norm_eps')
  if architecture.startswith(('vit_', 'deit')) and 'siglip' not in architecture:
    activation = activation or ('quick_gelu' if 'quickgelu' in architecture else 'gelu')
    eps = eps or (1e-5 if '_clip_' in architecture else 1e-6)
  size = (
    config.get('image_size')
    or args.get('img_size')
    or config.get('img_size')
    or pretrained_cfg.get('input_size', [])[1:]
  )
  heads = config.get('num_attention_heads') or args.get('num_heads') or config.get('num_heads')
  pooling = args.get('global_pool') or config.get('global_pool')
  mean = pretrained_cfg.get('mean') or config.get('mean')
  std = pretrained_cfg.get('std') or config.get('std')
  size = pair(size) if size else None
  preprocessing = torch_preprocessing.from_timm(config | pretrained_cfg, size)
  return preprocessing.updated(_normalization(mean, std))._replace(
    num_heads=heads and int(heads),
    activation=activation and _ACTIVATIONS.get(activation, activation),
    norm_eps=eps and float(eps),
    head=POOLING.get(pooling or '', pooling) or None,
    pos_embedding='none' if args.get('pos_embed') == 'none' else None,
    image_size=size,
    class_names=_class_names(config, pretrained_cfg),
  )


def _normalization(mean: Sequence[float] | None, std: Sequence[float] | None) -> Metadata:
  if not mean or not std:
    return Metadata()
  return Metadata(image_mean=tuple(map(float, mean)), image_std=tuple(map(float, std)))


def _class_names(config: Json, pretrained_cfg: Json) -> list[str] | None:
  names = config.get('label_names') or config.get('labels') or pretrained_cfg.get('label_names')
  if not names and config.get('id2label'):
    by_id = {int(k): v for k, v in config['id2label'].items()}
    names = [by_id[i] for i in range(len(by_id))]
    if names == placeholder_names(len(names)):
      return None
  return list(names) if names else None


def placeholder_names(num_classes: int) -> list[str]:
  """Return the class names that transformers writes when it has no real ones."""
  return [f'LABEL_{i}' for i in range(num_classes)]
