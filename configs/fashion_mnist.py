"""Pretrain a small ViT on Fashion-MNIST's 60,000 images: about an hour on two CPU cores.

    python -m vit_jax.tools.prepare fashion_mnist --manual_dir=/usr/share/datasets/fashion-mnist
    python -m vit_jax.main --config=configs/fashion_mnist.py

RESULTS.md fine-tunes the result on other data. The files are in Debian's package
dataset-fashion-mnist.
"""

from vit_jax.config import default_config


def get_config():
  c = default_config()
  c.model, c.num_layers, c.image_size = 'ViT-Ti/4', 6, 28  # 49 patches
  c.hidden_dim, c.mlp_dim, c.num_heads, c.representation_size = 128, 512, 4, 128
  c.dataset, c.preset, c.resize_size = 'fashion_mnist', 'bit', 28  # no crops
  c.batch_size, c.num_epochs = 64, 7.0
  c.lr, c.warmup_steps, c.weight_decay, c.dropout = 1e-3, 500, 0.1, 0.0
  c.label_smoothing = 0.1
  c.dtype = 'float32'  # faster than bfloat16 on most CPUs
  c.log_every, c.eval_every, c.save_every = 100, 938, 469
  return c
