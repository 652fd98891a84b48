import pytest

from vit_jax.models.sizes import RESNET_UNITS, VARIANTS, ResNet


def test_table_1():
  assert VARIANTS['B'] == (768, 3072, 12, 12)
  assert VARIANTS['L'] == (1024, 4096, 16, 24)
  assert VARIANTS['H'] == (1280, 5120, 16, 32)


@pytest.mark.parametrize(
  'units, stride', [((), 4), ((3,), 4), ((3, 4, 9), 16), (RESNET_UNITS['R50'], 32)]
)
def test_the_stride_of_a_resnet(units, stride):
  assert ResNet(units).stride == stride
