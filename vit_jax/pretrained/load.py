"""Load a checkpoint, as parameters of a given model or together with its own model."""

from collections.abc import Mapping
import logging
import os
from typing import Any, NamedTuple

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.errors import InputError
from vit_jax.models.create import create_model
from vit_jax.models.sizes import Variant
from vit_jax.models.vit import VisionTransformer
from vit_jax.pretrained.architecture import infer_model
from vit_jax.pretrained.array_sizes import ArraySizes
from vit_jax.pretrained.fit import fit, num_outputs, without_normalization
from vit_jax.pretrained.formats import read_checkpoint
from vit_jax.pretrained.metadata import MODEL_FIELDS, Metadata
from vit_jax.pretrained.usage_flags import config_flags

_NAME_FIELDS = (*Variant._fields, 'resnet_stages')  # fields that follow from a model's name
Path = str | os.PathLike[str]
# How a warning advises to set a field of the model.
_PYTHON = 'use create_model(..., {field}={value!r})'
_FLAGS = 'pass --config.{field}={value}'
_LOAD = 'give {field}={value!r} to load_model, or --override={field}={value} to a command'
log = logging.getLogger('vit_jax')


class Loaded(NamedTuple):
  """A model and its parameters, ready for use."""

  model: nn.Module
  params: Any  # for model.apply({'params': params}, images); NumPy arrays
  class_names: list[str] | None  # None: the file has none


def load_params(path: Path, model: nn.Module, *, new_head: bool = False) -> Any:
  """Load a checkpoint as parameters of `model`.

  The file may differ from the model in two ways, and a warning says so:
  - The number of classes. The model then gets a new head of zeros, with bias `head_bias_init`. If
    the model has no pre_logits layer, that of the file is dropped together with the old head.
  - The grid of a learned position embedding, which is then resized as in paper section 3.2.
  A warning also names properties in which the file's config.json contradicts the model, such as
  activation and norm_eps.

  Args:
    path: a published .npz file, a .safetensors file of timm or Hugging Face or its directory, or an
      Orbax directory that a training run or `save_params` wrote. A local path, or an https:// or
      gs:// address.
    model: the model from `create_model`. It defines which arrays are expected.
    new_head: use a new head even if the file's head has as many classes, because they may be other
      classes. This is for fine-tuning (paper section 3.2).

  Returns:
    The parameter tree for model.apply({'params': ...}, images), as NumPy arrays.

  Raises:
    InputError: the file cannot be read or is damaged, or it does not fit the model. The message
      lists every array that is missing, extra or of another shape.
  """
  return _load_params(path, model, new_head, _PYTHON, keep_normalization=True)


def load_initial_params(path: Path, model: nn.Module, *, new_head: bool = False) -> Any:
  """Load a checkpoint for a training run to start from, like `load_params`.

  Training normalizes pixels to [-1, 1]. If the checkpoint expects another normalization, the patch
  embedding absorbs the difference, exactly, as in `load_model`. Warnings advise config flags.
  """
  return _load_params(path, model, new_head, _FLAGS, keep_normalization=False)


def _load_params(
  path: Path, model: nn.Module, new_head: bool, remedy: str, *, keep_normalization: bool
) -> Any:
  want = _expected_arrays(model)
  num_heads = next((x.shape[1] for k, x in want.items() if k.endswith('/query/kernel')), None)
  grid = getattr(model, 'grid', None)
  num_patches = grid[0] * grid[1] if grid else None
  arrays, metadata = read_checkpoint(path, num_heads=num_heads, num_patches=num_patches)
  _warn_of_contradictions(path, metadata, model, num_heads, remedy)
  _warn_of_unrecorded(path, arrays, metadata, model, remedy)
  if keep_normalization:
    _warn_of_normalization(path, metadata)
    fitted = fit(arrays, want, model, metadata, path, new_head)
  else:
    arrays = without_normalization(arrays, metadata)
    flags = ' '.join(config_flags(arrays, metadata))
    choose = f'Choose the model that the file was written for: {flags}.'
    fitted = fit(arrays, want, model, metadata, path, new_head, remedy=choose)
  return traverse_util.unflatten_dict(fitted, sep='/')


def load_model(path: Path, name: str | None = None, **overrides: Any) -> Loaded:
  """Load a checkpoint and create its model.

      model, params, class_names = load_model('ViT-B_16.npz')

  Args:
    path: a checkpoint in any format that `load_params` reads.
    name: the model's name, as for `create_model`. None: inferred from the arrays.
    **overrides: arguments of `create_model` that the checkpoint does not record or that should
      differ, such as dtype and image_size. Another image_size resizes the position embedding.

  Returns:
    (model, params, class_names). The model always takes images in [-1, 1]. If the checkpoint
    expects pixels normalized in another way, the patch embedding absorbs the difference, exactly.
    model.usage has what else the checkpoint says about using the model: how images are resized, the
    loss, and the class names.

  Raises:
    InputError: the file cannot be read, `create_model` has no such model, or the model differs from
      `name` and `overrides`.
  """
  arrays, metadata = read_checkpoint(path, num_heads=overrides.get('num_heads'))
  arrays = without_normalization(arrays, metadata)
  try:
    inferred_name, fields = infer_model(arrays, metadata)
  except InputError as e:
    raise InputError(f'Cannot load {path}: {e}') from e
  if name is not None:
    fields = {field: value for field, value in fields.items() if field not in _NAME_FIELDS}
  model = create_model(name or inferred_name, **fields | overrides)
  if 'activation' not in overrides:
    _warn_of_unrecorded(path, arrays, metadata, model, _LOAD)
  want = _expected_arrays(model)
  inferred = (
    None if name else ' '.join([inferred_name, *(f'{k}={v!r}' for k, v in overrides.items())])
  )
  fitted = fit(arrays, want, model, metadata, path, inferred=inferred)
  params = traverse_util.unflatten_dict(fitted, sep='/')
  if num_outputs(arrays) != model.num_classes:  # the classes of a new head have no names yet
    metadata = metadata._replace(class_names=None)
  usage = metadata.for_image_size(model.image_size).usage
  if usage.preset != metadata.preset:
    log.warning(
      '%s: Images of %dx%d pixels are resized to that size as a whole, because the preset %r crops '
      'squares.',
      path,
      *model.image_size,
      metadata.preset,
    )
  return Loaded(model.clone(usage=usage), params, metadata.class_names)


def abstract_params(model: nn.Module) -> Any:
  """Return the model's parameter tree as shapes and dtypes, without computing anything."""
  images = jax.ShapeDtypeStruct((1, *model.image_size, 3), jnp.float32)
  if not isinstance(model, VisionTransformer) or not model.variant.num_layers:
    return jax.eval_shape(model.init, jax.random.key(0), images)['params']
  # All blocks are equal, so one is traced. Flax takes a third of a second for the 12 of ViT-B.
  one = model.clone(variant=model.variant._replace(num_layers=1))
  params = jax.eval_shape(one.init, jax.random.key(0), images)['params']
  block = params['Transformer']['encoderblock_0']
  blocks = {f'encoderblock_{i}': block for i in range(model.variant.num_layers)}
  return params | {'Transformer': dict(sorted((params['Transformer'] | blocks).items()))}


def _expected_arrays(model: nn.Module) -> dict[str, Any]:
  """Return {canonical name: shape and dtype}."""
  return dict(traverse_util.flatten_dict(abstract_params(model), sep='/'))


def _warn_of_contradictions(
  path: Path, metadata: Metadata, model: nn.Module, num_heads: int | None, remedy: str
) -> None:
  """Warn about metadata that would change the outputs but not the shapes of the arrays."""
  fields = {field: getattr(model, field, None) for field in MODEL_FIELDS}
  for field, value in (fields | {'num_heads': num_heads}).items():
    recorded = getattr(metadata, field)
    if recorded is not None and value is not None and recorded != value:
      log.warning(
        '%s records %s=%r, but the model has %r, so its outputs will differ. To follow the file, '
        '%s.',
        path,
        field,
        recorded,
        value,
        remedy.format(field=field, value=recorded),
      )


def _warn_of_unrecorded(
  path: Path, arrays: Mapping[str, np.ndarray], metadata: Metadata, model: nn.Module, remedy: str
) -> None:
  """Warn if the activation is only assumed, for a model that no published npz file has."""
  if metadata.activation is not None or getattr(model, 'activation', None) != 'gelu_tanh':
    return
  if parts := _unusual_parts(arrays):
    log.warning(
      '%s does not record its activation, so activation=%r is assumed. But it has %s, and such '
      "models often have another activation: OpenAI's CLIP has 'quick_gelu', DINOv2 and others "
      "have 'gelu'. To choose 'gelu', %s.",
      path,
      'gelu_tanh',
      ' and '.join(parts),
      remedy.format(field='activation', value='gelu'),
    )


def _unusual_parts(arrays: Mapping[str, np.ndarray]) -> list[str]:
  """Return the parts of a model that no published npz file has."""
  sizes = ArraySizes(arrays)
  if not sizes.is_vision_transformer:
    return []
  parts = {
    'a LayerNorm before the first block': sizes.pre_norm,
    'LayerScale': sizes.layer_scale,
    'registers': sizes.registers > 0,
  }
  return [part for part, present in parts.items() if present]


def _warn_of_normalization(path: Path, metadata: Metadata) -> None:
  if metadata.custom_normalization:
    log.warning(
      '%s expects images normalized as (x - mean) / std with x in [0, 1], mean %s and std %s. '
      'Normalize your images in the same way, or use load_model, which adapts the model to images '
      'in [-1, 1].',
      path,
      *metadata.custom_normalization,
    )
