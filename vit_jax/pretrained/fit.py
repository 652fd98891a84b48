"""Arrays of a checkpoint into the shapes of a model: only the head and the positions may change."""

from collections.abc import Mapping, Sequence
import logging
import os
from typing import Any

from flax import linen as nn
import numpy as np

from vit_jax.errors import InputError, shortlist
from vit_jax.pretrained.metadata import Metadata
from vit_jax.pretrained.posembed import resize_posembed

_HEADS = ('head/', 'resnet/head/')
log = logging.getLogger('vit_jax')


def fit(
  arrays: Mapping[str, np.ndarray],
  want: Mapping[str, Any],
  model: nn.Module,
  metadata: Metadata,
  path: str | os.PathLike,
  new_head: bool = False,
) -> dict[str, np.ndarray]:
  """Returns the arrays that the model wants, with a new head or resized positions if need be.

  Args:
    arrays: {canonical name: array} of the file.
    want: {canonical name: shape and dtype} of the model.
    metadata: what the file says of itself.
    path: of the file, for messages.
    new_head: a new one, whatever the file's is for.

  Raises:
    InputError: listing together every array that is missing, extra or of another shape.
  """
  arrays = dict(arrays)
  _fit_head(arrays, want, model, path, new_head)
  _fit_positions(arrays, want, model, metadata, path)
  problems = [f'missing {k} {want[k].shape}' for k in sorted(want.keys() - arrays.keys())]
  problems += [f'extra {k} {arrays[k].shape}' for k in sorted(arrays.keys() - want.keys())]
  problems += [
    f'{k} is {arrays[k].shape}, the model has {want[k].shape}'
    for k in sorted(want.keys() & arrays.keys())
    if arrays[k].shape != want[k].shape
  ]
  if problems:
    raise InputError(f'{path} does not fit the model: {shortlist(problems)}')
  return {k: arrays[k] for k in want}


def _fit_head(arrays, want, model, path, anew):
  """Drops the file's head, or puts a new one in, where the classes differ or are to be others."""
  of_file = [k for k in arrays if k.startswith(_HEADS)]
  of_model = [k for k in want if k.startswith(_HEADS)]
  old, new = _classes(of_file, arrays), _classes(of_model, want)
  if old == new != 0 and not anew:
    return
  extra = [k for k in arrays if k.startswith('pre_logits/') and k not in want]
  for name in of_file + extra:
    del arrays[name]
  for name in of_model:
    bias = getattr(model, 'head_bias_init', 0.0) if name.endswith('bias') else 0.0
    arrays[name] = np.full(want[name].shape, bias, want[name].dtype)
  changes = []
  if old:
    changes.append(f'its head of {old} classes is dropped')
  elif new:
    changes.append('it has no head')
  if extra:
    changes.append('its pre_logits layer is dropped')
  if new:
    changes.append(f'the head of {new} classes is new: zeros, to be trained')
  if changes:
    log.warning('%s: %s', path, '; '.join(changes))


def _classes(head, arrays):
  """Number of outputs of a head, 0 when there is none."""
  return max((arrays[k].shape[-1] for k in head if arrays[k].shape), default=0)


def _fit_positions(arrays, want, model, metadata, path):
  """Resizes learned position embeddings to the model's grid."""
  old_sizes = set()
  for name in want:
    if 'posembed_input/' not in name or name not in arrays:
      continue
    array, shape = arrays[name], want[name].shape
    if array.ndim != len(shape) or array.shape[-1] != shape[-1]:
      continue  # of another model: listed as mis-shaped
    if name.endswith(('/rows', '/columns')):
      resized, old = _resize_axis(array, shape[0]), f'{len(array)} {name.rsplit("/", 1)[1]}'
    else:
      resized, old = _resize_grid(array, shape, model, metadata, path)
    if resized is not array:
      arrays[name] = resized
      old_sizes.add(old)
  if old_sizes:
    log.warning(
      '%s: the position embedding is resized from %s to the grid of %dx%d patches',
      path,
      ' and '.join(sorted(old_sizes)),
      *model.grid,
    )


def _resize_axis(array, size):
  """The rows or columns (n, D/2) of a 2-D embedding -> (size, D/2)."""
  if len(array) == size:
    return array
  return resize_posembed(array[None], (size, 1), (len(array), 1), 0)[0]


def _resize_grid(array, shape, model, metadata, path):
  """(1, [1 +] n, D) -> (the same for the model's grid, the old grid in words)."""
  prefix = shape[1] - model.grid[0] * model.grid[1]
  patches = array.shape[1] - prefix
  side = round(max(patches, 0) ** 0.5)
  grid = _recorded_grid(metadata, model)
  if grid is None or grid[0] * grid[1] != patches:
    if array.shape == shape:
      if side**2 == patches and model.grid != (side, side):
        log.warning(
          '%s: its %d positions are taken as the grid of %dx%d', path, patches, *model.grid
        )
      return array, None
    grid = (side, side)
  if grid == model.grid or grid[0] * grid[1] != patches or not patches:
    return array, None
  return resize_posembed(array, model.grid, grid, prefix), '%dx%d patches' % grid


def _recorded_grid(metadata, model):
  """The grid (h, w) of the image size that the file records; None where it does not."""
  if not metadata.image_size:
    return None
  return tuple(s * g // i for s, g, i in zip(metadata.image_size, model.grid, model.image_size))


def absorb_normalization(
  arrays: Mapping[str, np.ndarray], mean: Sequence[float], std: Sequence[float]
) -> dict[str, np.ndarray]:
  """A ViT's patch embedding of pixels (p - mean) / std, for pixels in [-1, 1] instead.

  Args:
    arrays: {canonical name: array}.
    mean, std: for red, green, blue, of pixels in [0, 1].
  Returns:
    {'embedding/kernel': (p, p, 3, D), 'embedding/bias': (D,)}.
  """
  kernel = arrays['embedding/kernel'].astype(np.float64)
  mean, std = np.array(mean), np.array(std)
  bias = arrays.get('embedding/bias', 0) + np.einsum('hwcd,c->d', kernel, (0.5 - mean) / std)
  kernel = kernel / (2 * std)[:, None]
  return {'embedding/kernel': kernel.astype(np.float32), 'embedding/bias': bias.astype(np.float32)}
