r"""Pretrain ViT-B/16 (paper table 3) on ImageNet, ImageNet-21k or JFT.

    python -m vit_jax.main --config=configs/vit_b16.py --workdir=DIR
    python -m vit_jax.main --config=configs/vit_b16.py:imagenet21k --workdir=DIR

The argument after the colon is imagenet2012 (the default), imagenet21k or jft.
"""

from vit_jax.config import default_config
from vit_jax.errors import unknown

# Fields that differ between the rows of table 3.
IMAGENET = dict(
  dataset='imagenet2012',
  num_epochs=300.0,
  lr=3e-3,
  schedule='cosine',
  weight_decay=0.3,
  dropout=0.1,
  clip_norm=1.0,
)
# Datasets with more classes use a binary loss per class. At first, the bias says "no" to all.
SIGMOID = dict(loss='sigmoid', head_bias_init=-10.0, schedule='linear', clip_norm=None)
ROWS = {
  'imagenet2012': IMAGENET,
  'imagenet21k': dict(
    dataset='imagenet21k', num_epochs=90.0, lr=1e-3, weight_decay=0.03, dropout=0.1, **SIGMOID
  ),
  'jft': dict(
    dataset='jft_300m', num_epochs=7.0, lr=8e-4, weight_decay=0.1, dropout=0.0, **SIGMOID
  ),
}


def get_config(data='imagenet2012'):
  if data not in ROWS:
    raise unknown('pretraining data', data, ROWS)
  c = default_config()
  c.model, c.image_size = 'ViT-B/16', 224
  c.representation_size = 768  # the head's hidden layer has the width of the model
  c.batch_size, c.warmup_steps = 4096, 10_000
  c.optimizer, c.beta1, c.beta2 = 'adam', 0.9, 0.999
  c.update(ROWS[data])
  return c
