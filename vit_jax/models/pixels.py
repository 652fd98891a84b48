"""Pixels as the models take them."""

import jax
import jax.numpy as jnp


def to_input(images: jax.Array) -> jax.Array:
  """Scale uint8 pixels in [0, 255] to float32 in [-1, 1]."""
  return (images.astype(jnp.float32) - 127.5) / 127.5
