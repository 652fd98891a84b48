"""Show what masked patch prediction sees and what it fills in, as images."""

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.models.masked_patches import MaskedPatchTransformer, corruption
from vit_jax.models.params import Params
from vit_jax.models.pixels import to_input
from vit_jax.parallel.compiler import jit

_MASK = 128  # gray level drawn for a patch that [mask] replaces


def fill_in(
  model: MaskedPatchTransformer, params: Params, images: np.ndarray, key: jax.Array
) -> tuple[np.ndarray, np.ndarray]:
  """Corrupt images as in training and let the model predict the corrupted patches.

  Args:
    model: the model, from `masked_patches.make_model`.
    params: parameters of the model.
    images: (B, H, W, 3) uint8.
    key: random key that selects the patches to corrupt.

  Returns:
    The corrupted images, with gray for [mask], and the images with their corrupted patches
    replaced by the predicted pixels or most probable colors: (B, H, W, 3) uint8 each.
  """
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(images)))
  patches = to_patches(images, model.stride)
  corrupted, source = map(np.asarray, corruption(keys, patches.shape[1], model.rate))
  predict = jit(
    lambda params, images, source: model.apply({'params': params}, to_input(images), source=source)
  )
  predicted = to_pixels(np.asarray(predict(params, images, source)), model.stride)
  expand = lambda x: x[..., None, None, None]  # (B, N) -> (B, N, 1, 1, 1)
  inputs = np.take_along_axis(patches, expand(np.maximum(source, 0)), axis=1)
  inputs = np.where(expand(source < 0), np.uint8(_MASK), inputs)
  filled = np.where(expand(corrupted), predicted, patches)
  return from_patches(inputs, images.shape[1:3]), from_patches(filled, images.shape[1:3])


def to_patches(images: np.ndarray, side: int) -> np.ndarray:
  """Cut images into patches, row by row: (B, H, W, 3) -> (B, N, side, side, 3)."""
  b, h, w, _ = images.shape
  x = images.reshape(b, h // side, side, w // side, side, 3)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, side, side, 3)


def from_patches(patches: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
  """Assemble images from patches: (B, N, side, side, 3) -> (B, *size, 3)."""
  (h, w), side = size, patches.shape[2]
  x = patches.reshape(-1, h // side, w // side, side, side, 3)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, h, w, 3)


def to_pixels(predictions: np.ndarray, side: int) -> np.ndarray:
  """Turn a model's predictions into patches.

  Args:
    predictions: (B, N, 1 or 16, 512) logits of colors, or (B, N, 3 * side**2) pixels in [-1, 1].
    side: side of a patch in pixels.

  Returns:
    (B, N, side, side, 3) uint8. A color of 3 bits per channel is drawn as the middle of its range.
  """
  b, n = predictions.shape[:2]
  if predictions.ndim == 3:
    pixels = np.round(np.clip((predictions + 1) * 127.5, 0, 255)).astype(np.uint8)
    return pixels.reshape(b, n, side, side, 3)
  cells = round(predictions.shape[2] ** 0.5)
  color = predictions.argmax(-1).reshape(b, n, cells, cells)
  bits = np.stack([color // 64, color // 8 % 8, color % 8], -1)
  pixels = (bits * 32 + 16).astype(np.uint8)
  return pixels.repeat(side // cells, 2).repeat(side // cells, 3)
