"""Dropout and stochastic depth, whose masks belong to the example and are never stored."""

import functools
import math

from flax import linen as nn
import jax
from jax.extend.random import threefry_2x32
import jax.numpy as jnp

fold_in = jax.vmap(jax.random.fold_in, in_axes=(0, None))  # one key per example, and a number
# Odd multipliers of the 32-bit hash lowbias32 (Chris Wellons, "Prospecting for Hash Functions",
# nullprogram.com/blog/2018/07/31), which were found by a search for the least bias.
_MULTIPLIERS = 0x7FEB352D, 0x846CA68B


def dropout_mask(keys: jax.Array, shape: tuple[int, ...], rate: float | jax.Array) -> jax.Array:
  """Draw a mask (B, *shape) of the elements to keep, from one key per example.

  The mask of an example depends only on its key, so it is the same however the batch is split
  over devices, hosts and accumulation steps.

  Threefry draws a word for each row and each column of an example. An element hashes the XOR of the
  two, which takes six operations, so that a compiler computes the mask inside the loop that applies
  it. Any three of the XORs are independent and uniform (simple tabulation hashing, arXiv
  1011.5200). The four corners of a rectangle are not: their XOR is 0. The hash hides this.
  """
  rows, columns = math.prod(shape[:-1]), shape[-1]
  counts = jnp.arange(rows + columns, dtype=jnp.uint32)
  # A threefry key has two words. An rbg key has four, of which the first two do.
  draw = lambda key: threefry_2x32(jax.random.key_data(key)[:2], counts)
  words = jax.vmap(draw)(keys)  # (B, rows + columns)
  row_words = words[:, :rows].reshape(len(keys), *shape[:-1], 1)
  column_words = words[:, rows:].reshape(len(keys), *(1 for _ in shape[:-1]), columns)
  # lowbias32 without its first and last steps. The first changes nothing about XORs of random
  # words, and the last only the lower half.
  bits = (row_words ^ column_words) * jnp.uint32(_MULTIPLIERS[0])
  bits = (bits ^ bits >> 15) * jnp.uint32(_MULTIPLIERS[1])
  return bits >= (jnp.float32(rate) * 2.0**32).astype(jnp.uint32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _drop(x: jax.Array, keys: jax.Array, rate: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Zero the elements of x, (B, ...), outside a mask (B, *shape) and rescale the others.

  The backward pass draws the mask again instead of reading a stored one.
  """
  keep = dropout_mask(keys, shape, rate)
  return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def _drop_forward(
  x: jax.Array, keys: jax.Array, rate: jax.Array, shape: tuple[int, ...]
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return _drop(x, keys, rate, shape), (keys, rate)


def _drop_backward(
  shape: tuple[int, ...], residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, None, None]:
  return _drop(gradient, *residuals, shape), None, None


_drop.defvjp(_drop_forward, _drop_backward)


class Dropout(nn.Module):
  """Zeroes elements with probability `rate` and rescales the others."""

  rate: float
  site: int  # folded into the keys, so that no two layers of a block share a mask

  def __call__(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
    """Drop elements of x, (B, ...), with one key per example. keys=None turns dropout off."""
    if keys is None or self.rate == 0:
      return x
    return _drop(x, fold_in(keys, self.site), jnp.float32(self.rate), x.shape[1:])


class StochasticDepth(nn.Module):
  """Drops residual branches of whole examples and rescales the others (arXiv 1603.09382).

  It works like `Dropout`, but the rate is an argument, because it differs from block to block.
  """

  site: int

  def __call__(
    self, branch: jax.Array, keys: jax.Array | None, rate: jax.Array | None
  ) -> jax.Array:
    """Drop branches, (B, L, D) -> (B, L, D). keys=None or rate=None turns this off."""
    if keys is None or rate is None:
      return branch
    return _drop(branch, fold_in(keys, self.site), jnp.float32(rate), (1, 1))
