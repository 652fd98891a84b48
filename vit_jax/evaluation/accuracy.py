"""Top-1 correctness of predictions."""

import jax
import jax.numpy as jnp

from vit_jax.evaluation.losses import multi_hot


def is_correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Return (B,) bool: True where the most probable class is the label, or one of the labels.

  Args:
    logits: (B, K).
    labels: (B,) int, or multi-hot (B, <= K).
  """
  top = logits.argmax(-1)
  if labels.ndim == 1:
    return top == labels
  return jnp.take_along_axis(multi_hot(labels, logits.shape[-1]), top[:, None], 1)[:, 0] > 0
