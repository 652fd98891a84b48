"""Fit the arrays of a checkpoint to a model: swap the head, resize positions, check the shapes."""

from collections.abc import Iterable, Mapping, Sequence
import logging
import os
from typing import Any

from flax import linen as nn
import numpy as np

from vit_jax.errors import InputError, shortlist
from vit_jax.pretrained.metadata import Metadata
from vit_jax.pretrained.posembed import resize_posembed, square_grid

_HEADS = ('head/', 'resnet/head/')
Path = str | os.PathLike[str]
log = logging.getLogger('vit_jax')


def fit(
  arrays: Mapping[str, np.ndarray],
  want: Mapping[str, Any],
  model: nn.Module,
  metadata: Metadata,
  path: Path,
  new_head: bool = False,
  inferred: str | None = None,
  remedy: str = 'Choose the model that the file was written for.',
) -> dict[str, np.ndarray]:
  """Return exactly the arrays that the model expects.

  Only the head and the grid of learned positions may differ from the file. A warning then says so.

  Args:
    arrays: {canonical name: array} of the file.
    want: {canonical name: shape and dtype} of the model.
    model: the model.
    metadata: the file's metadata.
    path: the file's path, for messages.
    new_head: replace the head even if the file's head has as many classes.
    inferred: description of the model if it was inferred from these arrays, for the error.
    remedy: what the error advises if the model was not inferred.

  Raises:
    InputError: the arrays do not fit. The message lists every array that is missing, extra or of
      another shape.
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
  if problems and inferred:
    raise InputError(
      f'Cannot load {path}: create_model has no model with exactly these arrays. Differences from '
      f'{inferred}: {shortlist(problems)}.'
    )
  if problems:
    raise InputError(f'{path} does not fit the model. {remedy} Differences: {shortlist(problems)}.')
  return {k: arrays[k] for k in want}


def without_normalization(
  arrays: Mapping[str, np.ndarray], metadata: Metadata
) -> dict[str, np.ndarray]:
  """Return the arrays of a model for pixels in [-1, 1], whatever the file's normalization is."""
  if not metadata.custom_normalization:
    return dict(arrays)
  return {**arrays, **absorb_normalization(arrays, *metadata.custom_normalization)}


def absorption_note(metadata: Metadata, path: Path) -> str | None:
  """Return a sentence if a file is written without the normalization of pixels, else None."""
  if not metadata.custom_normalization:
    return None
  mean, std = metadata.custom_normalization
  return (
    f'npz does not keep the normalization of pixels (mean {mean}, std {std}). The patch embedding '
    f'of {path} absorbs it, so the model takes images in [-1, 1].'
  )


def absorb_normalization(
  arrays: Mapping[str, np.ndarray], mean: Sequence[float], std: Sequence[float]
) -> dict[str, np.ndarray]:
  """Return a patch embedding for pixels in [-1, 1] instead of (p - mean) / std.

  Args:
    arrays: {canonical name: array}.
    mean: mean of red, green and blue, for pixels p in [0, 1].
    std: standard deviation of red, green and blue.

  Returns:
    {'embedding/kernel': (p, p, 3, D), 'embedding/bias': (D,)}.
  """
  kernel = arrays['embedding/kernel'].astype(np.float64)
  shift, scale = (0.5 - np.array(mean)) / np.array(std), 2 * np.array(std)
  bias = arrays.get('embedding/bias', 0) + np.einsum('hwcd,c->d', kernel, shift)
  kernel = kernel / scale[:, None]
  return {'embedding/kernel': kernel.astype(np.float32), 'embedding/bias': bias.astype(np.float32)}


def _fit_head(
  arrays: dict[str, np.ndarray],
  want: Mapping[str, Any],
  model: nn.Module,
  path: Path,
  new_head: bool,
) -> None:
  """Drop or replace the file's head in `arrays` if the model has other classes."""
  names_in_file = [name for name in arrays if name.startswith(_HEADS)]
  names_in_model = [name for name in want if name.startswith(_HEADS)]
  old = _num_classes(names_in_file, arrays)
  new = _num_classes(names_in_model, want)
  if old == new != 0 and not new_head:
    return
  pre_logits = [name for name in arrays if name.startswith('pre_logits/') and name not in want]
  for name in names_in_file + pre_logits:
    del arrays[name]
  for name in names_in_model:
    bias = getattr(model, 'head_bias_init', 0.0) if name.endswith('bias') else 0.0
    arrays[name] = np.full(want[name].shape, bias, want[name].dtype)
  changes = []
  if old and new:
    changes.append(
      f'Replaced the head of {old} classes with a new head of {new} classes, initialized to zero.'
    )
  elif old:
    changes.append(f'Dropped the head of {old} classes.')
  elif new:
    changes.append(f'Added a new head of {new} classes, initialized to zero.')
  if pre_logits:
    changes.append('Dropped the pre_logits layer.')
  if changes:
    log.warning('%s: %s', path, ' '.join(changes))


def num_outputs(arrays: Mapping[str, np.ndarray]) -> int:
  """Return the number of outputs of the head in a checkpoint, or 0 if it has none."""
  return _num_classes([name for name in arrays if name.startswith(_HEADS)], arrays)


def _num_classes(head: Iterable[str], arrays: Mapping[str, Any]) -> int:
  """Return the number of outputs of a head whose arrays have these names, or 0 if it has none."""
  return max((arrays[name].shape[-1] for name in head if arrays[name].shape), default=0)


def _fit_positions(
  arrays: dict[str, np.ndarray],
  want: Mapping[str, Any],
  model: nn.Module,
  metadata: Metadata,
  path: Path,
) -> None:
  """Resize learned position embeddings in `arrays` to the model's grid."""
  old_sizes = set()
  for name in want:
    if 'posembed_input/' not in name or name not in arrays:
      continue
    array, shape = arrays[name], want[name].shape
    if array.ndim != len(shape) or array.shape[-1] != shape[-1]:
      continue  # the file is for another model, which `fit` reports
    if name.endswith(('/rows', '/columns')):
      resized, old = _resize_axis(array, shape[0]), f'{len(array)} {name.rsplit("/", 1)[1]}'
    else:
      resized, old = _resize_grid(array, shape, model, metadata, path)
    if resized is not array:
      arrays[name] = resized
      old_sizes.add(old)
  if old_sizes:
    log.warning(
      '%s: Resized the position embedding from %s to a grid of %dx%d patches.',
      path,
      ' and '.join(sorted(old_sizes)),
      *model.grid,
    )


def _resize_axis(array: np.ndarray, size: int) -> np.ndarray:
  """Resize the rows or columns (n, D/2) of a 2-D embedding to (size, D/2)."""
  if len(array) == size:
    return array
  return resize_posembed(array[None], (size, 1), (len(array), 1), 0)[0]


def _resize_grid(
  array: np.ndarray, shape: tuple[int, ...], model: nn.Module, metadata: Metadata, path: Path
) -> tuple[np.ndarray, str]:
  """Resize an embedding (1, [1 +] n, D) to the model's `shape`.

  Returns:
    (the embedding, the old grid in words). It is the same array if the grids are equal or if the
    old grid is unknown.
  """
  num_prefix_tokens = shape[1] - model.grid[0] * model.grid[1]
  num_patches = array.shape[1] - num_prefix_tokens
  square = square_grid(num_patches)
  grid = _recorded_grid(metadata, model)
  if grid is None or grid[0] * grid[1] != num_patches:
    if array.shape == shape:
      if square and model.grid != square:
        log.warning(
          '%s: Assumed that its %d positions are a grid of %dx%d.', path, num_patches, *model.grid
        )
      return array, ''
    grid = square
  if grid is None or grid == model.grid:
    return array, ''
  resized = resize_posembed(array, model.grid, grid, num_prefix_tokens)
  return resized, f'{grid[0]}x{grid[1]} patches'


def _recorded_grid(metadata: Metadata, model: nn.Module) -> tuple[int, int] | None:
  """Return the grid (h, w) for the image size that the file records, or None if it has none."""
  if not metadata.image_size:
    return None
  rows, columns = (s * g // i for s, g, i in zip(metadata.image_size, model.grid, model.image_size))
  return rows, columns
