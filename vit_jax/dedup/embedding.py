"""Compare the images of a pair by the representations that a model computes of them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
import functools
import os

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.data.preprocess import resize
from vit_jax.models.params import Params
from vit_jax.models.pixels import to_input
from vit_jax.parallel.compiler import jit

Pixels = Callable[[int], np.ndarray]  # number of an image -> (H, W, 3) uint8

_BATCH = 32


def embedding_distances(
  model: nn.Module, params: Params, pairs: np.ndarray, train: Pixels, against: Pixels
) -> np.ndarray:
  """Return the cosine distance between the representations of each pair: (P,) float32.

  The test image and its mirror image are both compared with the training image, and the smaller
  distance is returned. Each image is computed once.

  Args:
    model: a model as returned by `load_model`. Its head is not used.
    params: parameters of the model.
    pairs: (P, 2 or more) int, the numbers of the training image and the test image.
    train: reads a training image by its number. It is called from many threads.
    against: reads a test image by its number. It is called from many threads.
  """
  if not len(pairs):
    return np.empty(0, np.float32)
  left, left_of = np.unique(pairs[:, 0], return_inverse=True)
  right, right_of = np.unique(pairs[:, 1], return_inverse=True)
  model = model.clone(num_classes=0)
  params = jax.device_put(params)
  a = _embed(model, params, left, train)[left_of]
  b = _embed(model, params, right, against)[right_of]
  mirrored = _embed(model, params, right, lambda i: against(i)[:, ::-1])[right_of]
  cosine = np.maximum(np.einsum('pd,pd->p', a, b), np.einsum('pd,pd->p', a, mirrored))
  return np.maximum(1 - cosine, 0)


def _embed(model: nn.Module, params: Params, images: np.ndarray, pixels: Pixels) -> np.ndarray:
  """Return a unit vector for each image: (N, D) float32."""
  prepare = lambda i: resize(np.ascontiguousarray(pixels(int(i))), *model.image_size)
  rows = []
  with ThreadPoolExecutor(os.cpu_count()) as pool:
    for start in range(0, len(images), _BATCH):
      batch = list(pool.map(prepare, images[start : start + _BATCH]))
      padded = np.zeros((_BATCH, *batch[0].shape), np.uint8)
      padded[: len(batch)] = batch
      rows.append(np.asarray(_represent(model, params, jnp.asarray(padded)))[: len(batch)])
  return np.concatenate(rows)


@functools.partial(jit, static_argnames='model')
def _represent(model: nn.Module, params: Params, images: jax.Array) -> jax.Array:
  """Map images (B, H, W, 3) uint8 to unit vectors (B, D) float32."""
  x = jnp.asarray(model.apply({'params': params}, to_input(images)), jnp.float32)
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
