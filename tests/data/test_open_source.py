"""Open and describe datasets by name: from the catalog, TFDS and folders."""

import os
import shutil

import pytest

from vit_jax.data.catalog import DatasetInfo
from vit_jax.data.folder import FolderSource
from vit_jax.data.open_source import describe_dataset, open_source, split_names
from vit_jax.data.tfds import TfdsSource
from vit_jax.errors import InputError


def test_the_name_chooses_the_reader(photos, shapes):
  assert type(open_source(str(photos), 'train')) is FolderSource
  assert type(open_source('shapes', 'train', shapes[0])) is TfdsSource
  assert split_names(str(photos)) == ['train', 'val']
  assert split_names('shapes', shapes[0]) == ['train', 'test']


def test_describe_dataset(photos, shapes):
  info = describe_dataset('imagenet2012')
  assert (info.train_split, info.eval_split, info.flip) == ('train', 'validation', True)
  assert info.num_classes == 1000 and info.preset == 'inception'
  assert describe_dataset('imagenet2012:5.1.0') == info
  for name in ('digits', 'mnist', 'svhn_cropped'):
    assert not describe_dataset(name).flip
  for name in ('cifar10', 'cifar100', 'oxford_iiit_pet', 'oxford_flowers102', 'fashion_mnist'):
    assert describe_dataset(name).flip and describe_dataset(name).eval_split == 'test'
  assert describe_dataset('shapes', shapes[0]) == DatasetInfo('train', 'test')
  assert describe_dataset(str(photos)) == DatasetInfo('train', 'val')
  shutil.rmtree(os.path.join(photos, 'val'))
  assert describe_dataset(str(photos)).eval_split == 'none'
  with pytest.raises(InputError, match='not public'):
    describe_dataset('jft_300m', shapes[0])
