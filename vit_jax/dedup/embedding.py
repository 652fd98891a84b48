"""The second look at a pair: how far apart the representations of a model put its images."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
import functools
import os
from typing import Any

from flax import linen as nn
import jax
import numpy as np

from vit_jax.data.preprocess import resize
from vit_jax.models.pixels import to_input

_BATCH = 32
Pixels = Callable[[int], np.ndarray]


def embedding_distances(
  model: nn.Module, params: Any, pairs: np.ndarray, train: Pixels, against: Pixels
) -> np.ndarray:
  """Returns 1 - cosine of the two representations of each pair: (P,) float32.

  Of the test image and its mirror image the closer one counts. Each image is computed once.

  Args:
    model, params: as `load_model` returns them; the head is left out.
    pairs: (P, 2 or more): numbers of the training and of the test image.
    train, against: (number) -> (H, W, 3) uint8, from many threads.
  """
  if not len(pairs):
    return np.empty(0, np.float32)
  left, left_of = np.unique(pairs[:, 0], return_inverse=True)
  right, right_of = np.unique(pairs[:, 1], return_inverse=True)
  model = model.clone(num_classes=0)
  params = jax.device_put(params)
  a = _embed(model, params, left, train)[left_of]
  b = _embed(model, params, right, against)[right_of]
  c = _embed(model, params, right, lambda i: against(i)[:, ::-1])[right_of]
  cosine = np.maximum(np.einsum('pd,pd->p', a, b), np.einsum('pd,pd->p', a, c))
  return np.maximum(1 - cosine, 0)


def _embed(model: nn.Module, params: Any, images: np.ndarray, pixels: Pixels) -> np.ndarray:
  """Unit vectors (N, D) float32."""
  prepare = lambda i: resize(np.ascontiguousarray(pixels(int(i))), *model.image_size)
  rows = []
  with ThreadPoolExecutor(os.cpu_count()) as pool:
    for start in range(0, len(images), _BATCH):
      batch = list(pool.map(prepare, images[start : start + _BATCH]))
      padded = np.zeros((_BATCH, *batch[0].shape), np.uint8)
      padded[: len(batch)] = batch
      rows.append(np.asarray(_represent(model, params, padded))[: len(batch)])
  return np.concatenate(rows)


@functools.partial(jax.jit, static_argnames='model')
def _represent(model: nn.Module, params: Any, images: jax.Array) -> jax.Array:
  """(B, H, W, 3) uint8 -> unit vectors (B, D) float32."""
  x = model.apply({'params': params}, to_input(images)).astype(np.float32)
  return x / jax.numpy.linalg.norm(x, axis=-1, keepdims=True)
