"""Train a small ViT on scikit-learn's 1,797 handwritten digits: minutes on two CPU cores."""

from vit_jax.config import default_config


def get_config():
  c = default_config()
  c.model, c.num_layers = 'ViT-Ti/8', 4
  c.dataset, c.preset, c.resize_size, c.image_size = 'digits', 'bit', 17, 16  # pixels
  c.batch_size, c.num_epochs = 32, 40.0
  c.optimizer, c.lr, c.schedule, c.warmup_steps = 'adam', 1e-3, 'cosine', 100
  c.weight_decay, c.dropout, c.clip_norm = 0.1, 0.1, 1.0
  c.dtype = 'auto'  # what is fastest here: float32 on most CPUs
  c.log_every, c.eval_every, c.save_every = 20, 300, 300  # steps
  return c
