"""Infer the model from the arrays of a checkpoint."""

from flax import traverse_util
import pytest

from tests.helpers.paths import FILES
from vit_jax import create_model
from vit_jax.errors import InputError
from vit_jax.pretrained.architecture import infer_model
from vit_jax.pretrained.load import abstract_params, load_model
from vit_jax.pretrained.metadata import Metadata

DATA = FILES
TINY = dict(hidden_dim=32, mlp_dim=64, num_heads=2, num_layers=2)


def abstract(name, **fields):
  model = create_model(name, **fields)
  return model, traverse_util.flatten_dict(abstract_params(model), sep='/')


@pytest.mark.parametrize(
  'name, has_size',
  [
    ('ViT-Ti/16', True),
    ('ViT-B/32', True),
    ('ViT-H/14', True),
    ('R50+ViT-B/16', True),
    ('R50+ViT-L/32', True),
    ('R26+ViT-S/32', True),
    ('R+ViT-Ti/16', True),
    ('BiT-R50x1', False),
    ('BiT-R101x3', False),
  ],
)
def test_every_kind_of_name(name, has_size):
  model, arrays = abstract(name, num_classes=1000)
  inferred_name, inferred = infer_model(arrays)
  assert inferred_name == name and ('image_size' in inferred) == has_size
  assert create_model(inferred_name, **inferred) == model


@pytest.mark.parametrize(
  'fields',
  [
    {},
    dict(num_classes=0),
    dict(representation_size=48),
    dict(head='gap'),
    dict(head='map'),
    dict(image_size=48),
    dict(pos_embedding='learned2d', image_size=(64, 96)),
    dict(pos_embedding='relative'),
    dict(pos_embedding='relative', pos_embedding_at='shared'),
    dict(pos_embedding='sincos2d'),
    dict(pos_embedding_at='every'),
    dict(head='gap', attention='axial'),
    dict(head='gap', attention='axial', pos_embedding_at='every'),
    dict(pre_norm=True, patch_bias=False, qkv_bias=False),
    dict(registers=4, layer_scale=1.0),
  ],
  ids=str,
)
def test_every_field(fields):
  model, arrays = abstract('ViT-Ti/8', **dict(num_classes=10, image_size=32) | TINY | fields)
  name, inferred = infer_model(arrays)
  assert create_model(name, **{'image_size': 32} | inferred) == model


def test_a_size_that_is_nearly_in_the_table():
  _, arrays = abstract('ViT-S/16', num_classes=10, num_layers=4)
  name, inferred = infer_model(arrays)
  assert name == 'ViT-S/16' and inferred['num_layers'] == 4 and 'hidden_dim' not in inferred


def test_what_only_the_file_tells():
  _, arrays = abstract('ViT-Ti/8', num_classes=10, image_size=(16, 24), **TINY)  # 6 patches
  assert 'image_size' not in infer_model(arrays)[1]
  metadata = Metadata(activation='gelu', norm_eps=1e-12, image_size=(16, 24))
  _, inferred = infer_model(arrays, metadata)
  assert (inferred['activation'], inferred['norm_eps'], inferred['image_size']) == (
    'gelu',
    1e-12,
    (16, 24),
  )


@pytest.mark.parametrize(
  'missing, words',
  [
    ('embedding/kernel', 'The array embedding/kernel is missing, so this is not a model that'),
    (
      'Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel',
      'MlpBlock_0/Dense_0/kernel is missing, so this is not a model that',
    ),
  ],
)
def test_arrays_of_no_model(missing, words):
  _, arrays = abstract('ViT-Ti/8', num_classes=10, image_size=32, **TINY)
  del arrays[missing]
  with pytest.raises(InputError, match=words):
    infer_model(arrays)


def test_resnets_of_no_model():
  with pytest.raises(
    InputError, match=r'Cannot load .*bit_v2.npz: No BiT ResNet has \(1, 2\) units.'
  ):
    load_model(DATA / 'bit_v2.npz')
  with pytest.raises(
    InputError, match=r'hybrid_1_1.npz: No hybrid has a ResNet with \(1, 2\) units.'
  ):
    load_model(DATA / 'hybrid_1_1.npz')
