r"""Fine-tune a ResNet with BiT's rule: --config=configs/bit_hyperrule.py:MODEL,DATASET

    python -m vit_jax.main --config=configs/bit_hyperrule.py:BiT-R50x1,cifar10 \
        --config.init_from=BiT-M-R50x1.npz

DATASET is a TFDS name or a folder of images. The recipe depends on the number of its images and on
their size.
"""

from vit_jax.config.recipes import bit_hyperrule
from vit_jax.data.open_source import describe_dataset, open_source


def get_config(arg='BiT-R50x1,cifar10'):
  model, _, dataset = arg.partition(',')
  dataset = dataset or 'cifar10'
  info = describe_dataset(dataset)
  num_images = info.count(info.train_split) or len(open_source(dataset, info.train_split))
  return bit_hyperrule(model, dataset, num_images, info.pixels)
