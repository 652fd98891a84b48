"""Load a checkpoint as a model, with the config of the training run that wrote it."""

from __future__ import annotations

from collections.abc import Mapping
import logging
from typing import Any

from flax import traverse_util
import numpy as np

from vit_jax.config.fields import model_overrides
from vit_jax.config.run import Run, find_run
from vit_jax.files import user_path
from vit_jax.models.params import Params
from vit_jax.pretrained import orbax
from vit_jax.pretrained.load import Loaded, load_model

log = logging.getLogger('vit_jax')

_HEAD_KERNELS = ('head/kernel', 'head/conv2d/kernel')


def checkpoint_run(path: str) -> Run | None:
  """Return the training run that wrote a checkpoint, or None if no run did.

  Args:
    path: a workdir, its checkpoints/ or the directory of a step. Files belong to no run.
  """
  return find_run(orbax.find_checkpoint(path)) if user_path(path).is_dir() else None


def load_checkpoint(
  path: str,
  *,
  model: str | None = None,
  image_size: int | tuple[int, int] | None = None,
  overrides: Mapping[str, Any] | None = None,
  dtype: str | None = None,
) -> tuple[Loaded, Run | None]:
  """Load a checkpoint of a training run or a published one.

  Arguments that are not given are taken from the config of the run, or else inferred from the
  arrays of the checkpoint.

  Args:
    path: any path that `load_model` reads, or the workdir of a run.
    model: name of the model, such as 'ViT-B/16'.
    image_size: side, or (height, width), in pixels.
    overrides: other arguments of `create_model`.
    dtype: type of the computation, 'float32' or 'bfloat16'. Defaults to that of the run, or to
      'float32'.

  Returns:
    The model with its parameters and class names, and the run, or None if no run wrote it.

  Raises:
    InputError: the checkpoint cannot be read, or does not fit the arguments.
  """
  run = checkpoint_run(path)
  config = run.config if run else {}
  fields = model_overrides(config) | {'image_size': config['image_size']} if run else {}
  fields.pop('attention_implementation', None)  # a run chose it for its own devices
  fields |= {**(overrides or {}), 'dtype': dtype or config.get('dtype', 'float32')}
  if image_size:
    fields['image_size'] = image_size
  loaded = load_model(path, model or config.get('model'), **fields)
  _warn_of_untrained_head(path, loaded.params)
  return loaded, run


def _warn_of_untrained_head(path: str, params: Params) -> None:
  flat = traverse_util.flatten_dict(params, sep='/')
  kernels = [np.asarray(array) for name, array in flat.items() if name.endswith(_HEAD_KERNELS)]
  if kernels and not any(kernel.any() for kernel in kernels):
    log.warning(
      'The head of %s is all zeros, as in the original ImageNet-21k checkpoints. It was not '
      'trained, so its predictions are meaningless.',
      path,
    )
