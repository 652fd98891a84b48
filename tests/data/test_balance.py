"""Balanced sampling: exact counts per class and per image, from any step on."""

import itertools

import numpy as np
import pytest

from tests.data.test_pipeline import Numbers, numbers, preprocess
from tests.helpers.readers import WRITERS, Row
from tests.helpers.shapes import png
from vit_jax.data.balance import BalancedOrder, read_labels
from vit_jax.data.batch import ReadOptions
from vit_jax.data.open_source import open_source
from vit_jax.data.order import TrainOrder
from vit_jax.data.pipeline import train_batches
from vit_jax.errors import InputError

# 70, 20 and 10 images of the classes 4, 0 and 7, in a mixed order.
LABELS = np.random.RandomState(0).permutation(np.repeat([4, 0, 7], [70, 20, 10]))


def draw(order, epochs, n=100):
  return np.array([order.index(g) for g in range(epochs * n)])


@pytest.mark.parametrize(
  'balance, counts',
  [(1.0, {0: 34, 4: 33, 7: 33}), (0.5, {0: 28, 4: 52, 7: 20}), (0.0, {0: 20, 4: 70, 7: 10})],
)
def test_every_epoch_has_the_same_number_of_each_class(balance, counts):
  order = BalancedOrder(LABELS, 3, balance)
  assert sum(counts.values()) == len(LABELS)
  for epoch in draw(order, 5).reshape(5, -1):
    assert dict(zip(*np.unique(LABELS[epoch], return_counts=True))) == counts


@pytest.mark.parametrize('balance', [0.0, 0.5, 1.0])
def test_the_images_of_a_class_take_turns(balance):
  """After any number of epochs, the images of a class differ by at most one draw."""
  drawn = draw(BalancedOrder(LABELS, 3, balance), 7)
  for label in (0, 4, 7):
    images = np.flatnonzero(np.equal(LABELS, label))
    of_class = drawn[LABELS[drawn] == label]
    times = np.array([(of_class == i).sum() for i in images])
    assert times.min() >= 1 and times.max() - times.min() <= 1, label


def test_epochs_and_seeds_differ_and_are_mixed():
  a, b = (draw(BalancedOrder(LABELS, seed, 1.0), 2) for seed in (3, 4))
  assert not np.array_equal(a, b) and not np.array_equal(a[:100], a[100:])
  np.testing.assert_array_equal(a, draw(BalancedOrder(LABELS, 3, 1.0), 2))
  classes = LABELS[a[:100]]
  assert np.mean(classes[1:] == classes[:-1]) < 0.5  # a third, if they are independent


def test_a_large_class():
  """Classes beyond the size of a table are permutations, too."""
  labels = np.repeat([0, 1], [5000, 10])
  drawn = draw(BalancedOrder(labels, 0, 0.0), 2, 5010)
  np.testing.assert_array_equal(np.sort(drawn), np.repeat(np.arange(5010), 2))


def test_the_order_is_pinned():
  """Runs resume across versions only if the order stays the same."""
  order = BalancedOrder(LABELS, 3, 0.5)
  assert [order.index(10**6 + i) for i in range(6)] == [79, 10, 66, 18, 48, 58]


def test_images_without_a_label_are_never_drawn():
  labels = np.where(np.arange(100) % 5 == 0, -1, LABELS)
  drawn = draw(BalancedOrder(labels, 3, 1.0), 3)
  assert set(drawn) == set(np.flatnonzero(labels >= 0))


def test_a_batch_depends_on_seed_and_step_only():
  def take(start, count, **options):
    options = ReadOptions(8, **options)
    with train_batches(
      Numbers(37), preprocess, options, seed=7, start_step=start, balance=1.0
    ) as batches:
      return [numbers(batch) for batch in itertools.islice(batches, count)]

  whole = take(0, 12, num_threads=1)
  assert take(9, 3, num_threads=4) == whole[9:]
  shares = [take(0, 12, process_index=i, process_count=2) for i in range(2)]
  assert [a + b for a, b in zip(*shares)] == whole
  labels = np.array(sum(whole, [])[:74]) % 10
  assert np.bincount(labels).tolist() == [8, 8, 8, 8, 8, 8, 8, 6, 6, 6]  # two epochs of 4 or 3


def test_without_balance_the_order_is_the_usual_one():
  with train_batches(Numbers(37), preprocess, ReadOptions(8), seed=7) as batches:
    found = numbers(next(batches))
  assert found == [TrainOrder(37, 7).index(g) for g in range(8)]


class Damaged(Numbers):
  def label(self, index):
    if index in self.damaged:
      raise ValueError('cannot be read')
    return super().label(index)


def test_labels_that_cannot_be_read(messages):
  assert read_labels(Damaged(5, damaged=(1, 3))).tolist() == [0, -1, 2, -1, 4]
  assert messages[-1] == '2 images have no label and are left out.'
  with pytest.raises(InputError) as e:
    read_labels(Damaged(2, damaged=(0, 1)))
  assert str(e.value) == (
    'No image has a label, so the classes cannot be balanced. Choose other data.'
  )


class Remote(Damaged):
  """A source that counts how many examples have begun to be read and are not read yet."""

  is_remote = True
  has_labels_apart = False  # pyright: ignore

  def start(self, index):
    self.begun.append(1)

    def wait():
      self.most.append(len(self.begun))
      self.begun.pop()
      return self[index]

    return wait


@pytest.mark.parametrize('count', [1, 20, 2001])
def test_remote_records_are_read_many_at_once(count):
  source = Remote(count, unreadable=(0,) if count > 1 else ())
  source.begun, source.most = [], []
  expected = np.arange(count) % 10
  if count > 1:
    expected[0] = -1
  np.testing.assert_array_equal(read_labels(source), expected)
  assert not source.begun and len(source.most) == count and max(source.most) >= min(20, count)


def test_many_labels(messages):
  """Joining the labels takes no time that grows with the square of their number."""
  source = Numbers(300_000)
  np.testing.assert_array_equal(read_labels(source), np.arange(300_000) % 10)
  assert messages == [
    'Reading the labels of 300,000 images to balance the classes.',
    'Read 100,000 of 300,000 labels.',
    'Read 200,000 of 300,000 labels.',
  ]


def test_several_labels_are_refused(tmp_path):
  rows = [Row('a', png(0), [0, 1])]
  dataset, _ = WRITERS['webdataset'](tmp_path, {'train': rows, 'test': rows}, ['a', 'b'])
  with pytest.raises(InputError) as e:
    read_labels(open_source(dataset, 'train'))
  assert str(e.value) == (
    'config.class_balance needs one label per image, but the images have several. Leave it out.'
  )
