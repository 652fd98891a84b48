import jax
import pytest

from vit_jax.config.fields import default_config
from vit_jax.training.setup import make_training


@pytest.mark.parametrize(
  'fields',
  [
    dict(average=0.99, moment_dtype='bfloat16'),
    dict(optimizer='sgd', trained_blocks=1),
    dict(pretext='masked_patches', scan=True),
    dict(model='R26+ViT-Ti/32', pos_embedding_at='every'),
    dict(model='BiT-R50x1'),
  ],
)
def test_the_shapes_of_a_state_are_those_of_the_first_one(fields):
  config = default_config()
  sizes = {} if 'BiT' in fields.get('model', '') else dict(num_layers=3, hidden_dim=48)
  config.update(dict(model='ViT-Ti/16', image_size=64, total_steps=10) | sizes | fields)
  training = make_training(config, 10, 10)
  expected, shapes = jax.eval_shape(training.init), training.shapes()
  assert jax.tree.structure(shapes) == jax.tree.structure(expected)
  assert jax.tree.leaves(shapes) == jax.tree.leaves(expected)  # shapes, types, weak types
