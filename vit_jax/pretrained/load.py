"""Parameters from files into models, and back."""

import logging
import os
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.pretrained.fingerprint import named_leaves
from vit_jax.pretrained.fit import fit
from vit_jax.pretrained.formats import read_checkpoint, write_arrays
from vit_jax.pretrained.metadata import About

_TOLD_BY_THE_MODEL = ('activation', 'norm_eps', 'head', 'pos_embedding', 'pos_embedding_at')
log = logging.getLogger('vit_jax')


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
  arrays, about = read_checkpoint(path, num_heads=num_heads, num_patches=grid and grid[0] * grid[1])
  _warn_of_contradictions(path, about, model, num_heads)
  params = fit(arrays, want, model, about, path, new_head)
  return traverse_util.unflatten_dict(params, sep='/')


def _warn_of_contradictions(path, about, model, num_heads):
  """Warns of what changes the numbers and not the shapes."""
  given = {field: getattr(model, field, None) for field in _TOLD_BY_THE_MODEL}
  for field, given in (given | {'num_heads': num_heads}).items():
    said = getattr(about, field)
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
  if about.image_mean and {*about.image_mean, *about.image_std} != {0.5}:
    log.warning(
      '%s is of a model for images (x - mean) / std with x in [0, 1], mean %s and std '
      '%s: give it such, or take load_model, which adapts it to images in [-1, 1]',
      path,
      about.image_mean,
      about.image_std,
    )


def save_params(
  params: Any,
  path: str | os.PathLike,
  format: str | None = None,
  *,
  model: nn.Module | None = None,
  class_names: list[str] | None = None,
  spelling: str = 'pre_linen',
) -> None:
  """Writes parameters for other programs to read; `load_params` reads back the same bits.

  Args:
    params: a parameter tree.
    path: .npz: a file, as published. orbax: a directory. timm, hf: a directory, which gets
      model.safetensors and config.json, or a .safetensors file. Replaced in one piece.
    format: 'npz', 'timm', 'hf' or 'orbax'; None: npz for a path that ends so, else orbax.
    model: tells what parameters do not: activation (else 'gelu_tanh' is taken for granted),
      norm_eps (else 1e-6), image size (else a square).
    class_names: in the order of the head's outputs; kept by timm, hf and orbax.
    spelling: of npz names, 'pre_linen' (what the original code and timm read) or 'linen'.

  Raises:
    InputError: for what the format cannot hold, or when it cannot be written.
  """
  names, leaves = named_leaves(params)
  about = About(class_names=list(class_names) if class_names else None)
  if model is not None:
    about = about._replace(
      image_size=model.image_size,
      **{field: getattr(model, field, None) for field in _TOLD_BY_THE_MODEL},
    )
  arrays = {name: np.asarray(leaf) for name, leaf in zip(names, leaves)}
  write_arrays(arrays, path, format, about=about, spelling=spelling)
