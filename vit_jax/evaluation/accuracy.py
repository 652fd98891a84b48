"""Accuracy: which predictions are right."""

import jax
import jax.numpy as jnp


def is_correct(predictions: jax.Array, labels: jax.Array) -> jax.Array:
  """Return whether a prediction is the image's label, or one of its labels.

  Args:
    predictions: (B,) int, one class per image, such as `logits.argmax(-1)`; or (B, k) int, for
      example the k most probable classes, one of which has to be right.
    labels: (B,) int, or multi-hot (B, K) where an image may have several labels. A head may be
      wider than its dataset has classes: predictions of class K and above are wrong.

  Returns:
    (B,) bool.
  """
  if predictions.ndim == 1:
    predictions = predictions[:, None]
  if labels.ndim == 1:
    return (predictions == labels[:, None]).any(-1)
  num_classes = labels.shape[-1]
  known = jnp.take_along_axis(labels, jnp.minimum(predictions, num_classes - 1), axis=-1) > 0
  return (known & (predictions < num_classes)).any(-1)
