"""Pretraining (paper table 3) of any model: --config=configs/pretrain.py:MODEL,DATA

MODEL is a name for create_model, e.g. R50+ViT-B/16 or BiT-R50x1; DATA is imagenet2012 (the
default), imagenet21k or jft.
"""

from vit_jax.config.recipes import pretrain


def get_config(arg='R50+ViT-B/16'):
  return pretrain(*arg.split(',', 1))
