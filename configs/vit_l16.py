"""Pretrain ViT-L/16 (paper table 3) on ImageNet. For other data, append :imagenet21k or :jft."""

from vit_jax.config.recipes import pretrain


def get_config(data='imagenet2012'):
  c = pretrain('ViT-L/16', data)
  c.scan, c.remat = True, 'dots'  # 9 of 16 GiB on a TPU v5e. See RESULTS.md.
  return c
