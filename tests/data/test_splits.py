"""Read split expressions in TFDS notation."""

import pytest

from vit_jax.data.open_source import open_source
from vit_jax.data.splits import named_splits, split_ranges
from vit_jax.errors import InputError


def test_names_in_an_expression():
  assert named_splits('train[:9]+test') == {'train', 'test'}
  assert named_splits('train[:98%] + val-2[5:]+all') == {'train', 'val-2', 'all'}


@pytest.mark.parametrize(
  'split, ranges',
  [
    ('train', [('train', 0, 41)]),
    ('train[3:17]', [('train', 3, 17)]),
    ('train[-5:]', [('train', 36, 41)]),
    ('train[90%:]+test[:5]', [('train', 37, 41), ('test', 0, 5)]),
    ('test+train', [('test', 0, 11), ('train', 0, 41)]),
    ('train[1shard:2shard]', [('train', 10, 20)]),
    ('all', [('train', 0, 41), ('test', 0, 11)]),
  ],
)
def test_ranges(split, ranges):
  assert split_ranges(split, {'train': [10, 10, 10, 11], 'test': [11]}) == ranges


@pytest.mark.parametrize(
  'split, message',
  [
    ('val', "^Unknown split 'val'. Available: train, test.$"),
    ('train+valid[:3]', "^Unknown split 'valid'. Available: train, test.$"),
    ('train[:99]', r"^Cannot read the split 'train\[:99\]': .*41 examples"),
    ('train[:x]', r"^Cannot read the split 'train\[:x\]'"),
    ('train[5:5]', 'holds no examples. Choose another slice.'),
  ],
)
def test_bad_splits(shapes, split, message):
  with pytest.raises(InputError, match=message):
    open_source('shapes', split, shapes[0])
