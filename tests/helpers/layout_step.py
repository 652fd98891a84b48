"""A ViT whose arrays divide over eight devices, batches for it, and its train step."""

import jax
import numpy as np

from vit_jax import create_model
from vit_jax.training import optim
from vit_jax.training import step as step_lib
from vit_jax.training.objectives import supervised

BATCH = 32
TINY = dict(
  num_classes=16, image_size=32, hidden_dim=64, mlp_dim=128, num_heads=4, num_layers=2, dropout=0.1
)


def setup(accumulate=1, moment_dtype='float32', **fields):
  model = create_model('ViT-Ti/8', **{**TINY, **fields})
  schedule = lambda _: 3e-3
  config = optim.OptimizerConfig(clip_norm=1.0, weight_decay=0.1, moment_dtype=moment_dtype)
  optimizer = optim.make_optimizer(schedule, config)
  step = step_lib.make_train_step(
    supervised(model), optimizer, schedule, dropout_key=jax.random.key(1), accumulate=accumulate
  )
  return step, lambda: step_lib.init_state(model, optimizer, jax.random.key(0))


def batch(seed):
  rng = np.random.default_rng(seed)
  return {
    'image': rng.integers(0, 256, (BATCH, 32, 32, 3), np.uint8),
    'label': rng.integers(0, 16, BATCH, np.int32),
    'mask': np.ones(BATCH, bool),
    'example': np.arange(BATCH, dtype=np.int32),
  }
