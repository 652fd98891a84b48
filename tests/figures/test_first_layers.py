import numpy as np
import pytest

from vit_jax import figures
from vit_jax.figures import draw


def test_position_similarity_shows_the_numbers():
  rng = np.random.default_rng(0)
  similarity = figures.position_similarity(rng.normal(size=(2, 3, 8)))
  canvas = draw.draw_position_similarity(similarity).axes[0].images[0].get_array()
  assert canvas.shape == (2 * 2 + 1, 3 * 3 + 2)
  np.testing.assert_array_equal(canvas[3:, 4:7], similarity[1, 1])
  many = draw.draw_position_similarity(np.ones((37, 20, 37, 20)))
  assert [int(t.get_text()) for t in many.axes[0].get_yticklabels()] == [1, 10, 19, 28, 37]
  assert [int(t.get_text()) for t in many.axes[0].get_xticklabels()] == [
    1,
    3,
    6,
    8,
    11,
    13,
    15,
    18,
    20,
  ]
  base = draw.draw_position_similarity(np.ones((14, 14, 14, 14)))
  assert len(base.axes[0].get_yticklabels()) == 14


def test_filters_show_the_numbers():
  rng = np.random.default_rng(0)
  filters = figures.principal_filters(rng.normal(size=(2, 2, 3, 9)), 9)
  shown = draw.draw_filters(filters).axes[3].images[0].get_array()
  assert np.abs(shown - 0.5).max() == pytest.approx(0.5)
  np.testing.assert_allclose(
    shown - 0.5, filters.components[3] * (0.5 / np.abs(filters.components[3]).max())
  )
