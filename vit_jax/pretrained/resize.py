"""Resize a whole checkpoint for another image size, another patch size, or both."""

import dataclasses
import logging
import os
import pathlib
import re
from typing import NamedTuple

import numpy as np

from vit_jax.errors import InputError
from vit_jax.files import check_new, user_path
from vit_jax.pretrained.array_sizes import PATCHES, ArraySizes
from vit_jax.pretrained.fit import absorption_note
from vit_jax.pretrained.formats import read_checkpoint, write_arrays
from vit_jax.pretrained.metadata import Metadata, lost_in_npz
from vit_jax.pretrained.posembed import Size, resize_patch_embedding, resize_posembed, square_grid
from vit_jax.pretrained.usage_flags import config_flags, tool_flags

Shape = tuple[int, ...]

log = logging.getLogger('vit_jax')
_POSITIONS = re.compile(r'.*\bposembed_input/(pos_embedding|rows|columns)')


@dataclasses.dataclass(frozen=True)
class NewSize:
  """Sizes to resize a checkpoint to. Each is a side, or (height, width), in pixels.

  Attributes:
    image_size: size of the new images.
    patch_size: size of the new patches. None: the patch size does not change.
    old_image_size: size of the images that the checkpoint is for. None: the recorded size if there
      is one, else a square.
    method: interpolation of the position embedding, see `resize_posembed`.
  """

  image_size: Size
  patch_size: Size | None = None
  old_image_size: Size | None = None
  method: str = 'bilinear'


class Resized(NamedTuple):
  """Result of `resize_checkpoint`, and how to use it."""

  shapes: dict[str, tuple[Shape, Shape]]  # {name: (old shape, new shape)} of the resized arrays
  config_flags: list[str]  # flags of a training run that starts from it
  tool_flags: list[str]  # flags of tools.predict and others


def resize_checkpoint(
  path: str | os.PathLike[str],
  out: str | os.PathLike[str],
  new_size: NewSize,
  *,
  num_heads: int | None = None,
  force: bool = False,
) -> Resized:
  """Read a checkpoint, resize it, and write the result.

  Args:
    path: a checkpoint in any format that `read_arrays` reads.
    out: a new .npz file, a new .safetensors file, with timm's or Hugging Face's names as in `path`,
      or a new Orbax directory.
    new_size: the new image and patch size.
    num_heads: number of attention heads, for a .safetensors file without a config.json. None: the
      usual one for its width.
    force: replace what exists at `out`.

  Raises:
    InputError: `path` cannot be read or resized, or `out` exists, cannot be written or cannot hold
      the model.
  """
  out = user_path(out)
  check_new(out, force)
  old, metadata = read_checkpoint(path, num_heads=num_heads)
  format = _format_like(path, metadata, out)
  if new_size.old_image_size is None:
    recorded = _recorded_size(ArraySizes(old), metadata.image_size)
    new_size = dataclasses.replace(new_size, old_image_size=recorded)
  try:
    new = resize_arrays(old, new_size)
  except InputError as e:
    raise InputError(f'Cannot resize {path}: {e}') from e
  metadata = metadata.for_image_size(sides(new_size.image_size))
  if new_size.patch_size and metadata.model:  # 'ViT-B/16' -> 'ViT-B/32'
    metadata = metadata._replace(model=f'{metadata.model.rsplit("/", 1)[0]}/{new_size.patch_size}')
  if format == 'npz':
    _warn_of_losses(path, out, metadata)
  write_arrays(new, out, format, metadata=metadata)
  shapes = {name: (old[name].shape, new[name].shape) for name in old if new[name] is not old[name]}
  return Resized(shapes, config_flags(new, metadata), tool_flags(metadata, format))


def resize_arrays(arrays: dict[str, np.ndarray], new_size: NewSize) -> dict[str, np.ndarray]:
  """Resize a Vision Transformer's arrays.

  Learned position embeddings go through `resize_posembed`, wherever they are added, and the patch
  embedding goes through `resize_patch_embedding`. Everything else is kept.

  Args:
    arrays: {canonical name: array}, from `read_arrays`.
    new_size: the new image and patch size.

  Raises:
    InputError: an image size is not a multiple of its patch size, there is nothing to resize, or
      the architecture cannot be resized.
  """
  sizes = ArraySizes(arrays)
  kinds = {name: match[1] for name in arrays if (match := _POSITIONS.fullmatch(name))}
  new_patch = sizes.patch_size if sizes.is_vision_transformer else (0, 0)
  if new_size.patch_size is not None:
    new_patch = sides(new_size.patch_size)
  _check_resizable(sizes, new_patch, bool(kinds))
  stride = sizes.resnet_stride * new_patch[0], sizes.resnet_stride * new_patch[1]
  new_grid = _grid(sides(new_size.image_size), stride, 'image_size')

  def resized(name: str, array: np.ndarray) -> np.ndarray:
    if name == PATCHES:
      return resize_patch_embedding(array, new_patch)
    if name not in kinds:
      return array
    if kinds[name] == 'pos_embedding':
      num_prefix_tokens = int(sizes.class_token)
      old_grid = _old_grid(array.shape[1] - num_prefix_tokens, new_size.old_image_size, sizes)
      return resize_posembed(array, new_grid, old_grid, num_prefix_tokens, new_size.method)
    new = new_grid[kinds[name] == 'columns']
    if new == len(array):
      return array
    # One coordinate is a grid that is one patch wide.
    return resize_posembed(array[None], (new, 1), (len(array), 1), 0, new_size.method)[0]

  result = {name: resized(name, array) for name, array in arrays.items()}
  if all(result[name] is arrays[name] for name in arrays):
    raise InputError(
      f'Nothing to resize, because the model already has {_by(new_grid)} patches of {_by(stride)} '
      'pixels.'
    )
  return result


def sides(size: Size) -> tuple[int, int]:
  """Return (height, width) of a size.

  Raises:
    InputError: the size is not one or two positive numbers.
  """
  pair = (size, size) if isinstance(size, int) else tuple(size)
  if len(pair) != 2 or min(pair) < 1:
    raise InputError(f'A size must be one or two positive numbers of pixels, but got {size}.')
  return pair[0], pair[1]


def _format_like(path: str | os.PathLike[str], metadata: Metadata, out: pathlib.Path) -> str:
  """Return the format of `out`.

  Raises:
    InputError: the format cannot hold the checkpoint.
  """
  if out.suffix == '.safetensors':
    if metadata.format not in ('timm', 'hf'):
      raise InputError(
        f"Cannot choose the names in {out}, because {path} has neither timm's nor Hugging Face's. "
        'Write npz or orbax, and convert the result with vit_jax.tools.convert.'
      )
    if metadata.activation is None:
      raise InputError(
        f'{path} has no config.json that records its activation. Put a config.json beside it, or '
        'write npz.'
      )
    return metadata.format
  return 'npz' if out.suffix == '.npz' else 'orbax'


def _warn_of_losses(path: str | os.PathLike[str], out: pathlib.Path, metadata: Metadata) -> None:
  """Warn of what an npz file does not keep."""
  if lost := lost_in_npz(metadata):
    log.warning(
      'npz does not keep %s of %s. Give it again when you use the file, or write an Orbax '
      'directory, which keeps everything.',
      ', '.join(lost),
      path,
    )
  if note := absorption_note(metadata, out):
    log.warning(note)


def _recorded_size(sizes: ArraySizes, image_size: tuple[int, int] | None) -> tuple[int, int] | None:
  """Return the image size that a file records, or None if its positions do not agree."""
  if image_size is None or not sizes.is_vision_transformer or not sizes.fits(image_size):
    return None
  rows, columns = sizes.grid(image_size)
  return rows * sizes.stride[0], columns * sizes.stride[1]


def _check_resizable(sizes: ArraySizes, new_patch: tuple[int, int], has_positions: bool) -> None:
  if not sizes.is_vision_transformer:
    if any(name.startswith('resnet/') for name in sizes.arrays):
      raise InputError('Nothing to resize, because a BiT ResNet takes images of any size.')
    raise InputError(f'It is not a Vision Transformer, because it has no {PATCHES}.')
  new_patches = new_patch != sizes.patch_size
  if sizes.resnet_stride > 1 and new_patches:
    raise InputError(
      'The patch size of a hybrid is fixed, because its patches are positions of its ResNet. Do '
      'not give a patch size.'
    )
  if not has_positions and any('relative_position/' in name for name in sizes.arrays):
    raise InputError('Relative positions are for one sequence length and cannot be resized.')
  if not has_positions and not new_patches:
    raise InputError(
      'Nothing to resize, because the model has no learned position embedding. It takes images '
      'of any size.'
    )


def _grid(image_size: tuple[int, int], stride: tuple[int, int], name: str) -> tuple[int, int]:
  """Return the (rows, columns) of patches of an image."""
  if image_size[0] % stride[0] or image_size[1] % stride[1]:
    near = tuple(max(1, round(i / s)) * s for i, s in zip(image_size, stride))
    raise InputError(
      f'{name} {_by(image_size)} is not a multiple of the patch size {_by(stride)}. '
      f'Try {_by(near)}.'
    )
  return image_size[0] // stride[0], image_size[1] // stride[1]


def _old_grid(num_patches: int, old_image_size: Size | None, sizes: ArraySizes) -> tuple[int, int]:
  """Return the (rows, columns) of patches that a position embedding is for."""
  if old_image_size is None:
    if square := square_grid(num_patches):
      return square
    raise InputError(
      f'Its {num_patches} patches do not make a square grid. Give old_image_size, the '
      'HEIGHT,WIDTH in pixels of the images that it is for.'
    )
  old_image_size = sides(old_image_size)
  grid = _grid(old_image_size, sizes.stride, 'old_image_size')
  if grid[0] * grid[1] != num_patches:
    raise InputError(
      f'old_image_size {_by(old_image_size)} has {_by(grid)} patches, but the position embedding '
      f'has {num_patches}. Give the size that it is for.'
    )
  return grid


def _by(pair: tuple[int, ...]) -> str:
  return f'{pair[0]}x{pair[1]}'
