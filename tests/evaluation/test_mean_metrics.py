"""The loop adds up what the eval step returns for each batch."""

import numpy as np

from vit_jax.evaluation.mean_metrics import evaluate

BATCHES = [np.array([1.0, 2.0, 6.0]), np.array([3.0]), np.array([0.0, 4.0])]


def eval_step(params, batch):
  return {
    'loss': np.float32(params * batch.sum()),
    'correct': np.int32((batch > 1).sum()),
    'examples': np.int32(len(batch)),
  }


def test_every_example_counts_once():
  assert evaluate(eval_step, 2, BATCHES) == {'loss': 2 * 16 / 6, 'accuracy': 4 / 6, 'examples': 6}


def test_no_examples():
  assert evaluate(eval_step, 1, []) == {'loss': 0, 'accuracy': 0, 'examples': 0}


def test_stopping_early():
  seen = []
  assert evaluate(eval_step, 1, BATCHES, lambda: bool(seen.append(0)) or len(seen) == 2) is None
  assert len(seen) == 2
