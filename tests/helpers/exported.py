"""Images and the probabilities that an exported program must compute for them."""

import jax
import jax.numpy as jnp
import numpy as np


def random_images(model, n, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (n, *model.image_size, 3), np.uint8)


def expected(model, params, images, loss='softmax', closed=True):
  """Return the model's probabilities, with its weights as constants or arguments of the program."""

  def f(params, images):
    logits = model.apply({'params': params}, (images.astype(jnp.float32) - 127.5) / 127.5)
    return {'softmax': jax.nn.softmax, 'sigmoid': jax.nn.sigmoid}[loss](logits)

  return np.asarray(
    jax.jit(lambda x: f(params, x))(images) if closed else jax.jit(f)(params, images)
  )
