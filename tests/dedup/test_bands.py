import numpy as np
import pytest

from vit_jax.dedup.bands import find_pairs, make_index
from vit_jax.errors import InputError


def flip_bits(hashes, rng, most):
  counts = rng.integers(0, most + 1, len(hashes))
  flips = [sum(1 << int(bit) for bit in rng.choice(64, n, replace=False)) for n in counts]
  return hashes ^ np.array(flips, np.uint64)


@pytest.mark.parametrize('threshold', [0, 1, 2, 3, 5, 8, 13, 16])
def test_pairs_equal_those_of_comparing_all(threshold):
  rng = np.random.default_rng(threshold)
  few = rng.integers(0, 2**64, 100, np.uint64)
  many = flip_bits(np.concatenate([few] * 6), rng, 20)
  pairs = find_pairs(make_index(few, np.arange(100), threshold), many, np.arange(600))
  distances = np.bitwise_count(many[:, None] ^ few)
  want = np.argwhere(distances <= threshold)
  np.testing.assert_array_equal(pairs[:, :2], want)
  np.testing.assert_array_equal(pairs[:, 2], distances[tuple(want.T)])
  assert len(want) >= 600 * (threshold + 1) / 21 * 0.7


def test_pair_of_several_hashes_counts_once_at_its_least_distance():
  index = make_index(np.array([0b111, 0b1, 2**63], np.uint64), np.array([5, 5, 6]), 4)
  pairs = find_pairs(index, np.array([0b11, 0, 2**63 + 7], np.uint64), np.array([9, 9, 2]))
  assert pairs.tolist() == [[2, 5, 1], [2, 6, 3], [9, 5, 1], [9, 6, 1]]


def test_many_alike_leave_only_the_closest():
  same = np.zeros(5000, np.uint64)
  pairs = find_pairs(make_index(same, np.arange(5000), 8), same[:1500], np.arange(1500))
  want = np.stack([np.repeat(np.arange(1500), 8), np.tile(np.arange(8), 1500), np.zeros(12000)], 1)
  np.testing.assert_array_equal(pairs, want)


@pytest.mark.parametrize('threshold', [-1, 17])
def test_bad_threshold(threshold):
  with pytest.raises(
    InputError, match=f'^The threshold must be from 0 to 16 bits, but it is {threshold}.$'
  ):
    make_index(np.zeros(1, np.uint64), np.zeros(1), threshold)


def test_nothing_to_find():
  none = np.empty(0, np.uint64)
  some = np.arange(3, dtype=np.uint64)
  assert find_pairs(make_index(none, none, 8), some, some).shape == (0, 3)
  assert find_pairs(make_index(some, some, 8), none, none).shape == (0, 3)
