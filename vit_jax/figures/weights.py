"""What the first layers learned: filters and the position embedding (paper figure 7)."""

from typing import Any, NamedTuple

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.errors import InputError
from vit_jax.models.position import PositionEmbedding
from vit_jax.models.resnet import standardize
from vit_jax.models.vit import VisionTransformer

_CONVOLUTIONS = ('conv_root/kernel', 'resnet/root_block/standardized_conv2d/kernel')


class Filters(NamedTuple):
  """Principal components of a layer's kernels."""

  components: np.ndarray  # (n, P, P, C), of norm 1, that of the largest variance first
  variance: np.ndarray  # (n,) the share of all variance that each explains


def of_first_layers(params: Any) -> Any:
  """The part of the parameters that `rgb_kernel` and `position_embedding` read."""
  arrays = traverse_util.flatten_dict(params, sep='/')
  read = (
    *_CONVOLUTIONS,
    'embedding/kernel',
    'Transformer/posembed_input/',
    'Transformer/encoderblock_0/posembed_input/',
  )
  return traverse_util.unflatten_dict(
    {name: x for name, x in arrays.items() if name.startswith(read)}, sep='/'
  )


def name_of_first_layer(model: nn.Module) -> str:
  """What to call the layer of `rgb_kernel`."""
  return (
    'patch embedding'
    if isinstance(model, VisionTransformer) and not model.resnet
    else 'first convolution'
  )


def rgb_kernel(params: Any) -> np.ndarray:
  """The kernel (P, P, 3, D) of the layer that sees the pixels.

  It is the patch embedding, or the first convolution, standardised as it is used, of a hybrid
  and of a BiT ResNet.
  """
  arrays = traverse_util.flatten_dict(params, sep='/')
  for name in _CONVOLUTIONS:
    if name in arrays:
      return np.asarray(standardize(jnp.asarray(arrays[name]), eps=1e-5, eps_in_root=False))
  return np.asarray(arrays['embedding/kernel'])


def principal_filters(kernel: np.ndarray, count: int = 28) -> Filters:
  """Leading principal components of the D filters of a kernel (P, P, C, D).

  Each filter is one observation of P * P * C variables; their mean is taken off. There are at
  most min(P * P * C, D) components. Of a component and its negative the one is returned whose
  element of the largest magnitude is positive.
  """
  *shape, filters = kernel.shape
  rows = kernel.reshape(-1, filters).T.astype(np.float64)  # (D, P * P * C)
  _, scales, components = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
  largest = np.take_along_axis(components, np.abs(components).argmax(1, keepdims=True), axis=1)
  components = components * np.where(largest < 0, -1, 1)
  variance = scales**2 / max((scales**2).sum(), np.finfo(float).tiny)
  return Filters(components[:count].reshape(-1, *shape), variance[:count])


def position_embedding(model: nn.Module, params: Any) -> np.ndarray:
  """What the model adds to the patches for their place: (h, w, D).

  Where every block has an embedding of its own, it is that of the first block.

  Raises:
    InputError: the model adds none.
  """
  if not isinstance(model, VisionTransformer):
    raise InputError('a BiT ResNet has no position embedding')
  if model.pos_embedding == 'none':
    raise InputError("the model has no position embedding (pos_embedding='none')")
  if model.pos_embedding == 'relative':
    raise InputError('the model has embeddings of relative positions, not of each position')
  (h, w), prefix = model.grid, int(model.head == 'token')
  tree = params.get('Transformer', {})
  if model.pos_embedding_at == 'every':
    tree = tree.get('encoderblock_0', {})
  nothing = jnp.zeros((1, prefix + h * w, model.variant.hidden_dim))
  layer = PositionEmbedding(model.pos_embedding, model.grid)
  added = layer.apply(
    {'params': jax.tree.map(jnp.asarray, tree.get('posembed_input', {}))}, nothing
  )
  return np.asarray(added[0, prefix:]).reshape(h, w, -1)


def position_similarity(embedding: np.ndarray) -> np.ndarray:
  """Cosine similarities of all positions' embeddings (h, w, D): (h, w, h, w).

  [i, j] is a map over the grid of how similar each position is to the one of row i, column j;
  0 where an embedding is zero.
  """
  embedding = embedding.astype(np.float64)
  norms = np.linalg.norm(embedding, axis=-1, keepdims=True)
  directions = embedding / np.where(norms == 0, 1, norms)
  return np.einsum('hwd,ijd->hwij', directions, directions)
