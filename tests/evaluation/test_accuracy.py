import numpy as np

from vit_jax.evaluation.accuracy import is_correct


def test_labels_and_multi_hot_labels():
  """A head may have more outputs than there are classes: the fifth is no label's."""
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(size=(7, 5)).astype(np.float32), rng.integers(0, 2, (7, 4), np.uint8)
  wide = np.pad(labels, ((0, 0), (0, 1)))
  assert is_correct(logits, labels).tolist() == [
    bool(wide[i, logits[i].argmax()]) for i in range(7)
  ]
  one = rng.integers(0, 5, 7)
  hot = np.eye(5, dtype=np.uint8)[one]
  assert is_correct(logits, one).tolist() == is_correct(logits, hot).tolist()
