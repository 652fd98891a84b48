"""Pretrain ViT-H/14 (paper table 3) on ImageNet. For other data, append :imagenet21k or :jft."""

from vit_jax.config.recipes import pretrain


def get_config(data='imagenet2012'):
  c = pretrain('ViT-H/14', data)
  c.scan, c.remat = True, 'dots'
  c.parallel, c.mesh = 'mesh', (0, 8)  # 8 devices share the state. See RESULTS.md.
  return c
