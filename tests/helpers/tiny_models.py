"""Tiny models of the sizes of the checkpoints in tests/data/files, with random parameters."""

import jax
import numpy as np

from vit_jax import create_model
from vit_jax.pretrained.load import abstract_params

TINY = dict(hidden_dim=16, mlp_dim=32, num_heads=2, num_layers=2)


def mini(**overrides):
  return create_model(
    'ViT-Ti/8',
    **dict(image_size=32, num_classes=10, hidden_dim=32, mlp_dim=64, num_heads=2, num_layers=2)
    | overrides,
  )


def tiny(**overrides):
  return create_model('ViT-Ti/4', **dict(TINY, image_size=16, num_classes=5) | overrides)


def random_params(model):
  shapes, tree = jax.tree.flatten(abstract_params(model))
  rng = np.random.default_rng(0)
  return jax.tree.unflatten(tree, [rng.normal(size=s.shape).astype(np.float32) for s in shapes])


def assert_same_bits(a, b):
  jax.tree.map(
    lambda x, y: np.testing.assert_array_equal(
      np.asarray(x).view(np.uint32), np.asarray(y).view(np.uint32)
    ),
    a,
    b,
  )


def assert_others_equal(old, new, *changed):
  assert old.keys() == new.keys()
  for name in old.keys() - set(changed):
    np.testing.assert_array_equal(old[name], new[name], err_msg=name)
