from flax import traverse_util
import numpy as np
import pytest

from tests.helpers.paths import FILES
from tests.helpers.tiny_models import assert_others_equal
from vit_jax import create_model
from vit_jax.errors import InputError
from vit_jax.pretrained.formats import read_arrays
from vit_jax.pretrained.load import abstract_params
from vit_jax.pretrained.posembed import resize_posembed
from vit_jax.pretrained.resize import NewSize, resize_arrays

DATA = FILES
POSITIONS = 'Transformer/posembed_input/pos_embedding'
TINY = dict(hidden_dim=32, mlp_dim=64, num_heads=2, num_layers=2)


def noise_of(model):
  """Return random arrays in the shapes of a model."""
  rng = np.random.default_rng(0)
  return {
    name: rng.normal(size=x.shape).astype(np.float32)
    for name, x in traverse_util.flatten_dict(abstract_params(model), sep='/').items()
  }


@pytest.mark.parametrize(
  'name, overrides',
  [
    ('ViT-Ti/8', {}),
    ('ViT-Ti/8', {'head': 'gap'}),
    ('ViT-Ti/8', {'head': 'map'}),
    ('ViT-Ti/8', {'registers': 3}),
    ('ViT-Ti/8', {'pos_embedding': 'learned2d'}),
    ('ViT-Ti/8', {'pos_embedding_at': 'every'}),
    ('ViT-Ti/8', {'pos_embedding_at': 'shared'}),
    ('ViT-Ti/8', {'pos_embedding': 'learned2d', 'pos_embedding_at': 'every', 'head': 'gap'}),
    ('ViT-Ti/8', {'attention': 'axial', 'head': 'gap'}),
    ('R26+ViT-Ti/32', {}),
    ('R50+ViT-Ti/16', {'pos_embedding': 'learned2d'}),
    ('R50+ViT-Ti/16', {'head': 'gap'}),
    ('R+ViT-Ti/16', {}),
  ],
)
def test_shapes_are_those_of_the_model_at_the_new_size(name, overrides):
  model = lambda *size: create_model(name, num_classes=3, image_size=size, **TINY | overrides)
  want = traverse_util.flatten_dict(abstract_params(model(192, 320)), sep='/')
  old = noise_of(model(64, 96))
  new = resize_arrays(old, NewSize((192, 320), old_image_size=(64, 96)))
  assert {k: v.shape for k, v in new.items()} == {k: v.shape for k, v in want.items()}
  changed = [k for k in old if old[k].shape != new[k].shape]
  assert len(changed) == (2 if overrides.get('pos_embedding') == 'learned2d' else 1) * (
    2 if overrides.get('pos_embedding_at') == 'every' else 1
  )
  assert all('posembed_input/' in name for name in changed)
  assert_others_equal(old, new, *changed)
  for name in changed:  # the first and last points, and the class token's, stay
    first_and_last = (..., [0, -1], slice(None))
    np.testing.assert_array_equal(old[name][first_and_last], new[name][first_and_last])


def test_rows_and_columns_are_resized_alone():
  model = create_model(
    'ViT-Ti/8', num_classes=3, image_size=(32, 24), pos_embedding='learned2d', **TINY
  )
  old = noise_of(model)
  new = resize_arrays(old, NewSize((56, 24)))
  rows, columns = (f'Transformer/posembed_input/{axis}' for axis in ('rows', 'columns'))
  assert_others_equal(old, new, rows)
  np.testing.assert_allclose(new[rows][::2], old[rows], atol=1e-6)
  np.testing.assert_allclose(new[rows][1::2], (old[rows][1:] + old[rows][:-1]) / 2, atol=1e-6)
  # This equals resizing their combination, because bilinear interpolation is separable.
  whole = lambda x: np.concatenate(
    [np.repeat(x[rows][:, None], 3, 1), np.repeat(x[columns][None], len(x[rows]), 0)], -1
  )
  both = resize_posembed(whole(old).reshape(1, -1, 32), (7, 3), (4, 3), 0)
  np.testing.assert_allclose(both.reshape(7, 3, 32), whole(new), atol=1e-6)


def test_a_grid_may_be_turned():
  arrays = read_arrays(DATA / 'vit_gap.npz')
  new = resize_arrays(arrays, NewSize((64, 16), method='half_pixel'))
  back = resize_arrays(new, NewSize((16, 64), old_image_size=(64, 16)))  # as many patches
  np.testing.assert_array_equal(back[POSITIONS], resize_posembed(new[POSITIONS], (2, 8), (8, 2), 0))
  assert np.abs(back[POSITIONS] - new[POSITIONS]).max() > 0.01


@pytest.mark.parametrize(
  'overrides, words',
  [
    (
      {'pos_embedding': 'sincos2d'},
      'the model has no learned position embedding. It takes images of any size.',
    ),
    ({'pos_embedding': 'none'}, 'the model has no learned position embedding'),
    ({'pos_embedding': 'relative'}, 'Relative positions are for one sequence length'),
    ({'pos_embedding': 'relative', 'pos_embedding_at': 'shared'}, 'Relative positions are for one'),
  ],
)
def test_models_without_a_learned_grid(overrides, words):
  model = create_model('ViT-Ti/8', num_classes=3, image_size=32, **TINY | overrides)
  with pytest.raises(InputError, match=words):
    resize_arrays(noise_of(model), NewSize(64))
  if overrides['pos_embedding'] != 'relative':
    new = resize_arrays(noise_of(model), NewSize(64, patch_size=16))  # the patch size can change
    assert new['embedding/kernel'].shape == (16, 16, 3, 32)


def test_a_grid_that_is_not_square_must_be_given():
  arrays = resize_arrays(read_arrays(DATA / 'vit_token.npz'), NewSize((32, 48)))
  with pytest.raises(
    InputError, match='Its 24 patches do not make a square grid. Give old_image_size, the HEIGHT,W'
  ):
    resize_arrays(arrays, NewSize(64))
  new = resize_arrays(arrays, NewSize(64, old_image_size=(32, 48)))
  assert new[POSITIONS].shape == (1, 65, 32)
