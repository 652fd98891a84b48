"""The paper's pretraining recipes (section 4.1, table 3), by model and data."""

import re

from ml_collections import ConfigDict

from vit_jax.config import default_config
from vit_jax.errors import InputError
from vit_jax.models.variants import VARIANTS

# On JFT-300M: epochs and peak learning rate. Table 3 also has L/16 and R50+L/16 for 7 epochs.
_JFT = {'ViT-B/16': (7, 8e-4), 'ViT-B/32': (7, 8e-4), 'ViT-L/32': (7, 6e-4),
        'ViT-L/16': (14, 4e-4), 'ViT-H/14': (14, 3e-4),
        'BiT-R50x1': (7, 1e-3), 'BiT-R50x2': (7, 1e-3), 'BiT-R101x1': (7, 8e-4),
        'BiT-R152x1': (7, 6e-4), 'BiT-R152x2': (7, 6e-4),
        'R50+ViT-B/16': (7, 8e-4), 'R50+ViT-B/32': (7, 8e-4), 'R50+ViT-L/32': (7, 2e-4),
        'R50+ViT-L/16': (14, 4e-4)}


def pretrain(model: str, data: str = 'imagenet2012') -> ConfigDict:
  """Table 3's row for `model` ('ViT-B/16') on `data`.

  All rows: batch 4096, warmup 10k, Adam (.9, .999), 224 px, a head with one hidden layer of
  the model's width. ResNets have neither that layer nor dropout.

  Args:
    model: a name for create_model; one that JFT's rows do not have is trained like B/16 there.
    data: 'imagenet2012', 'imagenet21k' or 'jft'.
  Raises:
    InputError: for other data.
  """
  c = default_config()
  c.model = model
  size = re.search(r'ViT-(\w+)/', model)
  if size and size[1] in VARIANTS:
    c.representation_size = VARIANTS[size[1]].hidden_dim
  if data == 'imagenet2012':
    c.dataset, c.num_epochs = 'imagenet2012', 300.
    c.lr, c.schedule, c.weight_decay, c.dropout, c.clip_norm = 3e-3, 'cosine', .3, .1, 1.
  elif data == 'imagenet21k':  # L/16 and L/32 also ran for 30 epochs; H/14 is not in the table
    c.dataset, c.num_epochs = 'imagenet21k', 90.
    c.lr, c.weight_decay, c.dropout = 1e-3, .03, .1
  elif data == 'jft':
    epochs, c.lr = _JFT.get(model, (7, 8e-4))
    c.dataset, c.num_epochs = 'jft_300m', float(epochs)
    c.weight_decay, c.dropout = .1, 0.
  else:
    raise InputError(f'unknown pretraining data {data!r} after the colon of --config; '
                     'there are imagenet2012, imagenet21k, jft')
  if data != 'imagenet2012':  # the released code: a binary loss per class, from "nothing there"
    c.loss, c.head_bias_init, c.schedule, c.clip_norm = 'sigmoid', -10., 'linear', 0.
  if model.startswith('BiT-'):
    c.dropout = 0.
  return c
