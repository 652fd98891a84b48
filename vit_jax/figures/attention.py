"""Compute attention distance, rollout and maps (paper section 4.5, appendices D.7 and D.8).

Attention weights are (B, H, L, M): for each image and head, the weight that each of L output tokens
gives to each of M input tokens. Rows sum to 1. The tokens are the class token if there is one, the
patches row by row, and the registers if there are any.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any, NamedTuple, TypeVar

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.errors import InputError, unknown
from vit_jax.models.layers import MultiHeadDotProductAttention
from vit_jax.models.linear import Linear
from vit_jax.models.params import Params
from vit_jax.models.vit import VisionTransformer
from vit_jax.parallel.compiler import jit

FUSIONS = {'mean': jnp.mean, 'max': jnp.max}  # ways to combine heads

T = TypeVar('T')


class Views(NamedTuple):
  """The attention of a model on B images, with A attention layers, H heads and h x w patches.

  Attributes:
    distance: (A, B, H), mean attention distance of each head in pixels.
    rollout: (B, h, w), how much each patch contributes to the output.
    maps: (A [+ 1], B, H, h, w), the weights of each attention layer, and last those of a MAP head.
  """

  distance: jax.Array | np.ndarray
  rollout: jax.Array | np.ndarray
  maps: jax.Array | np.ndarray


@functools.partial(jit, static_argnames=('model', 'heads'))
def look(
  model: nn.Module, params: Params, images: jax.Array | np.ndarray, *, heads: str = 'mean'
) -> Views:
  """Apply the model once and return where it looks.

  A block with axial attention counts as two attention layers, along rows and then along columns.

  Args:
    model: a ViT or a hybrid, from `create_model`.
    params: parameters of the model.
    images: (B, H, W, 3) in [-1, 1].
    heads: how rollout combines the heads, 'mean' or 'max'.

  Raises:
    InputError: the model has no attention, or `heads` is unknown.
  """
  if heads not in FUSIONS:
    raise unknown('heads', heads, FUSIONS)
  fuse = FUSIONS[heads]
  model = check_has_attention(model)
  h, w = model.grid
  prefix = int(model.head == 'token')
  patch = model.image_size[0] / h, model.image_size[1] / w

  def view(weights: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    distance = attention_distance(weights, (h, w), patch, prefix)
    return distance, fuse(weights, axis=1), patch_maps(weights, (h, w), prefix)

  views, pooling = apply_to_attention(view, model, params, images)
  distance, fused, maps = (jnp.stack(x) for x in zip(*views))
  rolled = rollout(fused)
  if pooling is None:
    return Views(distance, patch_maps(rolled, (h, w), prefix), maps)
  # The MAP head attends to patches only. Its own token has no place in the matrices of the blocks.
  to_grid = lambda x: x.reshape(*x.shape[:-2], h, w)
  from_patches = fuse(pooling, axis=1) @ rolled[:, : h * w, : h * w]  # (B, 1, N)
  return Views(distance, to_grid(from_patches), jnp.concatenate([maps, to_grid(pooling)[None]]))


def check_has_attention(model: nn.Module) -> VisionTransformer:
  """Return the model; raise InputError if it has no attention."""
  if not isinstance(model, VisionTransformer):
    raise InputError('A BiT ResNet has no attention.')
  return model


def apply_to_attention(
  function: Callable[[jax.Array], T],
  model: nn.Module,
  params: Params,
  images: jax.Array | np.ndarray,
) -> tuple[list[T], jax.Array | None]:
  """Apply the model, and apply a function to the weights of each attention layer on the way.

  Args:
    function: maps weights (B, H, L, L) float32 to any result. Axial attention is passed as
      attention of all patches to all patches, with zeros between different rows or columns.
    model: see `look`.
    params: see `look`.
    images: see `look`.

  Returns:
    The function's results in the order of the layers, and the weights (B, H, 1, N) of a MAP head
    (None if the model has none).
  """
  model = check_has_attention(model)
  results, pooling = [], None

  def intercept(
    call: Callable[..., Any], args: tuple, kwargs: dict, context: nn.module.InterceptorContext
  ) -> Any:
    module = context.module
    if not (
      isinstance(module.parent, MultiHeadDotProductAttention)
      and isinstance(module, Linear)
      and context.method_name == '__call__'
    ):
      return call(*args, **kwargs)
    # Attention is linear in the values. Appending an identity matrix to them makes the output
    # contain the attention weights themselves.
    if module.name == 'value':
      values = call(*args, **kwargs)  # (B, H, M, K)
      length = values.shape[2]
      identity = jnp.eye(length, dtype=values.dtype)
      identity = jnp.broadcast_to(identity, (*values.shape[:2], length, length))
      return jnp.concatenate([values, identity], axis=3)
    if module.name == 'out':
      mixed, width = args[0], module.shape[1]
      receive(module.path, mixed[..., width:].astype(jnp.float32))
      return call(mixed[..., :width])
    return call(*args, **kwargs)

  def receive(path: tuple[str, ...], weights: jax.Array) -> None:
    nonlocal pooling
    if path[0] == 'MAPHead_0':
      pooling = weights
    elif model.attention == 'axial':
      results.append(function(_axial_to_full(weights, model.grid, along=path[2])))
    else:
      results.append(function(weights))

  # Products with the identity are exact only in full precision.
  with nn.intercept_methods(intercept), jax.default_matmul_precision('highest'):
    plain = model.clone(scan=False, remat='none', attention_implementation='plain')
    # With a collection of intermediates, the encoder applies each block as a module of its own.
    plain.apply({'params': params}, images, mutable='intermediates')
  return results, pooling


def _axial_to_full(weights: jax.Array, grid: tuple[int, int], along: str) -> jax.Array:
  """Turn attention within each 'row' or 'column', (B * lines, H, l, l), into (B, H, N, N)."""
  h, w = grid
  lines, equation = (h, 'bihjm,in->bhijnm') if along == 'row' else (w, 'bjhin,jm->bhijnm')
  weights = weights.reshape(-1, lines, *weights.shape[1:])
  full = jnp.einsum(equation, weights, jnp.eye(lines))
  return full.reshape(weights.shape[0], weights.shape[2], h * w, h * w)


def attention_distance(
  weights: jax.Array | np.ndarray,
  grid: tuple[int, int],
  patch: tuple[float, float],
  prefix: int = 0,
) -> jax.Array:
  """Return the mean distance, in pixels, from a patch to the patches it attends to (figure 7).

  The distance is measured between the centers of patches, weighted by attention, and averaged over
  the attending patches. The class token and registers are left out, and the remaining weights of
  each row are scaled to sum to 1.

  Args:
    weights: (..., L, L).
    grid: rows and columns of patches.
    patch: height and width of a patch in pixels.
    prefix: number of tokens before the patches.

  Returns:
    (...)
  """
  n = grid[0] * grid[1]
  weights = jnp.asarray(weights)[..., prefix : prefix + n, prefix : prefix + n]
  total = jnp.maximum(weights.sum(-1), jnp.finfo(jnp.float32).tiny)
  return ((weights * _distances(grid, patch)).sum(-1) / total).mean(-1)


def uniform_distance(grid: tuple[int, int], patch: tuple[float, float]) -> float:
  """Return the attention distance, in pixels, of a head that attends to all patches equally."""
  return float(_distances(grid, patch).mean(dtype=np.float64))


def _distances(grid: tuple[int, int], patch: tuple[float, float]) -> np.ndarray:
  """Return the distances in pixels between the centers of all patches: (N, N)."""
  centers = np.indices(grid).reshape(2, -1).T * np.array(patch)
  return np.linalg.norm(centers[:, None] - centers, axis=-1).astype(np.float32)


def rollout(weights: jax.Array) -> jax.Array:
  """Multiply attention through all layers (arXiv 2005.00928; paper figure 6 and appendix D.8).

  The identity is added to each matrix for the residual connection, and rows are scaled to sum to 1.
  The matrices are then multiplied, with the last layer on the left.

  Args:
    weights: (A, B, L, L), heads combined, first layer first.

  Returns:
    (B, L, L): how much each input token contributes to each output token. Rows sum to 1.
  """
  identity = jnp.eye(weights.shape[-1])
  product = jnp.broadcast_to(identity, weights.shape[1:])
  for layer in weights + identity:
    product = jnp.matmul(layer / layer.sum(-1, keepdims=True), product, precision='highest')
  return product


def patch_maps(weights: jax.Array, grid: tuple[int, int], prefix: int = 0) -> jax.Array:
  """Return how much the output attends to each patch: (..., L, L) -> (..., h, w).

  This is the row of the class token. A model without one averages the patches, so it is the mean of
  the patches' rows.
  """
  n = grid[0] * grid[1]
  rows = weights[..., 0, :] if prefix else weights[..., :n, :].mean(-2)
  return rows[..., prefix : prefix + n].reshape(*rows.shape[:-1], *grid)
