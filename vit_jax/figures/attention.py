"""Where a model looks: attention distance, rollout and maps (paper section 4.5, appendix D.7-D.8).

Attention weights are (B, H, L, M): of each image and head, how much each of L tokens takes of M
tokens; rows sum to 1. Tokens are [the class token,] the patches row by row[, registers].
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.errors import InputError
from vit_jax.models.layers import MultiHeadDotProductAttention
from vit_jax.models.vit import VisionTransformer

FUSIONS = {'mean': jnp.mean, 'max': jnp.max}  # of heads


class Views(NamedTuple):
  """What the attention of a model does on B images; A attentions, H heads, a grid of h x w."""

  distance: jax.Array  # (A, B, H) pixels
  rollout: jax.Array  # (B, h, w), how much of the output comes from each patch
  maps: jax.Array  # (A [+ 1], B, H, h, w): each attention's own, and last that of a MAP head


@functools.partial(jax.jit, static_argnames=('model', 'heads'))
def look(model: nn.Module, params: Any, images: jax.Array, *, heads: str = 'mean') -> Views:
  """Applies the model once and says where it looks.

  Of axial attention each block is two: along rows, then along columns.

  Args:
    model: made by `create_model`, a ViT or a hybrid.
    params: its parameters.
    images: (B, H, W, 3) in [-1, 1].
    heads: how the rollout joins them, 'mean' or 'max'.
  Raises:
    InputError: the model has no attention, or `heads` is unknown.
  """
  if heads not in FUSIONS:
    raise InputError(f'unknown heads {heads!r}; there are {", ".join(FUSIONS)}')
  prefix, (h, w) = int(getattr(model, 'head', '') == 'token'), attention_grid(model)
  patch = model.image_size[0] / h, model.image_size[1] / w

  def view(weights):
    return (
      attention_distance(weights, (h, w), patch, prefix),
      FUSIONS[heads](weights, axis=1),
      patch_maps(weights, (h, w), prefix),
    )

  views, pooling = apply_to_attention(view, model, params, images)
  distance, joined, maps = (jnp.stack(x) for x in zip(*views))
  rolled = rollout(joined)
  if pooling is None:
    return Views(distance, patch_maps(rolled, (h, w), prefix), maps)
  # The probe takes from the patches alone: it has no place in their matrices.
  to_grid = lambda x: x.reshape(*x.shape[:-2], h, w)
  from_patches = FUSIONS[heads](pooling, axis=1) @ rolled[:, : h * w, : h * w]  # (B, 1, N)
  return Views(distance, to_grid(from_patches), jnp.concatenate([maps, to_grid(pooling)[None]]))


def attention_grid(model: nn.Module) -> tuple[int, int]:
  """Rows and columns of patches; InputError when the model has no attention."""
  if not isinstance(model, VisionTransformer):
    raise InputError('a BiT ResNet has no attention')
  return model.grid


def apply_to_attention(
  function: Callable[[jax.Array], Any], model: nn.Module, params: Any, images: jax.Array
) -> tuple[list[Any], jax.Array | None]:
  """Applies the model, and the function to the weights of each attention as they are computed.

  Args:
    function: of (B, H, L, L) float32. Axial attention is given as that of all patches to all.
    model, params, images: as of `look`.
  Returns:
    What the function made of each, in order; and the weights (B, H, 1, N) of a MAP head, else
    None.
  """
  found, pooling = [], None

  def spy(call, args, kwargs, context):
    module = context.module
    if not (
      isinstance(module.parent, MultiHeadDotProductAttention)
      and isinstance(module, nn.Einsum)
      and context.method_name == '__call__'
    ):
      return call(*args, **kwargs)
    # What attention makes of the values is linear in them: of the rows of the identity beside
    # the values it makes its weights.
    if module.name == 'value':
      values = call(*args, **kwargs)  # (B, H, M, K)
      length = values.shape[2]
      identity = jnp.broadcast_to(
        jnp.eye(length, dtype=values.dtype), (*values.shape[:2], length, length)
      )
      return jnp.concatenate([values, identity], axis=3)
    if module.name == 'out':
      both, width = args[0], module.shape[1]
      see(module.path, both[..., width:].astype(jnp.float32))
      return call(both[..., :width])
    return call(*args, **kwargs)

  def see(path, weights):
    nonlocal pooling
    if path[0] == 'MAPHead_0':
      pooling = weights
    elif model.attention == 'axial':
      found.append(function(_over_the_grid(weights, model.grid, along=path[2])))
    else:
      found.append(function(weights))

  attention_grid(model)
  # Products of the identity are exact only in full precision.
  with nn.intercept_methods(spy), jax.default_matmul_precision('highest'):
    model.clone(scan=False, remat='none').apply({'params': params}, images)
  return found, pooling


def _over_the_grid(weights: jax.Array, grid: tuple[int, int], along: str) -> jax.Array:
  """Attention within 'row' or 'column', (B * lines, H, l, l) -> of all patches, (B, H, N, N)."""
  h, w = grid
  lines, equation = (h, 'bihjm,in->bhijnm') if along == 'row' else (w, 'bjhin,jm->bhijnm')
  weights = weights.reshape(-1, lines, *weights.shape[1:])
  return jnp.einsum(equation, weights, jnp.eye(lines)).reshape(
    weights.shape[0], weights.shape[2], h * w, h * w
  )


def attention_distance(
  weights: jax.Array, grid: tuple[int, int], patch: tuple[float, float], prefix: int = 0
) -> jax.Array:
  """Mean distance, in pixels, from a patch to what it looks at (paper figure 7, right).

  The distance between the centres of patches, weighted by attention, mean over the patches that
  look. What the class token and registers take or give is left out, and the rest of a row
  weighted to sum to 1.

  Args:
    weights: (..., L, L).
    grid: rows and columns of patches.
    patch: height and width of one, pixels.
    prefix: tokens before the patches.
  Returns:
    (...)
  """
  n = grid[0] * grid[1]
  weights = weights[..., prefix : prefix + n, prefix : prefix + n]
  total = jnp.maximum(weights.sum(-1), jnp.finfo(jnp.float32).tiny)
  return ((weights * _distances(grid, patch)).sum(-1) / total).mean(-1)


def uniform_distance(grid: tuple[int, int], patch: tuple[float, float]) -> float:
  """The attention distance, in pixels, of a head that looks everywhere alike."""
  return float(_distances(grid, patch).mean(dtype=np.float64))


def _distances(grid: tuple[int, int], patch: tuple[float, float]) -> np.ndarray:
  """Between the centres of all patches, pixels: (N, N)."""
  places = np.stack(np.mgrid[: grid[0], : grid[1]], -1).reshape(-1, 2) * np.array(patch)
  return np.linalg.norm(places[:, None] - places, axis=-1).astype(np.float32)


def rollout(weights: jax.Array) -> jax.Array:
  """Attention through all layers (arXiv 2005.00928; paper figure 6 and appendix D.8).

  To each matrix the identity is added, for the residual; rows are scaled to sum to 1; the
  product is taken, the last layer at the left.

  Args:
    weights: (A, B, L, L), the heads joined, the first layer first.
  Returns:
    (B, L, L): how much each output token has of each input token; rows sum to 1.
  """
  identity = jnp.eye(weights.shape[-1])
  product = jnp.broadcast_to(identity, weights.shape[1:])
  for layer in weights + identity:
    product = jnp.matmul(layer / layer.sum(-1, keepdims=True), product, precision='highest')
  return product


def patch_maps(weights: jax.Array, grid: tuple[int, int], prefix: int = 0) -> jax.Array:
  """What the output has of each patch: (..., L, L) -> (..., h, w).

  It is the row of the class token; without one, where the patches are averaged, the mean of
  their rows.
  """
  n = grid[0] * grid[1]
  rows = weights[..., 0, :] if prefix else weights[..., :n, :].mean(-2)
  return rows[..., prefix : prefix + n].reshape(*rows.shape[:-1], *grid)
