"""The papers' recipes, by model and data: pretraining (table 3; AugReg), fine-tuning (table 4)."""

import re

from ml_collections import ConfigDict

from vit_jax.config.fields import AUGREG, default_config
from vit_jax.data.preprocess import bit_sizes
from vit_jax.errors import InputError
from vit_jax.models.sizes import VARIANTS

# On JFT-300M: epochs and peak learning rate. Table 3 also has L/16 and R50+L/16 for 7 epochs.
_JFT = {
  'ViT-B/16': (7, 8e-4),
  'ViT-B/32': (7, 8e-4),
  'ViT-L/32': (7, 6e-4),
  'ViT-L/16': (14, 4e-4),
  'ViT-H/14': (14, 3e-4),
  'BiT-R50x1': (7, 1e-3),
  'BiT-R50x2': (7, 1e-3),
  'BiT-R101x1': (7, 8e-4),
  'BiT-R152x1': (7, 6e-4),
  'BiT-R152x2': (7, 6e-4),
  'R50+ViT-B/16': (7, 8e-4),
  'R50+ViT-B/32': (7, 8e-4),
  'R50+ViT-L/32': (7, 2e-4),
  'R50+ViT-L/16': (14, 4e-4),
}


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
    c.dataset, c.num_epochs = 'imagenet2012', 300.0
    c.lr, c.schedule, c.weight_decay, c.dropout, c.clip_norm = 3e-3, 'cosine', 0.3, 0.1, 1.0
  elif data == 'imagenet21k':  # L/16 and L/32 also ran for 30 epochs; H/14 is not in the table
    c.dataset, c.num_epochs = 'imagenet21k', 90.0
    c.lr, c.weight_decay, c.dropout = 1e-3, 0.03, 0.1
  elif data == 'jft':
    epochs, c.lr = _JFT.get(model, (7, 8e-4))
    c.dataset, c.num_epochs = 'jft_300m', float(epochs)
    c.weight_decay, c.dropout = 0.1, 0.0
  else:
    raise InputError(
      f'unknown pretraining data {data!r} after the colon of --config; '
      'there are imagenet2012, imagenet21k, jft'
    )
  if data != 'imagenet2012':  # the released code: a binary loss per class, from "nothing there"
    c.loss, c.head_bias_init, c.schedule, c.clip_norm = 'sigmoid', -10.0, 'linear', 0.0
  if model.startswith('BiT-'):
    c.dropout = 0.0
  return c


def augreg(model: str, level: str = 'medium2', data: str = 'imagenet2012') -> ConfigDict:
  """Pretraining at one of AugReg's levels of augmentation (arXiv 2106.10270, 3.2 to 3.4).

  Batch 4096, 300 epochs, Adam (.9, .999), 1e-3 after a warmup of 10k, cosine, gradients clipped to
  norm 1, 224 px, a head without a hidden layer. The paper's sweep also has weight_decay .03, with
  each of them dropout and stochastic_depth both .1, and on ImageNet-21k 30 epochs.

  Args:
    model: a name for create_model, or as in the paper's tables: 'S/16', 'R26+S/32'.
    level: 'none', 'light1', 'light2', 'medium1', 'medium2', 'strong1' or 'strong2'; without one,
      that which the released configuration takes from S/16 on.
    data: 'imagenet2012' or 'imagenet21k'.
  Raises:
    InputError: for another level or other data.
  """
  if level not in AUGREG:
    raise InputError(
      f'unknown level {level!r} after the colon of --config; there are {", ".join(AUGREG)}'
    )
  if data not in ('imagenet2012', 'imagenet21k'):
    raise InputError(
      f'unknown pretraining data {data!r} after the colon of --config; '
      'there are imagenet2012, imagenet21k'
    )
  c = default_config()
  c.model = re.sub(r'(^|\+)(\w+/\d+)$', r'\1ViT-\2', model)
  c.augment, c.dataset, c.num_epochs = level, data, 300.0
  c.lr, c.schedule, c.weight_decay, c.clip_norm = 1e-3, 'cosine', 0.1, 1.0
  if data == 'imagenet21k':
    c.loss, c.head_bias_init = 'sigmoid', -10.0
  return c


# Steps, warmup, learning rate: one of those that the paper chose from.
_FINETUNE = {
  'imagenet2012': (20_000, 500, 0.03),
  'cifar10': (10_000, 500, 0.01),
  'cifar100': (10_000, 500, 0.01),
  'oxford_iiit_pet': (500, 100, 0.01),
  'oxford_flowers102': (500, 100, 0.01),
}
_OTHER = (2500, 500, 0.01)  # VTAB's


def learning_rates(dataset: str) -> tuple[float, ...]:
  """Those that the paper chose from when fine-tuning on a data set (table 4)."""
  imagenet = re.match(r'imagenet2012\b', dataset)
  return (0.003, 0.01, 0.03, 0.06) if imagenet else (0.001, 0.003, 0.01, 0.03)


_IMAGENET_PIXELS = {'ViT-L/16': 512, 'ViT-H/14': 518}  # of table 2, with averaged parameters

# Fewer images than this: steps, warmup, where the learning rate falls.
_HYPERRULE = [
  (20_000, 500, 100, (200, 300, 400)),
  (500_000, 10_000, 500, (3000, 6000, 9000)),
  (float('inf'), 20_000, 500, (6000, 12_000, 18_000)),
]


def finetune(model: str, dataset: str) -> ConfigDict:
  """Table 4's row for `dataset`; set config.init_from to a pretrained checkpoint.

  SGD with momentum .9, batch 512, cosine, no weight decay, gradients clipped to norm 1, a new
  linear head of zeros. 384 px, or the nearest size that the patches divide; on ImageNet L/16 has
  512 and H/14 518 px and the average of the parameters over the steps.

  Args:
    model: a name for create_model.
    dataset: a TFDS name, or a folder of images; one that the table lacks is trained like VTAB.
  """
  c = default_config()
  c.model, c.dataset, c.new_head = model, dataset, True
  c.total_steps, c.warmup_steps, c.lr = _FINETUNE.get(dataset, _OTHER)
  c.optimizer, c.batch_size, c.weight_decay, c.dropout = 'sgd', 512, 0.0, 0.0
  c.preset, c.eval_every, c.save_every = 'bit', 500, 500
  patch = re.search(r'ViT-\w+/(\d+)', model)
  unit = int(patch[1]) if patch else 32
  c.image_size = round(384 / unit) * unit
  if dataset == 'imagenet2012' and model in _IMAGENET_PIXELS:
    c.image_size, c.average = _IMAGENET_PIXELS[model], 0.9999
  return c


def bit_hyperrule(
  model: str, dataset: str, num_images: int, pixels: int | None = None
) -> ConfigDict:
  """The BiT paper's rule (arXiv 1912.11370, 3.3): how ResNets are fine-tuned, without a search.

  SGD with momentum .9, batch 512, peak learning rate .003, a tenth from each of three steps on; how
  long and whether with mixup follows from the number of images, the size from theirs.

  Args:
    model: a name for create_model.
    dataset: a TFDS name, or a folder of images.
    num_images: to train on.
    pixels: side of the images if all have the same size; None for photographs.
  """
  c = default_config()
  c.model, c.dataset, c.new_head, c.preset = model, dataset, True, 'bit'
  c.optimizer, c.batch_size, c.weight_decay, c.dropout, c.clip_norm = 'sgd', 512, 0.0, 0.0, 0.0
  c.lr, c.schedule = 0.003, 'steps'
  c.total_steps, c.warmup_steps, c.lr_drops = next(
    rule for most, *rule in _HYPERRULE if num_images < most
  )
  c.mixup = 0.1 if num_images >= 20_000 else 0.0
  c.resize_size, c.image_size = bit_sizes(pixels, pixels) if pixels else (512, 480)
  c.eval_every, c.save_every = 500, 500
  return c
