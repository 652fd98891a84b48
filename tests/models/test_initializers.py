"""Parameters are drawn one by one, with the values that one program for all of them draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.tiny_models import tiny
from vit_jax.models.initializers import lecun_normal, normal, xavier_uniform
from vit_jax.models.masked_patches import make_model


def test_an_initializer_is_compiled_once_per_shape():
  draw, again = normal(0.02), normal(0.02)
  assert draw is again and normal(0.03) is not draw
  assert lecun_normal((0, 1)) is lecun_normal((0, 1))
  assert xavier_uniform(0, (1, 2)) is xavier_uniform(0, (1, 2))


slow = functools.partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(
  'model',
  [
    tiny(num_layers=1, representation_size=16, dtype='bfloat16'),
    slow(tiny(head='map', registers=2, layer_scale=1e-4, pos_embedding='learned2d')),
    slow(tiny(pos_embedding='relative', attention='axial', head='gap')),
    slow(make_model(tiny(num_classes=0), 'mean_color', 0.5)),
  ],
  ids=['token', 'map', 'axial', 'masked patches'],
)
def test_parameters_are_those_of_one_program(model):
  key, images = jax.random.key(3), jnp.zeros((1, 16, 16, 3))
  whole = jax.jit(lambda: model.init(key, images))()
  single = model.lazy_init(key, jax.ShapeDtypeStruct(images.shape, images.dtype))
  assert jax.tree.structure(whole) == jax.tree.structure(single)
  for x, y in zip(jax.tree.leaves(whole), jax.tree.leaves(single), strict=True):
    np.testing.assert_array_equal(x, y)
