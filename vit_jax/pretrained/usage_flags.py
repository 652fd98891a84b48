"""Flags with which commands make the model of a checkpoint and use it as it is meant to be."""

from collections.abc import Mapping
import shlex
from typing import Any

from vit_jax.config.fields import default_config
from vit_jax.errors import InputError
from vit_jax.pretrained.architecture import infer_model
from vit_jax.pretrained.metadata import Metadata, unpublished_values

# What a training run decides itself: the head is new, and its size and the images are chosen.
_OF_THE_RUN = ('num_classes', 'image_size', 'representation_size')


def config_flags(arrays: Mapping[str, Any], metadata: Metadata) -> list[str]:
  """Return the flags of a training run whose model takes the arrays: --config.model=ViT-B/16, ...

  If `create_model` cannot build this model, its name is left open.
  """
  try:
    name, fields = infer_model(arrays, metadata)
  except InputError:
    return ['--config.model=NAME']
  default = default_config().to_dict()
  differ = {
    field: value
    for field, value in fields.items()
    if field not in _OF_THE_RUN and value != default[field]
  }
  return [f'--config.model={name}', *(f'--config.{k}={v}' for k, v in differ.items())]


def tool_flags(metadata: Metadata, format: str) -> list[str]:
  """Return the flags of tools.predict and others for what a file of this format does not keep."""
  if format != 'npz':
    return []
  flags = []
  for field, value in unpublished_values(metadata).items():
    if field in ('activation', 'norm_eps'):
      flags.append(f'--override={field}={value}')
    else:
      flags.append(f'--{field}' if value is True else f'--{field}={value}')
  size = metadata.image_size
  if size and size[0] != size[1]:
    flags.append(f'--image_size={size[0]},{size[1]}')
  if metadata.class_names:
    flags.append('--labels=FILE')
  return flags


def command(module: str, *arguments: str) -> str:
  """Return a command line that can be pasted into a shell."""
  return ' '.join(['python -m', f'vit_jax.{module}', *map(shlex.quote, arguments)])
