"""Linear layers, and sums whose gradients are added up in float32."""

import math

from flax import linen as nn
import jax
from jax.nn.initializers import Initializer
import jax.numpy as jnp
from jax.typing import DTypeLike

from vit_jax.models.placement import row_major


class Linear(nn.Module):
  """Multiplies x by a kernel, as an equation of einsum says, and adds a bias.

  The bias has the axes of the kernel that the result has, such as (H, K) for 'bld,dhk->bhlk'.
  """

  equation: str  # letters of the axes of x, of the kernel and of the result
  shape: tuple[int, ...]  # of the kernel
  dtype: DTypeLike  # type of the computation
  kernel_init: Initializer
  bias_init: Initializer = nn.initializers.zeros
  use_bias: bool = True

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Return x times the kernel plus the bias, in the type of the computation."""
    operands, result = self.equation.split('->')
    x_axes, kernel_axes = operands.split(',')
    sizes = dict(zip(kernel_axes, self.shape))
    inputs = ''.join(axis for axis in kernel_axes if axis not in result)
    outputs = ''.join(axis for axis in kernel_axes if axis in result)
    kernel = self.param('kernel', self.kernel_init, self.shape).astype(self.dtype)
    bias = None
    if self.use_bias:
      bias = self.param('bias', self.bias_init, tuple(sizes[axis] for axis in outputs))
    x = x.astype(self.dtype)
    if x_axes.endswith(inputs) and result.endswith(outputs):
      return _multiply_last_axes(x, kernel, bias, len(inputs))
    y = jnp.einsum(self.equation, x, kernel)
    if bias is None:
      return y
    return add_broadcast(y, bias.reshape([sizes.get(axis, 1) for axis in result]))


def _multiply_last_axes(
  x: jax.Array, kernel: jax.Array, bias: jax.Array | None, inputs: int
) -> jax.Array:
  """Multiply the last axes of x by the first axes of a kernel, as many as `inputs`.

  This is one product of two matrices, and cuBLAS can add the bias to it.
  """
  x_shape, kernel_shape = x.shape[: x.ndim - inputs], kernel.shape
  size = math.prod(kernel_shape[:inputs])
  y = x.reshape(*x_shape, size) @ kernel.reshape(size, -1)
  if bias is not None:
    y = add_broadcast(y, bias.reshape((1,) * len(x_shape) + (-1,)))
  return y.reshape(*x_shape, *kernel_shape[inputs:])


@jax.custom_vjp
def add_broadcast(x: jax.Array, small: jax.Array) -> jax.Array:
  """Return x plus an array that is repeated along its axes of length 1. The type is that of x.

  The gradient of the array is summed over these axes in float32. JAX's own backward pass would sum
  in the type of x.
  """
  return x + small.astype(x.dtype)


def _add_broadcast_forward(x: jax.Array, small: jax.Array) -> tuple[jax.Array, jax.Array]:
  return add_broadcast(x, small), small


def _add_broadcast_backward(small: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
  if gradient.ndim == 3:
    # For sums over the batch, XLA would put it last in memory, and transpose the tokens, (B, L, D),
    # before and after most layers.
    gradient = row_major(gradient)
  repeated = tuple(axis for axis, size in enumerate(small.shape) if size == 1)
  total = _rounded(gradient).astype(jnp.float32).sum(repeated, keepdims=True)
  return gradient, total.astype(small.dtype)


add_broadcast.defvjp(_add_broadcast_forward, _add_broadcast_backward)


def _rounded(x: jax.Array) -> jax.Array:
  """Keep the rounding of x to its type.

  Otherwise, XLA would store the unrounded values in float32, for the sum and the next product.
  """
  info = jnp.finfo(x.dtype)
  return x if x.dtype == jnp.float32 else jax.lax.reduce_precision(x, info.nexp, info.nmant)
