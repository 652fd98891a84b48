"""Fine-tuning (paper table 4) of a checkpoint: --config=configs/finetune.py:MODEL,DATASET

    python -m vit_jax.main --config=configs/finetune.py:ViT-B/16,cifar10 --config.init_from=FILE

DATASET is a TFDS name or a folder of images; FILE anything that load_params reads.
"""

from vit_jax.config.recipes import finetune


def get_config(arg='ViT-B/16,cifar10'):
  model, _, dataset = arg.partition(',')
  return finetune(model, dataset or 'cifar10')
