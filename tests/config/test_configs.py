"""Every file in configs/ builds its model and agrees with its recipe."""

import pytest

from tests.helpers.configs import CONFIGS, load
from vit_jax import create_model
from vit_jax.config.checks import check_config
from vit_jax.config.dtype import settle_dtype
from vit_jax.config.fields import default_config, model_overrides
from vit_jax.config.recipes import finetune, pretrain


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*.py')), ids=lambda p: p.stem)
def test_every_config_is_complete_and_builds_its_model(path):
  c = load(path.stem)
  check_config(c)
  assert set(c) == set(default_config())
  settle_dtype(c, 'cpu')
  create_model(c.model, num_classes=10, image_size=c.image_size, **model_overrides(c))


@pytest.mark.parametrize('data', ['imagenet2012', 'imagenet21k', 'jft'])
def test_vit_b16_shows_the_numbers_of_the_recipe(data):
  assert load('vit_b16', data).to_dict() == pretrain('ViT-B/16', data).to_dict()


@pytest.mark.parametrize(
  'dataset',
  ['imagenet2012', 'cifar10', 'cifar100', 'oxford_iiit_pet', 'oxford_flowers102', 'my/photos'],
)
@pytest.mark.parametrize('model', ['ViT-B/16', 'ViT-L/16', 'ViT-H/14', 'R50+ViT-B/32'])
def test_finetune_shows_the_numbers_of_the_recipe(model, dataset):
  assert load('finetune', f'{model},{dataset}').to_dict() == finetune(model, dataset).to_dict()
