"""Read and write the arrays of a checkpoint in every format: npz, timm, hf and orbax."""

from collections.abc import Mapping
import logging
import os
import pathlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from vit_jax.errors import InputError, shortlist, unknown
from vit_jax.pretrained import npz, orbax, safetensors
from vit_jax.pretrained.encoder_names import READ_ONLY, describe, is_beside
from vit_jax.pretrained.fit import without_normalization
from vit_jax.pretrained.locate import locate
from vit_jax.pretrained.metadata import EMPTY, PUBLISHED, Metadata

FORMATS = ('npz', 'timm', 'hf', 'orbax')
_PRETEXT = ('mask_token', 'patch_head/')  # arrays of vit_jax.models.masked_patches
log = logging.getLogger('vit_jax')


class Checkpoint(NamedTuple):
  """The content of a checkpoint."""

  arrays: dict[str, np.ndarray]  # {canonical name: float32 array}
  metadata: Metadata


def read_arrays(
  path: str | os.PathLike[str], *, num_heads: int | None = None
) -> dict[str, np.ndarray]:
  """Read a checkpoint of any format, local or remote, as {canonical name: float32 array}.

  Canonical names are those of the published npz files in linen's spelling. See `read_checkpoint`.
  """
  return read_checkpoint(path, num_heads=num_heads).arrays


def read_class_names(path: str | os.PathLike[str]) -> list[str] | None:
  """Return the class names in the order of the head's outputs, or None if the file has none."""
  with locate(path) as location:
    return location.metadata.class_names


def read_checkpoint(
  path: str | os.PathLike[str], *, num_heads: int | None = None, num_patches: int | None = None
) -> Checkpoint:
  """Read a checkpoint. Only one copy of it is held in memory.

  Args:
    path: a .npz or .safetensors file, a directory with config.json and model.safetensors or its
      shards, a training run's workdir, its checkpoints/ or the directory of a step, or a path that
      `write_arrays` wrote. https://, gs:// and other addresses that fsspec can open work too.
    num_heads: number of attention heads, for a .safetensors file. None: the number in its
      config.json, or else the usual one for its width.
    num_patches: number of patches that have a position. None: unknown, so the grid must be square.

  Raises:
    InputError: the file is missing, damaged or of an unknown kind, or it holds numbers that are not
      finite.
  """
  with locate(path) as (kind, paths, metadata):
    if kind == 'npz':
      arrays = _without_others(npz.read_npz(paths[0]), path)
    elif kind == 'orbax':
      arrays = npz.canonical(_without_pretext(orbax.read_orbax(paths[0]), path), path)
    else:
      arrays, kind = safetensors.read_safetensors(
        paths, metadata, num_heads=num_heads, num_patches=num_patches
      )
  for name in arrays:
    arrays[name] = as_float32(arrays[name], path, name)
  if wrong := _not_finite(arrays):
    raise InputError(
      f'{path} is damaged: it has numbers that are not finite in {shortlist(wrong)}. Use another '
      'copy of the checkpoint.'
    )
  return Checkpoint(arrays, metadata._replace(format=kind))


def write_arrays(
  arrays: Mapping[str, np.ndarray],
  path: str | os.PathLike[str],
  format: str | None = None,
  *,
  metadata: Metadata = EMPTY,
  spelling: str = 'pre_linen',
) -> None:
  """Write {canonical name: array}. The path is replaced as a whole.

  Args:
    arrays: {canonical name: array}.
    path: a file for npz; a directory for orbax; for timm and hf, either a directory, which gets
      model.safetensors and config.json, or a .safetensors file, which keeps the config in its
      metadata.
    format: 'npz', 'timm', 'hf' or 'orbax'. None: npz if the path ends in .npz, orbax if it has no
      suffix.
    metadata: properties that the arrays do not show: activation (default 'gelu_tanh'), norm_eps
      (default 1e-6), image_size (needed for a grid that is not square), class_names, model, how
      images are normalized and resized. npz keeps none of them, so the patch embedding then absorbs
      the normalization.
    spelling: spelling of the names in npz: 'pre_linen', which the original code and timm read, or
      'linen'.

  Raises:
    InputError: the format cannot hold the model, or the path cannot be written.
  """
  format = format_for(path, format)
  arrays = {name: as_float32(x, path, name) for name, x in arrays.items()}
  if wrong := _not_finite(arrays):
    raise InputError(
      f'Cannot write {path}: the parameters are not finite in {shortlist(wrong)}. Save parameters '
      'from before training diverged.'
    )
  if format == 'npz':
    npz.write_npz(without_normalization(arrays, metadata), path, spelling=spelling)
  elif format == 'orbax':
    orbax.write_orbax(arrays, path, metadata)
  else:
    safetensors.write_safetensors(arrays, path, format, PUBLISHED.updated(metadata))


def format_for(path: str | os.PathLike[str], format: str | None) -> str:
  """Return `format` if it is given, else npz or orbax by the suffix of `path`.

  Raises:
    InputError: the format is unknown, or the suffix allows more than one.
  """
  suffix = pathlib.PurePath(os.fspath(path)).suffix
  if format is None:
    if suffix == '.safetensors':
      raise InputError(
        f"Cannot choose the names in {path}: a safetensors file can have timm's or Hugging Face's, "
        'which --to chooses. Give the format: timm or hf.'
      )
    return 'npz' if suffix == '.npz' else 'orbax'
  if format not in FORMATS:
    raise unknown('format', format, FORMATS)
  return format


def as_float32(array: np.ndarray, path: str | os.PathLike[str], name: str) -> np.ndarray:
  """Convert half, bfloat16 or double precision to float32. Raise InputError for other types."""
  if array.dtype.kind == 'V' and array.dtype.itemsize == 2:
    array = array.view(jnp.bfloat16)  # NumPy has no name for bfloat16 and saves it as bytes
  if array.dtype.name not in ('float32', 'float16', 'bfloat16', 'float64'):
    raise InputError(
      f'Cannot use {path}: {name} holds {array.dtype}, but parameters are floating-point numbers.'
    )
  return array.astype(np.float32, copy=False)


def _without_pretext(
  arrays: dict[str, np.ndarray], path: str | os.PathLike[str]
) -> dict[str, np.ndarray]:
  """Drop the arrays that masked patch prediction trains beside the model."""
  kept = {name: array for name, array in arrays.items() if not name.startswith(_PRETEXT)}
  if len(kept) < len(arrays):
    log.warning('%s: Dropped the arrays that only masked patch prediction uses.', path)
  return kept


def _without_others(
  arrays: dict[str, np.ndarray], path: str | os.PathLike[str]
) -> dict[str, np.ndarray]:
  """Drop the arrays of modules beside the encoder, such as a decoder."""
  others = [name for name in arrays if is_beside(name)]
  if others:
    modules = describe([name.replace('/', '.') for name in others], '')
    log.warning(READ_ONLY, path, 'the encoder', modules)
  return {name: array for name, array in arrays.items() if name not in others}


def _not_finite(arrays: Mapping[str, np.ndarray]) -> list[str]:
  return [name for name, x in arrays.items() if not np.isfinite(x).all()]
