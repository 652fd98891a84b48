"""Pretrain any model (paper table 3): --config=configs/pretrain.py:MODEL,DATA

MODEL is a name for create_model, such as R50+ViT-B/16 or BiT-R50x1. DATA is imagenet2012 (the
default), imagenet21k or jft.
"""

from vit_jax.config.recipes import pretrain


def get_config(arg='R50+ViT-B/16'):
  return pretrain(*arg.split(',', 1))
