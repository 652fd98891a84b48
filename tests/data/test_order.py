import numpy as np
import pytest

from vit_jax.data.order import EvalOrder, TrainOrder

SEED = 7


@pytest.mark.parametrize('n', [5000, 100_000])  # with a table, and without
def test_an_epoch_mixes_well(n):
  train_order = TrainOrder(n, SEED)
  order = np.array([train_order.index(g) for g in range(n, 2 * n)])
  assert np.array_equal(np.sort(order), np.arange(n))
  # Positions and images are uncorrelated, up to 1/sqrt(n), and so are steps between images.
  assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 4 / np.sqrt(n)
  assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 4 / np.sqrt(n)
  assert np.sum(order == np.arange(n)) < 10  # fixed points are Poisson(1)


def test_the_order_is_pinned():
  """Runs resume across versions of this package and of Grain only if the order stays the same."""
  order = TrainOrder(100_000, SEED)
  assert [order.index(10**6 + i) for i in range(4)] == [50035, 63375, 65719, 65370]


def test_evaluation_is_in_order_and_ends():
  order = EvalOrder(3)
  assert [order.index(g) for g in range(5)] == [0, 1, 2, None, None]
