"""Read the images to look at from files, at the size that a model takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import functools
import importlib.resources
import sys

import numpy as np
import tqdm

from vit_jax.data.decode import decode_image
from vit_jax.data.preprocess import resize
from vit_jax.inference.images import load_image


def sample_photographs() -> list[str]:
  """Return the paths of two photographs that come with scikit-learn."""
  directory = importlib.resources.files('sklearn.datasets') / 'images'
  return [str(directory / 'china.jpg'), str(directory / 'flower.jpg')]


def read_images(paths: Sequence[str], image_size: tuple[int, int]) -> Iterator[np.ndarray]:
  """Yield images one at a time, with both sides resized to image_size: (H, W, 3) uint8.

  Raises:
    InputError: an image cannot be read or decoded.
  """
  preprocess = functools.partial(_decode_and_resize, image_size=image_size)
  for path in tqdm.tqdm(paths, unit=' images', disable=not sys.stderr.isatty()):
    yield load_image(path, path, preprocess)


def _decode_and_resize(data: bytes | np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
  pixels = data if isinstance(data, np.ndarray) else decode_image(data, apply_exif=True)
  return resize(pixels, *image_size)
