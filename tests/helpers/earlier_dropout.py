"""The masks of dropout as earlier versions drew them, which stored the bits."""

import math

import jax
from jax.extend.random import threefry_2x32
import jax.numpy as jnp


def earlier_mask(keys: jax.Array, shape: tuple[int, ...], rate: float | jax.Array) -> jax.Array:
  """Draw a mask (B, *shape), with 16 bits for each element of an example.

  With it, a run that an earlier version has recorded goes on as it did under that version.
  """
  size = math.prod(shape)
  counts = jnp.arange(-(-size // 4) * 2, dtype=jnp.uint32)
  draw = lambda key: threefry_2x32(jax.random.key_data(key)[:2], counts)
  bits = jax.lax.bitcast_convert_type(jax.vmap(draw)(keys), jnp.uint16)  # (B, words, 2)
  bits = bits.reshape(len(keys), -1)[:, :size].reshape(-1, *shape)
  return bits >= jnp.round(rate * 2**16).astype(jnp.uint16)
