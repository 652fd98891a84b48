"""A small ViT, batches for it, and its train step."""

import jax
import numpy as np

from vit_jax import create_model
from vit_jax.training import optim
from vit_jax.training import step as step_lib
from vit_jax.training.objectives import supervised

BATCH = 16
MODEL = create_model(
  'ViT-Ti/4', num_classes=5, image_size=8, hidden_dim=16, mlp_dim=32, num_heads=2, num_layers=3
)


def batch(seed=0):
  rng = np.random.default_rng(seed)
  return {
    'image': rng.integers(0, 256, (BATCH, 8, 8, 3), dtype=np.uint8),
    'label': rng.integers(0, 5, BATCH, dtype=np.int32),
    'mask': np.ones(BATCH, bool),
    'example': np.arange(BATCH, dtype=np.int32),
  }


def setup(model=MODEL, average=0.0, trainable=None, kind='sgd', **options):
  schedule = optim.Schedule('cosine', peak=0.1, total_steps=20, warmup_steps=0)
  optimizer = optim.make_optimizer(schedule, optim.OptimizerConfig(kind))
  step = step_lib.make_train_step(
    supervised(model),
    optimizer,
    schedule,
    dropout_key=jax.random.key(1),
    average=average,
    trainable=trainable,
    **options,
  )
  init = lambda: step_lib.init_state(
    model, optimizer, jax.random.key(0), trainable=trainable, average=bool(average)
  )
  return step, init


def with_head(state):
  """Return the state with a head that is not zero, so that every parameter has a gradient."""
  kernel = jax.random.normal(jax.random.key(2), state.params['head']['kernel'].shape) * 0.1
  return state.replace(params=state.params | {'head': {**state.params['head'], 'kernel': kernel}})


def close(a, b, tolerance):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)
