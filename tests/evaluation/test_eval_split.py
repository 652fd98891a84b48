"""The split to evaluate on is that of the run, or that of the dataset."""

import numpy as np
import pytest

from vit_jax.config.fields import default_config
from vit_jax.data.open_source import open_source
from vit_jax.data.preprocess import make_eval_preprocess
from vit_jax.errors import InputError
from vit_jax.evaluation.eval_split import find_eval_split, open_eval_split


def config(digits_dir, **changes):
  fields = dict(dataset='digits', data_dir=digits_dir, image_size=16, preset='inception')
  return default_config().to_dict() | fields | changes


def test_the_split_of_a_run(digits_dir):
  split = open_eval_split(config(digits_dir, eval_split='test[:40]', resize_size=20))
  assert split.name == 'digits, test[:40]' and len(split.source) == 40
  images = list(split.images(5))
  preprocess = make_eval_preprocess('inception', 16, resize_size=20)
  test = open_source('digits', 'test', digits_dir)
  expected = [preprocess(test[i]['image']) for i in (0, 10, 20, 29, 39)]
  np.testing.assert_array_equal(images, expected)


def test_another_image_size_changes_the_size_before_the_crop(digits_dir):
  split = open_eval_split(config(digits_dir, resize_size=20), image_size=32)
  assert split.name == 'digits, test'
  image = open_source('digits', 'test', digits_dir)[0]['image']
  expected = make_eval_preprocess('inception', 32, resize_size=40)(image)
  np.testing.assert_array_equal(next(split.images(1)), expected)


def test_a_run_without_evaluation(digits_dir):
  with pytest.raises(
    InputError, match=r'^The run has no evaluation split \(config.eval_split=none'
  ):
    open_eval_split(config(digits_dir, eval_split='none'))


def test_find_eval_split(digits_dir, tmp_path):
  own = config(digits_dir, eval_split='test[:9]')
  assert find_eval_split('digits', own, digits_dir) == 'test[:9]'
  for other in ({}, config(digits_dir, eval_split='none'), own | {'dataset': 'cifar10'}):
    assert find_eval_split('digits', other, digits_dir) == 'test'
  (tmp_path / 'train' / 'cat').mkdir(parents=True)
  (tmp_path / 'train' / 'cat' / 'a.png').touch()
  words = f'^Dataset {tmp_path} has no evaluation split. Choose a split with --split.$'
  with pytest.raises(InputError, match=words):
    find_eval_split(str(tmp_path), {}, None)
