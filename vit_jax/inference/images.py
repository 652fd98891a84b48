"""Find image files, and load images from paths, addresses, bytes, open files, Pillow and arrays."""

from collections.abc import Callable, Iterable, Iterator
import logging
import os
import pathlib
import tempfile
from typing import BinaryIO, cast

import numpy as np
from PIL import Image as PillowImage

from vit_jax.data.decode_pillow import pillow_pixels
from vit_jax.data.decode_warnings import log_warnings
from vit_jax.data.image_files import ImageFiles, join_reasons
from vit_jax.errors import InputError
from vit_jax.files import download, is_remote, user_path

Image = str | os.PathLike | bytes | BinaryIO | np.ndarray | PillowImage.Image

log = logging.getLogger('vit_jax')
_PATH = (str, os.PathLike)
_BYTES = (bytes, bytearray, memoryview)


def find_images(paths: Iterable[str]) -> list[str]:
  """Return the images that paths name, with folders replaced by the images below them.

  Args:
    paths: files, folders, addresses (https://, gs://, ...) or '-', which stands for standard input.

  Raises:
    InputError: a path does not exist, or a folder has no images or cannot be read.
  """
  images: list[str] = []
  reported: set[str] = set()
  for path in paths:
    if path == '-' or is_remote(path):
      images.append(path)
    elif (local := user_path(path)).is_dir():
      images += _images_below(os.fspath(local), reported)
    elif local.exists():
      images.append(path)
    else:
      raise InputError(f'Cannot read {path}: no such file or folder.')
  return images


def _images_below(directory: str, reported: set[str]) -> list[str]:
  """Return the images in a folder and its subfolders, sorted by path, without hidden ones.

  Args:
    directory: the folder.
    reported: folders whose left out files are logged already. This one is added.
  """
  images = ImageFiles()
  paths = [os.path.join(directory, os.fsdecode(path)) for path in images.list(directory)]
  if (reasons := images.left_out()) and directory not in reported:
    reported.add(directory)
    log.warning('%s: Left out %s.', directory, join_reasons(reasons))
  if not paths:
    raise InputError(f'The folder {directory} has no images of a known format.')
  return sorted(paths)


def name_images(images: Image | Iterable[Image]) -> Iterator[tuple[str, Image]]:
  """Yield (name, image) for one image or each of several. Error messages use the name."""
  several = [images] if _is_one(images) else images
  for number, image in enumerate(cast(Iterable[Image], several)):
    path = image if isinstance(image, _PATH) else _file_name(image)
    yield str(path or f'image {number}'), image


def _file_name(image: Image) -> str | None:
  """Return the name of the file behind an open file or an image of Pillow, if there is one."""
  return getattr(image, 'filename' if isinstance(image, PillowImage.Image) else 'name', None)


def _is_one(images: Image | Iterable[Image]) -> bool:
  return (
    isinstance(images, _PATH + _BYTES)
    or hasattr(images, 'read')
    or not isinstance(images, Iterable)
    or getattr(images, 'ndim', 4) != 4  # an array (N, H, W, 3) holds several images
  )


def load_image(
  name: str, image: Image, preprocess: Callable[[bytes | np.ndarray], np.ndarray]
) -> np.ndarray:
  """Read an image and preprocess it.

  Args:
    name: what error messages call the image.
    image: a path, an address, an open file, the bytes of an image file, an image of Pillow, or
      (H, W, 3) uint8 pixels.
    preprocess: function from file content or pixels to the array a model takes.

  Raises:
    InputError: the image cannot be read or decoded.
  """
  try:
    with log_warnings(name):
      return preprocess(_content(image))
  except InputError:  # it has the name already
    raise
  except OSError as e:
    raise InputError(f'Cannot read {name}: {e.strerror or e}.') from e
  except MemoryError as e:
    raise InputError(f'Cannot read {name}: there is not enough memory to decode it.') from e
  except ValueError as e:
    raise InputError(f'Cannot read {name}: {e}.') from e


def _content(image: Image) -> bytes | np.ndarray:
  """Return the content of an image file, or pixels (H, W, 3) uint8."""
  if isinstance(image, _PATH):
    return _download(str(image)) if is_remote(image) else user_path(image).read_bytes()
  if isinstance(image, _BYTES):
    return bytes(image)
  if isinstance(image, PillowImage.Image):
    return pillow_pixels(image)
  if not isinstance(image, np.ndarray) and hasattr(image, 'read'):
    return _read(cast(BinaryIO, image))
  array = np.asarray(image)
  if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
    raise ValueError(
      f'an array must be (height, width, 3) uint8 RGB, but this one is {array.shape} {array.dtype}'
    )
  return array


def _read(file: BinaryIO) -> bytes:
  """Return the content of an open file from its start, as Pillow reads it."""
  if hasattr(file, 'seekable') and file.seekable():
    file.seek(0)
  content = file.read()
  if isinstance(content, str):
    raise ValueError("the file is open for text. Open it with mode 'rb'")
  if not isinstance(content, _BYTES):
    raise ValueError(f'reading the file returned {type(content).__name__} instead of bytes')
  return bytes(content)


def _download(address: str) -> bytes:
  with tempfile.TemporaryDirectory(prefix='vit_jax_') as directory:
    target = pathlib.Path(directory, 'image')
    download(address, target)
    return target.read_bytes()
