"""Activation functions of MLPs, which keep only their input for the backward pass."""

from collections.abc import Callable

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Function = Callable[[jax.Array], jax.Array]

_CUBIC = 0.044715
_SQRT_2_OVER_PI = np.sqrt(2 / np.pi).astype(np.float32)


def _keep_input(function: Function, derivative: Function) -> Function:
  """Return the function, with a gradient that is computed in float32 from the input alone.

  JAX's own backward pass keeps intermediate results of the forward pass too.
  """

  @jax.custom_vjp
  def call(x: jax.Array) -> jax.Array:
    return function(x)

  def backward(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    slope = derivative(x.astype(jnp.float32))
    return ((gradient.astype(jnp.float32) * slope).astype(x.dtype),)

  call.defvjp(lambda x: (function(x), x), backward)
  return call


def _gelu_tanh_derivative(x: jax.Array) -> jax.Array:
  # GELU is also x * sigmoid(2 * inner), where the forward pass has tanh(inner). GPUs compute the
  # sigmoid faster, and the compiler does not keep the tanh for it.
  square = _CUBIC * x * x
  sigmoid = nn.sigmoid(2 * _SQRT_2_OVER_PI * x * (1 + square))
  slope = 2 * _SQRT_2_OVER_PI * (1 + 3 * square)  # of 2 * inner
  return sigmoid * (1 + x * slope * (1 - sigmoid))


def _gelu_derivative(x: jax.Array) -> jax.Array:
  return jax.scipy.stats.norm.cdf(x) + x * jax.scipy.stats.norm.pdf(x)


def _quick_gelu_derivative(x: jax.Array) -> jax.Array:
  sigmoid = nn.sigmoid(1.702 * x)
  return sigmoid * (1 + 1.702 * x * (1 - sigmoid))


ACTIVATIONS = {
  # the published ViTs
  'gelu_tanh': _keep_input(lambda x: nn.gelu(x, approximate=True), _gelu_tanh_derivative),
  # PyTorch's default
  'gelu': _keep_input(lambda x: nn.gelu(x, approximate=False), _gelu_derivative),
  # OpenAI's CLIP
  'quick_gelu': _keep_input(lambda x: x * nn.sigmoid(1.702 * x), _quick_gelu_derivative),
}
