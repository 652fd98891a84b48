"""A whole checkpoint for another image or patch size."""

import logging
import os
import pathlib
import re

import numpy as np

from vit_jax.errors import InputError
from vit_jax.models.sizes import ResNet
from vit_jax.pretrained.formats import PUBLISHED, read_checkpoint, write_arrays
from vit_jax.pretrained.posembed import resize_patch_embedding, resize_posembed

Size = int | tuple[int, int]  # pixels: a side, or (height, width)
Shape = tuple[int, ...]

log = logging.getLogger('vit_jax')
_KERNEL = 'embedding/kernel'
_POSITIONS = re.compile(r'.*\bposembed_input/(pos_embedding|rows|columns)')


def resize_checkpoint(
  path: str | os.PathLike,
  out: str | os.PathLike,
  image_size: Size,
  *,
  patch_size: int | None = None,
  old_image_size: Size | None = None,
  method: str = 'bilinear',
  num_heads: int | None = None,
  force: bool = False,
) -> dict[str, tuple[Shape, Shape]]:
  """Writes the checkpoint `path` for another image size, or patch size, or both, to `out`.

  Args:
    path: what `read_arrays` reads.
    out: a new file ending in .npz; in .safetensors, with the names of timm or Hugging Face as in
      `path`; else a new Orbax directory.
    image_size, patch_size, old_image_size, method: of `resize_arrays`; None for old_image_size
      means what the checkpoint says, else a square.
    num_heads: of a .safetensors file without a config.json; None: as usual for its width.
    force: replaces what is at `out`.
  Returns:
    {name: (old shape, new shape)} of the arrays that were resized.
  Raises:
    InputError: when `path` cannot be read, `out` is there or cannot be written or cannot hold the
      model; and those of `resize_arrays`.
  """
  out = pathlib.Path(out).expanduser()
  if os.path.lexists(out) and not force:
    raise InputError(f'{out} is there already: give another name, or --force to replace it')
  old, metadata = read_checkpoint(path, num_heads=num_heads)
  format = _format(path, metadata, out)
  if old_image_size is None:
    old_image_size = _recorded_size(old, metadata.image_size)
  try:
    new = resize_arrays(
      old, image_size, patch_size=patch_size, old_image_size=old_image_size, method=method
    )
  except InputError as e:
    raise InputError(f'{path}: {e}') from e
  metadata = metadata._replace(image_size=_sides(image_size))
  if patch_size and metadata.model:  # 'ViT-B/16' -> 'ViT-B/32'
    metadata = metadata._replace(model=f'{metadata.model.rsplit("/", 1)[0]}/{patch_size}')
  write_arrays(new, out, format, metadata=metadata)
  return {name: (old[name].shape, new[name].shape) for name in old if new[name] is not old[name]}


def _format(path, metadata, out):
  """What `out` is written as, to hold all that changes the model's outputs, or a warning."""
  if out.suffix == '.safetensors':
    if metadata.format not in ('timm', 'hf'):
      raise InputError(
        f"{out}: {path} does not tell whether timm's or Hugging Face's names are "
        'wanted; write npz or orbax, and vit_jax.tools.convert goes on from it'
      )
    if metadata.activation is None:
      raise InputError(
        f'{path} has no config.json that tells its activation: put one beside it, or write npz'
      )
    return metadata.format
  if out.suffix != '.npz':
    return 'orbax'
  unusual = [
    f'{field}={getattr(metadata, field)!r}'
    for field in ('activation', 'norm_eps')
    if getattr(metadata, field) not in (None, getattr(PUBLISHED, field))
  ]
  if unusual:
    log.warning('npz does not keep %s of %s: give that to create_model', ', '.join(unusual), path)
  return 'npz'


def _recorded_size(arrays, image_size):
  """The image size that a file records, where its positions agree; else None."""
  positions = [x for name, x in arrays.items() if name.endswith('posembed_input/pos_embedding')]
  if image_size is None or not positions or _KERNEL not in arrays:
    return None
  strides = [_stem_stride(arrays) * p for p in arrays[_KERNEL].shape[:2]]
  h, w = (side // stride for side, stride in zip(image_size, strides))
  agrees = h * w == positions[0].shape[1] - ('cls' in arrays)
  return (h * strides[0], w * strides[1]) if agrees else None


def resize_arrays(
  arrays: dict[str, np.ndarray],
  image_size: Size,
  *,
  patch_size: Size | None = None,
  old_image_size: Size | None = None,
  method: str = 'bilinear',
) -> dict[str, np.ndarray]:
  """Returns a Vision Transformer's arrays for another image size, or patch size, or both.

  Learned position embeddings, wherever they are added, go through `resize_posembed`, the patch
  embedding through `resize_patch_embedding`; all else is kept.

  Args:
    arrays: {canonical name: array}, as of `read_arrays`.
    image_size: new pixels.
    patch_size: new pixels; None keeps it.
    old_image_size: pixels that the arrays are for; None when those are square.
    method: of `resize_posembed`.
  Raises:
    InputError: when an image is no multiple of its patch, there is nothing to resize, or the
      architecture cannot be resized.
  """
  if _KERNEL not in arrays:
    bit = any(name.startswith('resnet/') for name in arrays)
    raise InputError(
      'a BiT ResNet takes images of any size as it is: nothing to resize'
      if bit
      else f'there is no {_KERNEL}: this is no Vision Transformer'
    )
  stem = _stem_stride(arrays)
  old_patch = arrays[_KERNEL].shape[:2]
  new_patch = old_patch if patch_size is None else _sides(patch_size)
  if stem > 1 and new_patch != old_patch:
    raise InputError("a hybrid's patches are positions of its ResNet: their size is fixed")
  new_grid = _grid(_sides(image_size), stem, new_patch, 'image_size')
  kinds = {name: match[1] for name in arrays if (match := _POSITIONS.fullmatch(name))}
  if not kinds and any('relative_position/' in name for name in arrays):
    raise InputError('relative positions are of one sequence length and cannot be resized')
  if not kinds and new_patch == old_patch:
    raise InputError('no position embedding was learned: images of any size fit as it is')
  has_cls = int('cls' in arrays)

  def resized(name, array):
    if name == _KERNEL:
      return resize_patch_embedding(array, new_patch)
    if name not in kinds:
      return array
    if kinds[name] == 'pos_embedding':
      old_grid = _old_grid(array.shape[1] - has_cls, old_image_size, stem, old_patch)
      return resize_posembed(array, new_grid, old_grid, has_cls, method)
    new = new_grid[kinds[name] == 'columns']
    if new == len(array):
      return array
    # one coordinate: a grid one patch wide
    return resize_posembed(array[None], (new, 1), (len(array), 1), 0, method)[0]

  result = {name: resized(name, array) for name, array in arrays.items()}
  if all(result[name] is arrays[name] for name in arrays):
    raise InputError(
      f'it is for {_by(new_grid)} patches of {_by(np.multiply(new_patch, stem))} '
      'pixels already: nothing to resize'
    )
  return result


def _stem_stride(arrays):
  """Pixels per position that the patch embedding sees: a hybrid's ResNet comes before it."""
  if 'conv_root/kernel' not in arrays:
    return 1
  blocks = {name.split('/')[0] for name in arrays if re.match(r'block\d+/', name)}
  return ResNet((1,) * len(blocks)).stride


def _grid(image, stem, patch, what):
  """(rows, columns) of patches of an image."""
  stride = stem * patch[0], stem * patch[1]
  if image[0] % stride[0] or image[1] % stride[1]:
    near = tuple(max(1, round(i / s)) * s for i, s in zip(image, stride))
    raise InputError(
      f'{what} {_by(image)} is not a multiple of the patch size {_by(stride)}; try {_by(near)}'
    )
  return image[0] // stride[0], image[1] // stride[1]


def _old_grid(patches, old_image_size, stem, patch):
  if old_image_size is None:
    side = round(patches**0.5)
    if side**2 != patches:
      raise InputError(
        f'its {patches} patches are no square: give old_image_size, the pixels '
        'HEIGHT,WIDTH that it is for'
      )
    return side, side
  grid = _grid(_sides(old_image_size), stem, patch, 'old_image_size')
  if grid[0] * grid[1] != patches:
    raise InputError(
      f'old_image_size {_by(_sides(old_image_size))} has {_by(grid)} patches, but '
      f'its position embedding has {patches}'
    )
  return grid


def _sides(size):
  sides = (size, size) if isinstance(size, int) else tuple(size)
  if len(sides) != 2 or min(sides) < 1:
    raise InputError(f'a size must be one or two positive numbers of pixels, got {size}')
  return sides


def _by(sides):
  return f'{sides[0]}x{sides[1]}'
