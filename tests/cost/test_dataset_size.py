"""The catalog knows the images and classes of datasets that are not on disk."""

import pytest

from vit_jax.config.fields import default_config
from vit_jax.config.recipes import pretrain
from vit_jax.cost.dataset_size import dataset_size
from vit_jax.errors import InputError


def config(**fields):
  c = default_config()
  c.update(fields)
  return c


def test_known_datasets():
  assert dataset_size(pretrain('ViT-B/16', 'jft')) == (303_000_000, 18_291)
  assert dataset_size(config(dataset='cifar10', train_split='train[:98%]')) == (49_000, 10)


def test_what_is_given_counts():
  assert dataset_size(pretrain('ViT-B/16'), 1000) == (1000, 1000)
  assert dataset_size(config(dataset='mine', num_classes=7), 99) == (99, 7)


def test_an_unknown_dataset_says_what_to_give():
  c = config(dataset='mine', data_dir='/nowhere')
  with pytest.raises(
    InputError, match=r'\. You can also give --num_images and --config\.num_classes\.$'
  ):
    dataset_size(c, 99)
