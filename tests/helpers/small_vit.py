"""A small ViT with random parameters, for the tests of figures."""

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import create_model

TINY = dict(hidden_dim=16, mlp_dim=16, num_heads=2, num_layers=2)


def small_vit(seed=0, **overrides):
  """Return a model on a grid of 2 x 3 patches, random parameters for all of it, and two images."""
  model = create_model('ViT-Ti/4', num_classes=5, image_size=(8, 12), **TINY | overrides)
  rng = np.random.default_rng(seed)
  images = jnp.asarray(rng.uniform(-1, 1, (2, 8, 12, 3)).astype(np.float32))
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)['params']
  params = jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape).astype(np.float32), shapes)
  return model, params, images
