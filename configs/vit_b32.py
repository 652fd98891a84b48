"""ViT-B/32 pretraining (paper table 3): on ImageNet, or :imagenet21k, :jft after the file's name."""

from vit_jax.config.recipes import pretrain


def get_config(data='imagenet2012'):
  return pretrain('ViT-B/32', data)
