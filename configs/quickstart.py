"""A small ViT on scikit-learn's 1,797 handwritten digits: minutes on two CPU cores."""

from vit_jax.config import default_config


def get_config():
  c = default_config()
  c.model, c.image_size = 'ViT-Ti/4', 16
  c.num_layers = 4
  c.dataset, c.preset = 'digits', 'bit'
  c.dtype = 'float32'  # a CPU computes it faster than bfloat16
  c.dropout = .1
  c.batch_size, c.num_epochs = 64, 40.
  c.lr, c.warmup_steps, c.weight_decay = 1e-3, 100, .1
  c.log_every, c.eval_every, c.save_every = 10, 200, 200
  return c
