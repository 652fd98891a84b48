"""Compute what the first layers learned: filters and the position embedding (paper figure 7)."""

from __future__ import annotations

from typing import NamedTuple

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.errors import InputError
from vit_jax.models.params import Params
from vit_jax.models.position import PositionEmbedding
from vit_jax.models.resnet import standardize
from vit_jax.models.vit import VisionTransformer

_CONVOLUTIONS = ('conv_root/kernel', 'resnet/root_block/standardized_conv2d/kernel')
_FIRST_LAYERS = (
  *_CONVOLUTIONS,
  'embedding/kernel',
  'Transformer/posembed_input/',
  'Transformer/encoderblock_0/posembed_input/',
)


class Filters(NamedTuple):
  """Principal components of a layer's filters, sorted by decreasing variance.

  Attributes:
    components: (n, P, P, C), each of norm 1.
    variance: (n,), the fraction of the total variance that each component explains.
  """

  components: np.ndarray
  variance: np.ndarray


def select_first_layers(params: Params) -> Params:
  """Return only those parameters that `rgb_kernel` and `position_embedding` read."""
  arrays = traverse_util.flatten_dict(params, sep='/')
  selected = {name: x for name, x in arrays.items() if name.startswith(_FIRST_LAYERS)}
  return traverse_util.unflatten_dict(selected, sep='/')


def name_of_first_layer(model: nn.Module) -> str:
  """Return the name of the layer whose kernel `rgb_kernel` returns."""
  is_vit = isinstance(model, VisionTransformer) and not model.resnet
  return 'patch embedding' if is_vit else 'first convolution'


def rgb_kernel(params: Params) -> np.ndarray:
  """Return the kernel (P, P, 3, D) of the layer that reads the pixels.

  This is the patch embedding of a ViT. For a hybrid or a BiT ResNet it is the first convolution,
  standardized as in the model.
  """
  arrays = traverse_util.flatten_dict(params, sep='/')
  for name in _CONVOLUTIONS:
    if name in arrays:
      return np.asarray(standardize(jnp.asarray(arrays[name]), eps=1e-5, eps_in_root=False))
  return np.asarray(arrays['embedding/kernel'])


def principal_filters(kernel: np.ndarray, count: int = 28) -> Filters:
  """Return the leading principal components of the D filters of a kernel.

  Each filter is one observation of P * P * C variables, and the mean filter is subtracted. Signs
  are chosen so that the largest-magnitude element of each component is positive.

  Args:
    kernel: (P, P, C, D).
    count: number of components. There are at most min(P * P * C, D).
  """
  *shape, filters = kernel.shape
  rows = kernel.reshape(-1, filters).T.astype(np.float64)  # (D, P * P * C)
  _, scales, components = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
  largest = np.take_along_axis(components, np.abs(components).argmax(1, keepdims=True), axis=1)
  components = components * np.where(largest < 0, -1, 1)
  variance = scales**2 / max((scales**2).sum(), np.finfo(float).tiny)
  return Filters(components[:count].reshape(-1, *shape), variance[:count])


def position_embedding(model: nn.Module, params: Params) -> np.ndarray:
  """Return the position embedding as (h, w, D). If every block has its own, return the first's.

  Raises:
    InputError: the model has no position embedding.
  """
  if not isinstance(model, VisionTransformer):
    raise InputError('A BiT ResNet has no position embedding.')
  if model.pos_embedding == 'none':
    raise InputError("The model has no position embedding (pos_embedding='none').")
  if model.pos_embedding == 'relative':
    raise InputError('The model embeds relative positions, so no position has its own embedding.')
  (h, w), prefix = model.grid, int(model.head == 'token')
  tree = params.get('Transformer', {})
  if model.pos_embedding_at == 'every':
    tree = tree.get('encoderblock_0', {})
  own_params = jax.tree.map(jnp.asarray, tree.get('posembed_input', {}))
  zeros = jnp.zeros((1, prefix + h * w, model.variant.hidden_dim))
  layer = PositionEmbedding(model.pos_embedding, model.grid)
  added = jnp.asarray(layer.apply({'params': own_params}, zeros))
  return np.asarray(added[0, prefix:]).reshape(h, w, -1)


def position_similarity(embedding: np.ndarray) -> np.ndarray:
  """Return the cosine similarity of every pair of position embeddings: (h, w, D) -> (h, w, h, w).

  Element [i, j] is a map that compares the position in row i and column j with all positions.
  Similarity to a zero embedding is 0.
  """
  embedding = embedding.astype(np.float64)
  norms = np.linalg.norm(embedding, axis=-1, keepdims=True)
  directions = embedding / np.where(norms == 0, 1, norms)
  return np.einsum('hwd,ijd->hwij', directions, directions)
