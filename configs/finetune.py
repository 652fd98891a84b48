r"""Fine-tune a checkpoint (paper table 4): --config=configs/finetune.py:MODEL,DATASET

    python -m vit_jax.main --config=configs/finetune.py:ViT-B/16,cifar10 --config.init_from=FILE

MODEL is a name for create_model. DATASET is a TFDS name or a folder of images. FILE is anything
that load_params reads.
"""

from vit_jax.config.recipes import finetune
from vit_jax.data.dataset_names import is_own_data

# Steps, steps of warmup and learning rate by dataset. The paper chose the learning rate from four:
# `python -m vit_jax.transfer.sweep` tries them.
LENGTHS = {
  'imagenet2012': (20_000, 500, 0.03),
  'cifar10': (10_000, 500, 0.01),
  'cifar100': (10_000, 500, 0.01),
  'oxford_iiit_pet': (500, 100, 0.01),
  'oxford_flowers102': (500, 100, 0.01),
}
OTHER = (2500, 500, 0.01)  # for all other datasets, as for the tasks of VTAB
# A folder is trained for 100 epochs, but at least 50 and at most 2,500 steps. A fifth of them warms
# up. To choose another length, pass --config.num_epochs=N or --config.total_steps=N.
FOLDER = (None, None, 0.01)


def get_config(arg='ViT-B/16,cifar10'):
  model, _, dataset = arg.partition(',')
  dataset = dataset or 'cifar10'
  # The recipe sets the image size: 384 pixels, or the nearest size that the patches divide. On
  # ImageNet, L/16 has 512 and H/14 has 518 pixels, and both average the parameters (0.9999).
  # All the other numbers of the recipe are here.
  c = finetune(model, dataset)
  other = FOLDER if is_own_data(dataset) else OTHER
  c.total_steps, c.warmup_steps, c.lr = LENGTHS.get(dataset, other)
  c.batch_size, c.schedule = 512, 'cosine'
  c.optimizer, c.momentum = 'sgd', 0.9
  c.weight_decay, c.clip_norm, c.dropout = 0.0, 1.0, 0.0
  c.new_head = True  # start from a head of zeros
  c.preset = 'bit'  # resize, then crop at random
  c.eval_every, c.save_every = 500, 500
  return c
