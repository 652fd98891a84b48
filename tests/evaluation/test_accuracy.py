"""Predictions are right by a rule that can be checked by hand."""

import jax
import numpy as np

from vit_jax.evaluation.accuracy import is_correct

PREDICTIONS = np.array([[2, 0], [1, 2], [5, 1], [0, 1]])
LABELS = np.array([2, 2, 2, 2])


def test_one_label():
  assert jax.jit(is_correct)(PREDICTIONS, LABELS).tolist() == [True, True, False, False]
  assert is_correct(PREDICTIONS[:, :1], LABELS).tolist() == [True, False, False, False]
  assert is_correct(PREDICTIONS[:, 0], LABELS).tolist() == [True, False, False, False]


def test_several_labels():
  several = np.array([[0, 0, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]], np.uint8)
  assert jax.jit(is_correct)(PREDICTIONS, several).tolist() == [True, True, False, False]
  assert is_correct(PREDICTIONS[:, 0], several).tolist() == [True, False, False, False]


def test_one_hot_labels_mean_the_same_as_indices():
  one_hot = np.eye(3, dtype=np.uint8)[LABELS]  # class 5 is none of these
  np.testing.assert_array_equal(is_correct(PREDICTIONS, one_hot), is_correct(PREDICTIONS, LABELS))


def test_a_wider_head():
  """No label belongs to the fifth output of the head."""
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(size=(7, 5)).astype(np.float32), rng.integers(0, 2, (7, 4), np.uint8)
  wide = np.pad(labels, ((0, 0), (0, 1)))
  assert is_correct(logits.argmax(-1), labels).tolist() == [
    bool(wide[i, logits[i].argmax()]) for i in range(7)
  ]
  one = rng.integers(0, 5, 7)
  hot = np.eye(5, dtype=np.uint8)[one]
  assert is_correct(logits.argmax(-1), one).tolist() == is_correct(logits.argmax(-1), hot).tolist()
