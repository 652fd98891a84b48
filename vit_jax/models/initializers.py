"""Random initial values of parameters.

Each initializer is compiled by itself, once for all parameters of a shape. A model has a hundred
random parameters, but only about ten kinds of them, so this takes a small part of the time of one
program that makes all parameters.
"""

from collections.abc import Sequence
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

Initializer = nn.initializers.Initializer
Axes = int | tuple[int, ...]


@functools.cache
def normal(stddev: float) -> Initializer:
  """Return an initializer that draws from a normal distribution."""
  return _compiled(nn.initializers.normal(stddev))


@functools.cache
def lecun_normal(in_axis: Axes = -2) -> Initializer:
  """Return LeCun's normal initializer for kernels whose fan-in may span several axes."""
  return _compiled(nn.initializers.lecun_normal(in_axis=in_axis))


@functools.cache
def xavier_uniform(in_axis: Axes = 0, out_axis: Axes = -1) -> Initializer:
  """Return Xavier's uniform initializer for kernels whose fan-in or fan-out spans several axes."""
  return _compiled(nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform', in_axis, out_axis))


def _compiled(initializer: Initializer) -> Initializer:
  jitted = jax.jit(initializer, static_argnums=(1, 2))

  def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
    return jitted(key, tuple(shape), jnp.dtype(dtype))

  return init
