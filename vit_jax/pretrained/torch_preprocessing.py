"""Convert preprocessing settings to and from the configs of timm and Hugging Face.

Their configs cannot express all of our settings. Therefore `own_record` is written beside them,
under a key that both ignore. It wins when the file is read again.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import logging
import math
from typing import Any

from vit_jax.pretrained.metadata import USAGE_FIELDS, Metadata

Json = dict[str, Any]
OWN_KEY = 'vit_jax'
_OWN_FIELDS = (*USAGE_FIELDS, 'image_mean', 'image_std')
_TIMM_FILTERS = {'bilinear': 'bilinear_antialias', 'bicubic': 'bicubic'}
_HF_FILTERS = {2: 'bilinear_antialias', 3: 'bicubic'}  # values of PIL.Image.Resampling
# What earlier versions of save_params wrote for every model, without a crop_mode.
_EARLIER = {'crop_pct': 0.9, 'interpolation': 'bilinear', 'license': 'other'}
# timm's values where a config leaves them out.
_TIMM_CROP, _TIMM_FILTER, _TIMM_MODE = 0.875, 'bicubic', 'center'
# Processors whose `size`, when it is one number, is the short side and not both sides.
_SHORT_SIDE = ('CLIP', 'Bit', 'ConvNext')
log = logging.getLogger('vit_jax')


def from_timm(pretrained_cfg: Mapping[str, Any], size: tuple[int, int] | None) -> Metadata:
  """Return the preprocessing in timm's pretrained_cfg.

  Args:
    pretrained_cfg: the part of a config.json. In old files, it is the whole file.
    size: image size in pixels that the config is for, if it is known.
  """
  crop = pretrained_cfg.get('crop_pct')
  interpolation = pretrained_cfg.get('interpolation')
  mode = pretrained_cfg.get('crop_mode') or _TIMM_MODE
  if (crop is None and interpolation is None) or size is None:
    return Metadata()
  if _EARLIER.items() <= pretrained_cfg.items() and 'crop_mode' not in pretrained_cfg:
    return Metadata()  # not a property of the model
  eval_filter = _known_filter(_TIMM_FILTERS, interpolation or _TIMM_FILTER)
  resize_size = math.floor(size[0] / float(crop or _TIMM_CROP))
  if mode == 'squash':
    preset = 'bit' if resize_size == size[0] else 'squash'
  elif mode == 'center':
    preset = 'inception'
  else:
    log.warning('crop_mode=%r of timm is not supported, so images are resized to squares.', mode)
    preset = 'bit'
  return Metadata(
    preset=preset, resize_size=None if preset == 'bit' else resize_size, eval_filter=eval_filter
  )


def from_hf(preprocessor: Mapping[str, Any]) -> Metadata:
  """Return the preprocessing in Hugging Face's preprocessor_config.json.

  image_size is the size of the images that it makes. It may differ from the model's.
  """
  size, crop = preprocessor.get('size'), preprocessor.get('crop_size')
  if not size or preprocessor.get('do_resize') is False:
    return Metadata()
  resample = preprocessor.get('resample')
  eval_filter = None if resample is None else _known_filter(_HF_FILTERS, resample)
  kind = preprocessor.get('image_processor_type') or preprocessor.get('feature_extractor_type')
  if isinstance(size, int):
    short = (kind or '').startswith(_SHORT_SIDE)
    size = {'shortest_edge': size} if short else {'height': size, 'width': size}
  crop = pair(crop) if crop and preprocessor.get('do_center_crop', True) else None
  if side := size.get('shortest_edge'):
    crop = crop or (int(side), int(side))
    return Metadata(
      preset='inception', resize_size=int(side), eval_filter=eval_filter, image_size=crop
    )
  both = pair(size)
  if crop is None or crop == both:
    return Metadata(preset='bit', eval_filter=eval_filter, image_size=both)
  return Metadata(preset='squash', resize_size=both[0], eval_filter=eval_filter, image_size=crop)


def to_timm(metadata: Metadata, size: tuple[int, int]) -> Json:
  """Return crop_pct, crop_mode and interpolation for timm's pretrained_cfg."""
  usage = metadata.usage.updated()
  center = usage.preset == 'inception'
  resize_size = size[0] if usage.preset == 'bit' else usage.resize_size or round(size[0] * 8 / 7)
  return dict(
    crop_pct=_crop_pct(size[0], resize_size),
    crop_mode='center' if center else 'squash',
    interpolation='bicubic' if usage.eval_filter == 'bicubic' else 'bilinear',
  )


def to_hf(metadata: Metadata, size: tuple[int, int]) -> Json:
  """Return the fields of a preprocessor_config.json that resize and crop images."""
  usage = metadata.usage.updated()
  square = dict(height=size[0], width=size[1])
  resize_size = usage.resize_size or round(size[0] * 8 / 7)
  resample = 3 if usage.eval_filter == 'bicubic' else 2
  if usage.preset == 'bit':
    return dict(image_processor_type='ViTImageProcessor', resample=resample, size=square)
  crop = dict(do_center_crop=True, crop_size=square, resample=resample)
  if usage.preset == 'inception':
    resized = dict(shortest_edge=resize_size)
    return crop | dict(image_processor_type='BitImageProcessor', size=resized)
  resized = dict(height=resize_size, width=resize_size)
  return crop | dict(image_processor_type='DeiTImageProcessor', size=resized)


def own_record(metadata: Metadata) -> Json:
  """Return what `read_own` reads: how to use the model, in our words."""
  usage = metadata.usage.updated()
  fields = {
    k: v for k, v in dataclasses.asdict(usage).items() if k != 'class_names' and v is not None
  }
  if metadata.custom_normalization:
    fields['image_mean'], fields['image_std'] = metadata.custom_normalization
  return fields


def read_own(config: Mapping[str, Any]) -> Metadata:
  """Return the metadata in the record of a config.json, or nothing if it has none."""
  own = config.get(OWN_KEY) or {}
  fields: Json = {k: tuple(v) if isinstance(v, list) else v for k, v in own.items()}
  return Metadata(**{k: v for k, v in fields.items() if k in _OWN_FIELDS})


def _known_filter(filters: Mapping[Any, str], name: Any) -> str | None:
  if name not in filters:
    log.warning('The filter %r is not supported, so images are resized with another.', name)
  return filters.get(name)


def _crop_pct(size: int, resize_size: int) -> float:
  """Return a short number for which timm's floor(size / crop_pct) is resize_size."""
  for digits in range(3, 9):
    crop = round(size / resize_size, digits)
    if math.floor(size / crop) == resize_size:
      return crop
  return size / (resize_size + 0.5)


def pair(size: int | Sequence[int] | Mapping[str, int]) -> tuple[int, int]:
  """Return (height, width) of a size that is one number, two, or a mapping with these names."""
  if isinstance(size, Mapping):
    return int(size['height']), int(size['width'])
  height, width = (size, size) if isinstance(size, int) else size
  return int(height), int(width)
