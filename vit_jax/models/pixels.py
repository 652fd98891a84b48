"""Scale pixels to the range that the models take."""

import jax
import jax.numpy as jnp


def to_input(images: jax.Array) -> jax.Array:
  """Scale pixels from [0, 255], usually uint8, to [-1, 1] in float32."""
  return (images.astype(jnp.float32) - 127.5) / 127.5
