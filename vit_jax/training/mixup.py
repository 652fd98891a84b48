"""Mixup: train on mixtures of two images and their labels (arXiv 1710.09412)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vit_jax.data.batch import Batch
from vit_jax.parallel.partitioner import Shard

_KEY = 2**32 - 1  # folded into a step's key; no example has this number


class MixupPartner(NamedTuple):
  """The example that each of b examples is mixed with, and by how much."""

  image: jax.Array  # (b, S, S, 3) uint8
  label: jax.Array  # (b,) int32, or multi-hot (b, K) uint8
  share: jax.Array  # (b,) float32: the share of the example itself in the mixture, at least 1/2


def draw_partner(batch: Batch, p: float, step_key: jax.Array, shard: Shard) -> MixupPartner:
  """Pair each example with the one before it in the global batch.

  All examples of a step have the same share. An unreadable image is not mixed into another.

  Args:
    batch: the shard's rows of the global batch.
    p: parameter of the distribution Beta(p, p) of the share.
    step_key: random key of the step.
    shard: the shard.
  """
  share = jax.random.beta(jax.random.fold_in(step_key, _KEY), p, p)
  share = jnp.maximum(share, 1 - share)
  readable = shard.previous_rows(batch['mask'])
  return MixupPartner(
    image=shard.previous_rows(batch['image']),
    label=shard.previous_rows(batch['label']),
    share=jnp.where(readable, share, 1.0),
  )


def mix(x: jax.Array, other: jax.Array, share: jax.Array) -> jax.Array:
  """Return share * x + (1 - share) * other: (b, ...), (b, ...), (b,) -> (b, ...)."""
  share = share.reshape(-1, *[1] * (x.ndim - 1))
  return share * x + (1 - share) * other
