"""Recipes of the papers: pretraining (ViT table 3, AugReg), fine-tuning (ViT table 4, BiT)."""

import re

from ml_collections import ConfigDict

from vit_jax.config.fields import AUGREG, default_config
from vit_jax.data.dataset_names import is_own_data
from vit_jax.data.preprocess import bit_sizes
from vit_jax.errors import unknown
from vit_jax.models.sizes import VARIANTS

# Epochs and peak learning rate on JFT-300M. Table 3 also has L/16 and R50+L/16 for 7 epochs.
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
  """Return the recipe of table 3 for a model on a dataset.

  All rows share batch size 4096, 10,000 steps of warmup, Adam with betas (0.9, 0.999), images of
  224 pixels, and a head with one hidden layer of the model's width. ResNets have neither that
  layer nor dropout.

  Args:
    model: name for create_model, such as 'ViT-B/16'. On JFT, a model that is not in the table is
      trained like B/16.
    data: 'imagenet2012', 'imagenet21k' or 'jft'.

  Raises:
    InputError: the data is unknown.
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
    raise unknown('pretraining data', data, ('imagenet2012', 'imagenet21k', 'jft'))
  if data != 'imagenet2012':  # a binary loss per class; at first, the bias says "no" to all
    c.loss, c.head_bias_init, c.schedule, c.clip_norm = 'sigmoid', -10.0, 'linear', None
  if model.startswith('BiT-'):
    c.dropout = 0.0
  return c


def augreg(model: str, level: str = 'medium2', data: str = 'imagenet2012') -> ConfigDict:
  """Return the recipe for pretraining at one of AugReg's levels of augmentation.

  The recipe is from arXiv 2106.10270, sections 3.2 to 3.4: batch size 4096, 300 epochs, Adam with
  betas (0.9, 0.999), cosine decay from 1e-3 after 10,000 steps of warmup, gradients clipped to norm
  1, images of 224 pixels, and a head without a hidden layer. The paper also tries weight_decay
  0.03, dropout and stochastic_depth of 0.1 with either weight decay, and 30 epochs on ImageNet-21k.

  Args:
    model: name for create_model, or a name from the paper's tables, such as 'S/16' or 'R26+S/32'.
    level: 'none', 'light1', 'light2', 'medium1', 'medium2', 'strong1' or 'strong2'. The default is
      that of the released configuration for S/16 and larger models.
    data: 'imagenet2012' or 'imagenet21k'.

  Raises:
    InputError: the level or the data is unknown.
  """
  if level not in AUGREG:
    raise unknown('level of augmentation', level, AUGREG)
  if data not in ('imagenet2012', 'imagenet21k'):
    raise unknown('pretraining data', data, ('imagenet2012', 'imagenet21k'))
  c = default_config()
  c.model = re.sub(r'(^|\+)(\w+/\d+)$', r'\1ViT-\2', model)
  c.augment, c.dataset, c.num_epochs = level, data, 300.0
  c.lr, c.schedule, c.weight_decay, c.clip_norm = 1e-3, 'cosine', 0.1, 1.0
  if data == 'imagenet21k':
    c.loss, c.head_bias_init = 'sigmoid', -10.0
  return c


# Steps, steps of warmup, and one of the learning rates that the paper chose from.
_FINETUNE = {
  'imagenet2012': (20_000, 500, 0.03),
  'cifar10': (10_000, 500, 0.01),
  'cifar100': (10_000, 500, 0.01),
  'oxford_iiit_pet': (500, 100, 0.01),
  'oxford_flowers102': (500, 100, 0.01),
}
_OTHER = (2500, 500, 0.01)  # for all other datasets, as for the tasks of VTAB
_FOLDER = (None, None, 0.01)  # the length depends on the number of images (see config/length.py)


def learning_rates(dataset: str) -> tuple[float, ...]:
  """Return the learning rates that the paper chose from for fine-tuning on a dataset (table 4)."""
  imagenet = re.match(r'imagenet2012\b', dataset)
  return (0.003, 0.01, 0.03, 0.06) if imagenet else (0.001, 0.003, 0.01, 0.03)


# Image sizes on ImageNet in table 2, where the parameters are averaged.
_IMAGENET_PIXELS = {'ViT-L/16': 512, 'ViT-H/14': 518}

# Upper bound on the number of images, steps, steps of warmup, steps at which the learning rate
# drops.
_HYPERRULE = [
  (20_000, 500, 100, (200, 300, 400)),
  (500_000, 10_000, 500, (3000, 6000, 9000)),
  (float('inf'), 20_000, 500, (6000, 12_000, 18_000)),
]


def finetune(model: str, dataset: str) -> ConfigDict:
  """Return the recipe of table 4 for fine-tuning on a dataset.

  Set config.init_from to a pretrained checkpoint. All rows share SGD with momentum 0.9, batch size
  512, cosine decay, no weight decay, gradients clipped to norm 1, and a new linear head of zeros.
  Images have 384 pixels, or the nearest size that the patches divide. On ImageNet, L/16 has 512
  pixels, H/14 has 518, and both average the parameters over the steps.

  Args:
    model: name for create_model.
    dataset: a TFDS name, or a folder of images. A dataset that is not in the table is trained
      like the tasks of VTAB, and a small folder for 100 epochs.
  """
  c = default_config()
  c.model, c.dataset, c.new_head = model, dataset, True
  if is_own_data(dataset):
    c.num_epochs, (c.total_steps, c.warmup_steps, c.lr) = None, _FOLDER
  else:
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
  """Return the BiT paper's recipe for fine-tuning ResNets without a search.

  The rule is in arXiv 1912.11370, section 3.3: SGD with momentum 0.9, batch size 512, and a
  peak learning rate of 0.003 that drops by a factor of 10 at three steps. The number of images
  decides how long to train and whether to use mixup. Their size decides the image size.

  Args:
    model: name for create_model.
    dataset: a TFDS name, or a folder of images.
    num_images: number of training images.
    pixels: side of the images if all have the same size, None if they are photographs.
  """
  c = default_config()
  c.model, c.dataset, c.new_head, c.preset = model, dataset, True, 'bit'
  c.optimizer, c.batch_size, c.weight_decay, c.dropout, c.clip_norm = 'sgd', 512, 0.0, 0.0, None
  c.lr, c.schedule = 0.003, 'steps'
  c.total_steps, c.warmup_steps, c.lr_drops = next(
    rule for bound, *rule in _HYPERRULE if num_images < bound
  )
  if num_images >= 20_000:
    c.mixup = 0.1
  c.resize_size, c.image_size = bit_sizes(pixels, pixels) if pixels else (512, 480)
  c.eval_every, c.save_every = 500, 500
  return c
