"""Pictures of what masked patch prediction sees and fills in."""

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.models.masked_patches import MaskedPatchTransformer, corruption
from vit_jax.models.pixels import to_input

_MASK = 128  # gray, where the model has [mask]


def fill_in(
  model: MaskedPatchTransformer, params, images: np.ndarray, key: jax.Array
) -> tuple[np.ndarray, np.ndarray]:
  """Corrupts images as in training and has their corrupted patches predicted.

  Args:
    images: (B, H, W, 3) uint8.
    key: of what is corrupted.
  Returns:
    The images as the model sees them, gray where it has [mask]; and with their corrupted patches as
    predicted, by the most probable colours or by pixels: (B, H, W, 3) uint8 each.
  """
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(images)))
  patches = to_patches(images, model.stride)
  corrupted, source = map(np.asarray, corruption(keys, patches.shape[1], model.rate))
  predict = jax.jit(
    lambda params, images, source: model.apply({'params': params}, to_input(images), source=source)
  )
  predicted = to_pixels(np.asarray(predict(params, images, source)), model.stride)
  given = np.take_along_axis(patches, np.maximum(source, 0)[..., None, None, None], axis=1)
  masked = (source < 0)[..., None, None, None]
  size = images.shape[1:3]
  return (
    from_patches(np.where(masked, np.uint8(_MASK), given), size),
    from_patches(np.where(corrupted[..., None, None, None], predicted, patches), size),
  )


def to_patches(images: np.ndarray, side: int) -> np.ndarray:
  """(B, H, W, 3) -> (B, N, side, side, 3), row by row."""
  b, h, w, _ = images.shape
  x = images.reshape(b, h // side, side, w // side, side, 3)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, side, side, 3)


def from_patches(patches: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """(B, N, side, side, 3) -> (B, *size, 3)."""
  (h, w), side = size, patches.shape[2]
  x = patches.reshape(-1, h // side, w // side, side, side, 3)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, h, w, 3)


def to_pixels(predictions: np.ndarray, side: int) -> np.ndarray:
  """What a model predicts, as patches.

  Args:
    predictions: (B, N, 1 or 16, 512) logits of colours; (B, N, 3 * side**2) pixels in [-1, 1].
    side: of a patch in pixels.
  Returns:
    (B, N, side, side, 3) uint8; a colour is the middle of what its 3 bits stand for.
  """
  b, n = predictions.shape[:2]
  if predictions.ndim == 3:
    return (
      np.round(np.clip((predictions + 1) * 127.5, 0, 255))
      .astype(np.uint8)
      .reshape(b, n, side, side, 3)
    )
  cells = round(predictions.shape[2] ** 0.5)
  color = predictions.argmax(-1).reshape(b, n, cells, cells)
  bits = np.stack([color // 64, color // 8 % 8, color % 8], -1)
  pixels = (bits * 32 + 16).astype(np.uint8)
  return pixels.repeat(side // cells, 2).repeat(side // cells, 3)
