import logging
import pathlib
import types

import jax

from vit_jax.config.fields import default_config
from vit_jax.training.describe import log_results, log_start


def test_start(caplog):
  c = default_config()
  c.model, c.image_size, c.dtype, c.dataset, c.batch_size = 'ViT-B/16', 224, 'float32', 'a', 10
  c.total_steps = 30
  state = types.SimpleNamespace(params={'w': jax.ShapeDtypeStruct((1000, 3), 'float32')})
  inputs = types.SimpleNamespace(train=range(200), num_classes=7)
  with caplog.at_level(logging.INFO, 'vit_jax'):
    log_start(c, inputs, state, 30, '1 device(s)')
  assert caplog.messages[:2] == [
    'ViT-B/16, 3,000 parameters, 224 px, float32; 1 device(s): cpu',
    'a: 200 training images, 7 classes; 30 steps of 10 images (1.5 epochs)',
  ]


def test_results(caplog):
  with caplog.at_level(logging.INFO, 'vit_jax'):
    log_results(pathlib.Path('run'), 40)
    log_results(pathlib.Path('run'), None)
  rest = ['Metrics:     run/metrics.jsonl', 'TensorBoard: tensorboard --logdir=run/tensorboard']
  assert caplog.messages == ['Checkpoint:  run/checkpoints/40', *rest, *rest]
