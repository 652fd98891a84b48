"""Pretrain ViT-B/32 (paper table 3) on ImageNet, or :imagenet21k or :jft after the file's name."""

from vit_jax.config.recipes import pretrain


def get_config(data='imagenet2012'):
  return pretrain('ViT-B/32', data)
