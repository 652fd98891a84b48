"""Select examples of a source, and locate an index in concatenated parts."""

import pickle

import numpy as np
import pytest

from vit_jax.data.open_source import open_source
from vit_jax.data.subset import Concatenation, Subset, evenly, without
from vit_jax.errors import InputError


@pytest.fixture
def source(digits_dir):
  return open_source('digits', 'train[:5]', digits_dir)


def test_a_subset_has_the_examples_of_its_indices(source):
  subset = Subset(source, np.array([4, 0, 4]))
  assert len(subset) == 3 and subset.num_classes == 10
  assert subset.class_names == list('0123456789')
  assert [subset[i] for i in range(3)] == [source[4], source[0], source[4]]
  assert [subset.label(i) for i in range(3)] == [source.label(i) for i in (4, 0, 4)]
  assert [subset.location(i) for i in range(3)] == [source.location(i) for i in (4, 0, 4)]
  assert [pickle.loads(pickle.dumps(subset))[i] for i in range(3)] == [subset[i] for i in range(3)]


def test_without(source):
  rest = without(source, np.array([0, 3]))
  assert [rest.location(i) for i in range(len(rest))] == [source.location(i) for i in (1, 2, 4)]
  with pytest.raises(InputError, match='All 5 examples are excluded, so none remain'):
    without(source, np.arange(5))


@pytest.mark.parametrize(
  'count, indices', [(1, [0]), (2, [0, 4]), (3, [0, 2, 4]), (5, [0, 1, 2, 3, 4]), (9, range(5))]
)
def test_evenly(source, count, indices):
  subset = evenly(source, count)
  assert [subset.location(i) for i in range(len(subset))] == [source.location(i) for i in indices]


def test_every_index_of_a_concatenation_is_located():
  whole = Concatenation([2, 0, 3])
  assert len(whole) == 5
  assert [whole.locate(i) for i in range(5)] == [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]
  for index in (-1, 5):
    with pytest.raises(IndexError, match=f'Index {index} is out of range for 5 examples'):
      whole.locate(index)
  assert len(Concatenation([])) == 0
