"""ViT-L/16 pretraining (paper table 3): on ImageNet, or :imagenet21k, :jft after the file's name."""

from vit_jax.config.recipes import pretrain


def get_config(data='imagenet2012'):
  c = pretrain('ViT-L/16', data)
  c.scan, c.remat = True, 'dots'  # on v5e 9 of 16 GiB, and faster: see RESULTS.md
  return c
