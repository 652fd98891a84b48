"""Parameters from files into models."""

import os
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp

from vit_jax.errors import InputError
from vit_jax.pretrained.npz import read_npz


def abstract_params(model: nn.Module) -> Any:
  """The model's parameter tree as shapes and dtypes, nothing computed."""
  images = jax.ShapeDtypeStruct((1, *model.image_size, 3), jnp.float32)
  return jax.eval_shape(model.init, jax.random.key(0), images)['params']


def load_params(path: str | os.PathLike, model: nn.Module) -> Any:
  """Reads a published checkpoint as parameters of `model`.

  Args:
    path: an `.npz` file with published names, in either spelling (pre-linen or linen).
    model: made by `create_model`; says which arrays are expected.
  Returns:
    The parameter tree for model.apply({'params': ...}, images), NumPy arrays.
  Raises:
    InputError: when the file cannot be read, or listing together every missing, extra and
      mis-shaped array.
  """
  arrays = read_npz(path)
  want = traverse_util.flatten_dict(abstract_params(model), sep='/')
  problems = [f'missing {k} {want[k].shape}' for k in sorted(want.keys() - arrays.keys())]
  problems += [f'extra {k} {arrays[k].shape}' for k in sorted(arrays.keys() - want.keys())]
  problems += [f'{k} is {arrays[k].shape}, the model has {want[k].shape}'
               for k in sorted(want.keys() & arrays.keys()) if arrays[k].shape != want[k].shape]
  if problems:
    raise InputError(f'{path} does not fit the model: ' + '; '.join(problems))
  params = {k: arrays[k].astype(want[k].dtype) for k in want}
  return traverse_util.unflatten_dict(params, sep='/')
