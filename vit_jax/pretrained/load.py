"""Parameters from files into models, and back."""

import logging
import os
from typing import Any, NamedTuple

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp

from vit_jax.errors import InputError
from vit_jax.models.create import create_model
from vit_jax.models.sizes import Variant
from vit_jax.pretrained.architecture import infer_model
from vit_jax.pretrained.fit import absorb_normalization, fit
from vit_jax.pretrained.formats import read_checkpoint
from vit_jax.pretrained.metadata import MODEL_FIELDS

_SIZES = (*Variant._fields, 'resnet_stages')  # what a name says
log = logging.getLogger('vit_jax')


class Loaded(NamedTuple):
  """A checkpoint ready for use."""

  model: nn.Module
  params: Any  # for model.apply({'params': params}, images); NumPy arrays
  class_names: list[str] | None  # None: the file has none


def abstract_params(model: nn.Module) -> Any:
  """The model's parameter tree as shapes and dtypes, nothing computed."""
  images = jax.ShapeDtypeStruct((1, *model.image_size, 3), jnp.float32)
  return jax.eval_shape(model.init, jax.random.key(0), images)['params']


def load_params(path: str | os.PathLike, model: nn.Module, *, new_head: bool = False) -> Any:
  """Reads a checkpoint as parameters of `model`.

  Two things may differ from the model, and a warning says so: the head, when the number of classes
  does (a new head is zeros, its bias `head_bias_init`; a pre_logits layer that the model lacks goes
  with the old one), and the grid of a learned position embedding (resized as in paper section 3.2).
  A warning also names what a config.json says against the model (activation, norm_eps, ...).

  Args:
    path: .npz as published (both dialects), .safetensors of timm or Hugging Face or a directory of
      it, an Orbax directory of a training run or of `save_params`; local, https:// or gs://.
    model: made by `create_model`; says which arrays are expected.
    new_head: the head is new also where the file's has as many classes, which may be others: for
      fine-tuning (paper section 3.2).
  Returns:
    The parameter tree for model.apply({'params': ...}, images), NumPy arrays.
  Raises:
    InputError: when the file cannot be read or is damaged, or listing together every missing,
      extra and mis-shaped array.
  """
  want = traverse_util.flatten_dict(abstract_params(model), sep='/')
  num_heads = next((x.shape[1] for k, x in want.items() if k.endswith('/query/kernel')), None)
  grid = getattr(model, 'grid', None)
  arrays, metadata = read_checkpoint(
    path, num_heads=num_heads, num_patches=grid and grid[0] * grid[1]
  )
  _warn_of_contradictions(path, metadata, model, num_heads)
  params = fit(arrays, want, model, metadata, path, new_head)
  return traverse_util.unflatten_dict(params, sep='/')


def _warn_of_contradictions(path, metadata, model, num_heads):
  """Warns of what changes the numbers and not the shapes."""
  given = {field: getattr(model, field, None) for field in MODEL_FIELDS}
  for field, given in (given | {'num_heads': num_heads}).items():
    said = getattr(metadata, field)
    if said is not None and given is not None and said != given:
      log.warning(
        '%s says %s=%r, the model has %r: its outputs will differ; create_model(..., '
        '%s=%r) follows the file',
        path,
        field,
        said,
        given,
        field,
        said,
      )
  if metadata.image_mean and {*metadata.image_mean, *metadata.image_std} != {0.5}:
    log.warning(
      '%s is of a model for images (x - mean) / std with x in [0, 1], mean %s and std '
      '%s: give it such, or take load_model, which adapts it to images in [-1, 1]',
      path,
      metadata.image_mean,
      metadata.image_std,
    )


def load_model(path: str | os.PathLike, name: str | None = None, **overrides: Any) -> Loaded:
  """Reads a checkpoint and makes the model that it is of.

      model, params, class_names = load_model('ViT-B_16.npz')

  Args:
    path: of any kind that `load_params` reads.
    name: of the model, as for `create_model`; None: as the arrays tell.
    **overrides: arguments of `create_model` which the checkpoint does not tell or which shall
      differ, such as dtype and image_size (whereupon the position embedding is resized).
  Returns:
    (model, params, class_names). The model takes images in [-1, 1] whatever the file's own
    normalisation of pixels is: another one becomes part of the patch embedding, which is exact.
  Raises:
    InputError: the file cannot be read, or it is of no model that `create_model` makes, or of
      another than name and overrides say.
  """
  arrays, metadata = read_checkpoint(path, num_heads=overrides.get('num_heads'))
  if metadata.image_mean and {*metadata.image_mean, *metadata.image_std} != {0.5}:
    arrays |= absorb_normalization(arrays, metadata.image_mean, metadata.image_std)
  try:
    found_name, found = infer_model(arrays, metadata)
  except InputError as e:
    raise InputError(f'{path}: {e}') from e
  if name is not None:
    found = {field: value for field, value in found.items() if field not in _SIZES}
  model = create_model(name or found_name, **found | overrides)
  want = traverse_util.flatten_dict(abstract_params(model), sep='/')
  params = traverse_util.unflatten_dict(fit(arrays, want, model, metadata, path), sep='/')
  return Loaded(model, params, metadata.class_names)
