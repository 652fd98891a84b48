from flax import traverse_util
import pytest

from vit_jax import create_model
from vit_jax.errors import InputError
from vit_jax.models.sizes import Variant
from vit_jax.pretrained.array_sizes import ArraySizes
from vit_jax.pretrained.load import abstract_params

TINY = dict(hidden_dim=32, mlp_dim=64, num_heads=2, num_layers=3)


def sizes_of(name, **fields):
  model = create_model(name, **dict(num_classes=10, image_size=32, **TINY) | fields)
  return ArraySizes(traverse_util.flatten_dict(abstract_params(model), sep='/'))


def test_a_plain_model():
  sizes = sizes_of('ViT-Ti/8', image_size=(32, 48))
  assert sizes.is_vision_transformer and not sizes.axial
  assert sizes.variant == Variant(32, 64, 2, 3)
  assert (sizes.patch_size, sizes.stride, sizes.resnet_units) == ((8, 8), (8, 8), None)
  assert (sizes.head, sizes.class_token, sizes.num_classes) == ('token', True, 10)
  assert (sizes.registers, sizes.representation_size, sizes.layer_scale) == (0, 0, False)
  assert (sizes.pre_norm, sizes.patch_bias, sizes.qkv_bias) == (False, True, True)
  assert sizes.num_patches == 24
  assert sizes.grid((32, 48)) == (4, 6) and sizes.grid((39, 55)) == (4, 6)
  assert sizes.fits((32, 48)) and sizes.fits((48, 32)) and not sizes.fits((32, 32))


@pytest.mark.parametrize(
  'fields, expected',
  [
    (dict(head='map'), dict(head='map', class_token=False)),
    (dict(head='gap'), dict(head='gap', class_token=False, num_patches=16)),
    (dict(registers=4, layer_scale=1.0), dict(registers=4, layer_scale=True, num_patches=16)),
    (dict(num_classes=0, representation_size=48), dict(num_classes=0, representation_size=48)),
    (dict(pre_norm=True, patch_bias=False), dict(pre_norm=True, patch_bias=False)),
    (dict(qkv_bias=False), dict(qkv_bias=False)),
    (dict(head='gap', attention='axial'), dict(axial=True, variant=Variant(32, 64, 2, 3))),
    (dict(pos_embedding='none'), dict(num_patches=None)),
    (dict(pos_embedding_at='every'), dict(num_patches=16)),
  ],
  ids=str,
)
def test_optional_parts(fields, expected):
  sizes = sizes_of('ViT-Ti/8', **fields)
  assert {name: getattr(sizes, name) for name in expected} == expected


@pytest.mark.parametrize(
  'name, units, patch, stride', [('R+ViT-Ti/16', (), 8, 32), ('R26+ViT-Ti/32', (2, 2, 2, 2), 1, 32)]
)
def test_a_hybrid(name, units, patch, stride):
  sizes = sizes_of(name, image_size=64)
  assert (sizes.resnet_units, sizes.patch_size) == (units, (patch, patch))
  assert sizes.stride == (stride, stride) and sizes.num_patches == 4


def test_a_missing_array_is_named():
  sizes = ArraySizes({})
  assert not sizes.is_vision_transformer and sizes.num_classes == 0
  with pytest.raises(InputError, match='^The array embedding/kernel is missing, so this is not a'):
    _ = sizes.hidden_dim
