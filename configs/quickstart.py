"""A small ViT on scikit-learn's 1,797 handwritten digits: minutes on two CPU cores."""

from vit_jax.config import default_config


def get_config():
  c = default_config()
  c.model, c.num_layers, c.image_size = 'ViT-Ti/8', 4, 16
  c.dataset, c.preset, c.resize_size = 'digits', 'bit', 17
  c.dtype = 'float32'  # a CPU computes it faster than bfloat16
  c.dropout = 0.1
  c.batch_size, c.num_epochs = 32, 40.0
  c.lr, c.warmup_steps, c.weight_decay = 1e-3, 100, 0.1
  c.log_every, c.eval_every, c.save_every = 20, 300, 300
  return c
