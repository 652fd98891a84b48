"""The digits dataset: pixels, splits, and preparation at first use."""

import concurrent.futures
import os
import shutil

import cv2
import numpy as np
import pytest
from sklearn import datasets

from tests.helpers.shapes import read_all, run_python
from vit_jax.data import digits
from vit_jax.data.open_source import open_source
from vit_jax.errors import InputError


def test_digits_are_those_of_scikit_learn(digits_dir):
  bunch = datasets.load_digits()
  train, test = (open_source('digits', split, digits_dir) for split in ('train', 'test'))
  assert (len(train), len(test)) == (1437, 360)
  assert train.num_classes == 10 and train.class_names == list('0123456789')
  order = np.random.RandomState(0).permutation(1797)
  for example, index in zip(read_all(train) + read_all(test), order, strict=True):
    image = cv2.imdecode(np.frombuffer(example['image'], np.uint8), cv2.IMREAD_UNCHANGED)
    assert image.shape == (8, 8) and image.dtype == np.uint8
    np.testing.assert_allclose(image, bunch.images[index] / 16 * 255, atol=0.5)
    assert example['label'] == bunch.target[index]
  assert image.max() == 255
  # Accuracies depend on the split, so it must never change.
  assert [train[i]['label'] for i in range(10)] == [2, 8, 2, 6, 6, 7, 1, 9, 8, 5]
  counts = np.bincount([example['label'] for example in read_all(test)])
  assert counts.tolist() == [31, 35, 39, 33, 44, 29, 40, 40, 28, 41]


def test_two_first_uses_at_once(tmp_path):
  code = """
import sys
from vit_jax.data.open_source import open_source
opened = open_source('digits', 'train', sys.argv[1])
print(len(opened), sum(opened[i]['label'] for i in range(len(opened))))
"""
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    results = list(pool.map(lambda _: run_python(code, tmp_path), range(2)))
  assert [r.returncode for r in results] == [0, 0], results[0].stderr + results[1].stderr
  assert results[0].stdout == results[1].stdout == '1437 6424\n'
  assert os.listdir(tmp_path / 'digits') == ['1.0.0']


def test_losing_the_race_to_prepare_digits(digits_dir, tmp_path, monkeypatch):
  def lose(builder):
    shutil.copytree(os.path.join(digits_dir, 'digits', '1.0.0'), builder.data_dir)
    raise OSError('Directory not empty')

  monkeypatch.setattr(digits.builder_class(), 'download_and_prepare', lose)
  assert len(open_source('digits', 'test', str(tmp_path))) == 360


def test_digits_where_nothing_can_be_written(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(InputError, match=f'Cannot write the dataset digits to {tmp_path}/file'):
    open_source('digits', 'train', str(tmp_path / 'file'))
