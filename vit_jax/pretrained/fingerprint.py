"""Compute fingerprints of arrays, to detect flipped bytes, which Orbax does not detect."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Summary(NamedTuple):
  """The results of one pass over an array."""

  fingerprint: int  # uint32
  finite: bool  # all elements are finite


@jax.jit
def _summarize(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  words = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
  bits = jax.lax.bitcast_convert_type(x, words).astype(jnp.uint32)
  index = jnp.zeros(
    x.shape, jnp.uint32
  )  # index in the flat array, computed without flattening a sharded one
  for axis, size in enumerate(x.shape):
    index = index * size + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
  # Odd weights are invertible modulo 2**32, so a change in a single word always shows.
  mixed = (bits ^ (bits >> 15)) * jnp.uint32(0x2C1B3C6D)
  return jnp.sum(mixed * (2 * index + 1), dtype=jnp.uint32), jnp.all(jnp.isfinite(x))


def summarize(tree: Any) -> dict[str, Summary]:
  """Return {array name: Summary} for a tree of arrays.

  Arrays of equal shape share a small program. One program for all arrays of a training state would
  take many times as long to compile. The arrays are summarized one after the other, because on
  simulated CPU devices, programs that are queued behind a collective can block each other.
  """
  summaries = {name: jax.device_get(_summarize(x)) for name, x in zip(*named_leaves(tree))}
  return {name: Summary(int(bits), bool(finite)) for name, (bits, finite) in summaries.items()}


def fingerprint(tree: Any) -> dict[str, int]:
  """Return {array name: uint32} for a tree of arrays.

  A fingerprint is a sum modulo 2**32, so it does not depend on how the array is sharded.
  """
  return {name: summary.fingerprint for name, summary in summarize(tree).items()}


def named_leaves(tree: Any) -> tuple[list[str], list[Any]]:
  """Return the '/'-joined names and the leaves of a tree, in the order of `jax.tree.leaves`."""
  paths, leaves = zip(*jax.tree_util.tree_flatten_with_path(tree)[0])
  part = lambda k: str(next(getattr(k, a) for a in ('key', 'name', 'idx') if hasattr(k, a)))
  return ['/'.join(map(part, path)) for path in paths], list(leaves)
