"""Pretrain ViT-B/32 (paper table 3) on ImageNet. For other data, append :imagenet21k or :jft."""

from vit_jax.config.recipes import pretrain


def get_config(data='imagenet2012'):
  return pretrain('ViT-B/32', data)
