"""The catalog: splits and flips of known, prepared and a user's data sets."""

import shutil

import pytest

from vit_jax.data import catalog
from vit_jax.errors import InputError


def test_catalog(photos, shapes):
  assert catalog.describe('imagenet2012') == catalog.DatasetInfo(
      'train', 'validation', flip=True)
  assert catalog.describe('imagenet2012:5.1.0') == catalog.describe('imagenet2012')
  for name in ('digits', 'mnist', 'svhn_cropped'):
    assert not catalog.describe(name).flip
  for name in ('cifar10', 'cifar100', 'oxford_iiit_pet', 'oxford_flowers102', 'fashion_mnist'):
    assert catalog.describe(name).flip and catalog.describe(name).eval_split == 'test'
  assert catalog.describe('shapes', shapes[0]) == catalog.DatasetInfo('train', 'test')
  assert catalog.describe(str(photos)) == catalog.DatasetInfo('train', 'val')
  shutil.rmtree(photos / 'val')
  assert catalog.describe(str(photos)).eval_split == 'none'
  with pytest.raises(InputError, match='not public'):
    catalog.describe('jft_300m', shapes[0])
