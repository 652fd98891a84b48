import shutil

import pytest

from vit_jax.config.fields import default_config
from vit_jax.errors import InputError
from vit_jax.transfer.sweep_splits import Splits, find_splits

SPLITS = Splits('train[:90%]', 'train[90%:]', 'train', 'test')


def config(data_dir, **fields):
  c = default_config()
  c.update(dict(dataset='digits', data_dir=str(data_dir)) | fields)
  return c


def test_splits_are_those_of_the_dataset(digits_dir):
  c = config(digits_dir)
  assert find_splits(c) == SPLITS
  c.eval_split = 'test[:50%]'
  assert find_splits(c, dev='test[50%:]') == SPLITS._replace(dev='test[50%:]', test='test[:50%]')
  c.train_split = 'train[:500]'
  assert find_splits(c, 'train[:400]', 'train[400:500]') == (
    'train[:400]',
    'train[400:500]',
    'train[:500]',
    'test[:50%]',
  )
  with pytest.raises(
    InputError,
    match="^config.train_split='train.:500.' is not the whole training split of digits. Say which "
    'parts of it to train and to compare learning rates on: --tune_split=... --dev_split=...$',
  ):
    find_splits(c, dev='train[400:500]')


@pytest.mark.parametrize(
  'fields, flags, words',
  [
    ({}, dict(dev='validation'), "^Unknown split 'validation'. Available: train, test.$"),
    (
      {'eval_split': 'none'},
      {},
      '^digits has nothing to evaluate the final runs on. Give --config.eval_split=SPLIT[.]$',
    ),
    (
      {},
      dict(dev='train[89%:]'),
      "^The tune split 'train.:90%.' and the dev split 'train.89%:.' of digits have images in "
      'common, which would make the result too good. Set --tune_split, --dev_split, '
      '--config.train_split or --config.eval_split[.]$',
    ),
    ({}, dict(dev='test[:20]'), "^The dev split 'test.:20.' and the test split 'test' "),
    ({}, dict(tune='all'), "^The tune split 'all' and the dev split"),
    (
      {'eval_split': 'train[:9]+test'},
      dict(tune='train[9:99]'),
      "^The train split 'train' and the test",
    ),
  ],
)
def test_splits_that_make_no_sense(digits_dir, fields, flags, words):
  with pytest.raises(InputError, match=words):
    find_splits(config(digits_dir, **fields), **flags)


def test_a_folder_without_a_test_split(photos):
  shutil.rmtree(photos / 'val')
  c = default_config()
  c.dataset = str(photos)
  with pytest.raises(InputError, match='has nothing to evaluate the final runs on. Give'):
    find_splits(c)
