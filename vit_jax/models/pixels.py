"""What goes into every model, and what comes out."""

import jax
import jax.numpy as jnp

LOSSES = ('softmax', 'sigmoid')


def to_input(images: jax.Array) -> jax.Array:
  """uint8 [0, 255] -> float32 [-1, 1]."""
  return (images.astype(jnp.float32) - 127.5) / 127.5


def to_probabilities(logits: jax.Array, loss: str) -> jax.Array:
  """(B, K) -> (B, K) by what was trained with.

  'softmax': the probabilities of all classes sum to 1; 'sigmoid': each class has its own (how
  ImageNet-21k and JFT were pretrained).
  """
  return jax.nn.softmax(logits) if loss == 'softmax' else jax.nn.sigmoid(logits)
