"""The classification losses, and the probabilities that belong to each."""

import jax
import jax.numpy as jnp

from vit_jax.errors import unknown

LOSSES = ('softmax', 'sigmoid')


def cross_entropy(
  logits: jax.Array, labels: jax.Array, *, kind: str = 'softmax', label_smoothing: float = 0.0
) -> jax.Array:
  """Return the loss of each example.

  Args:
    logits: (B, K).
    labels: (B,) int, or multi-hot (B, <= K).
    kind: 'softmax', or 'sigmoid': the sum of K independent binary losses, as in the pretraining
      on ImageNet-21k and JFT.
    label_smoothing: weight of the uniform distribution that is mixed into the target.

  Returns:
    (B,) float32.

  Raises:
    InputError: there is no such kind of loss.
  """
  targets = multi_hot(labels, logits.shape[-1])
  targets = (1 - label_smoothing) * targets + label_smoothing / logits.shape[-1]
  if kind == 'softmax':
    return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)
  if kind == 'sigmoid':
    positive, negative = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    return -jnp.sum(targets * positive + (1 - targets) * negative, axis=-1)
  raise unknown('loss', kind, LOSSES)


def multi_hot(labels: jax.Array, num_classes: int) -> jax.Array:
  """Return labels as (B, num_classes) float32, with 1 for each class of an image.

  Args:
    labels: (B,) int, or multi-hot (B, K) with K <= num_classes: a head may have more outputs than
      its dataset has classes.
    num_classes: number of outputs of the head.
  """
  if labels.ndim == 1:
    return jax.nn.one_hot(labels, num_classes)
  return jnp.pad(labels.astype(jnp.float32), ((0, 0), (0, num_classes - labels.shape[1])))


def to_probabilities(logits: jax.Array, loss: str) -> jax.Array:
  """Return the probability of each class: logits (B, K) -> (B, K).

  Args:
    logits: (B, K).
    loss: the loss that the model was trained with. For 'softmax' the probabilities of all classes
      sum to 1. For 'sigmoid' each class has its own probability.
  """
  return jax.nn.softmax(logits) if loss == 'softmax' else jax.nn.sigmoid(logits)
