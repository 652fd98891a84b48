"""LayerNorm, which keeps only its input and two numbers per token for the backward pass."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

Residuals = tuple[jax.Array, jax.Array, jax.Array, jax.Array]  # x, scale, mean, 1 / deviation


class LayerNorm(nn.Module):
  """Normalizes each token over its channels, then scales and shifts them (arXiv 1607.06450).

  It computes in float32, like Flax's layer of this name, and has the same parameters.
  """

  epsilon: float
  dtype: DTypeLike  # of the result

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalize the last axis of x, (..., D)."""
    scale = self.param('scale', nn.initializers.ones, x.shape[-1:])
    bias = self.param('bias', nn.initializers.zeros, x.shape[-1:])
    return _layer_norm(x, scale, bias, self.epsilon, self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _layer_norm(
  x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, dtype: DTypeLike
) -> jax.Array:
  return _layer_norm_forward(x, scale, bias, epsilon, dtype)[0]


def _layer_norm_forward(
  x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, dtype: DTypeLike
) -> tuple[jax.Array, Residuals]:
  x32 = x.astype(jnp.float32)
  mean = x32.mean(-1, keepdims=True)
  variance = jnp.maximum(0, jnp.square(x32).mean(-1, keepdims=True) - jnp.square(mean))
  inverse = jax.lax.rsqrt(variance + epsilon)  # (..., 1)
  y = (x32 - mean) * (inverse * scale) + bias
  return y.astype(dtype), (x, scale, mean, inverse)


def _layer_norm_backward(
  epsilon: float, dtype: DTypeLike, residuals: Residuals, gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Return the gradients of x, scale and bias.

  The gradient of x is that of the scaled x, minus its projections onto 1 and onto the
  normalized x.
  """
  x, scale, mean, inverse = residuals
  gradient = gradient.astype(jnp.float32)
  normalized = (x.astype(jnp.float32) - mean) * inverse
  tokens = tuple(range(x.ndim - 1))
  scaled = gradient * scale
  projection = scaled.mean(-1, keepdims=True)
  projection += normalized * (scaled * normalized).mean(-1, keepdims=True)
  dx = (inverse * (scaled - projection)).astype(x.dtype)
  dscale, dbias = (gradient * normalized).sum(tokens), gradient.sum(tokens)
  return dx, dscale.astype(scale.dtype), dbias.astype(scale.dtype)


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)
