"""A few classes are all drawn. Of many, the most confused ones are drawn."""

import cv2
import numpy as np
import pytest

from vit_jax.evaluation import confusion_plot
from vit_jax.evaluation.confusion_plot import draw_confusions


@pytest.fixture
def drawn(monkeypatch):
  """Return a list that collects the arguments of each drawing."""
  calls = []
  draw = confusion_plot._draw
  monkeypatch.setattr(confusion_plot, '_draw', lambda *args: calls.append(args) or draw(*args))
  return calls


def test_few_classes(drawn, tmp_path):
  labels, predictions = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 5])
  draw_confusions(tmp_path / 'a.png', labels, predictions, names=['a' * 30, 'b', 'c'], title='t')
  _, counts, names, title = drawn[0]
  assert counts.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
  assert names == ['a' * 23 + '…', 'b', 'c'] and title == 't'
  assert min(cv2.imread(str(tmp_path / 'a.png')).shape[:2]) > 300


def test_names_that_are_no_text(drawn, tmp_path):
  names = ['caf\udce9', '$\\a_{', 'a\nb']
  labels = np.array([0, 1, 2])
  draw_confusions(tmp_path / 'a.png', labels, labels[::-1], names=names, title='./caf\udce9, val')
  assert drawn[0][2:] == (['caf\ufffd', '$\\a_{', 'a\\nb'], './caf\ufffd, val')
  assert cv2.imread(str(tmp_path / 'a.png')) is not None


def test_many_classes(drawn, tmp_path):
  labels = np.arange(40)
  predictions = np.where(labels < 18, labels + 20, labels)
  names = [str(i) for i in range(40)]
  draw_confusions(tmp_path / 'a.png', labels, predictions, names=names, title='t')
  _, counts, shown, title = drawn[0]
  assert shown == [str(i) for i in (*range(18), 20, 21)]  # ties go to the lower classes
  assert title == 't\nthe 20 of 40 classes with the most errors'
  assert counts.shape == (20, 21)
  assert np.argmax(counts, 1).tolist() == [18, 19, *[20] * 16, 18, 19]
