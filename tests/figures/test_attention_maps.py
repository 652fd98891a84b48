import jax.numpy as jnp
import numpy as np

from vit_jax.figures import draw


def test_attention_distance_shows_the_numbers():
  rng = np.random.default_rng(0)
  distance = rng.uniform(1, 9, (3, 4))
  lines = draw.draw_attention_distance(distance, 5.0, (8, 12), 1).axes[0].lines
  np.testing.assert_array_equal(lines[0].get_ydata(), [5, 5])
  np.testing.assert_array_equal(
    lines[1].get_xydata(), np.stack([np.repeat(range(3), 4), distance.ravel()], 1)
  )


def test_overlay_is_yellow_where_the_map_is_largest():
  image = np.full((4, 8, 3), 200, np.uint8)
  got = draw.overlay(image, jnp.array([[0.2, 0.4]]))
  blue, yellow = np.array([68, 1, 84]), np.array([253, 231, 37])  # the ends of viridis
  np.testing.assert_allclose(got[:, 0], np.tile(0.6 * blue + 0.4 * 200, (4, 1)), atol=1)
  np.testing.assert_allclose(got[:, -1], np.tile(0.6 * yellow + 0.4 * 200, (4, 1)), atol=1)
  np.testing.assert_allclose(draw.overlay(image, np.ones((2, 2)))[0, 0], 0.6 * yellow + 80, atol=1)


def test_one_patch_does_not_hide_all_others():
  weights = np.linspace(1, 2, 100).reshape(10, 10)
  weights[5, 5] = 1000.0
  got = draw.overlay(np.zeros((10, 10, 3), np.uint8), weights)
  np.testing.assert_allclose(got[0, 0], 0.6 * np.array([68, 1, 84]), atol=1)
  np.testing.assert_allclose(got[5, 5], 0.6 * np.array([253, 231, 37]), atol=1)
  assert got[4, 5, 1] > 50 > 2 * got[0, 0, 1]  # halfway: green


def test_attention_maps_are_scaled_to_the_largest_weight():
  maps = np.array([[[0.1, 0.2]], [[0.5, 0.0]]])
  figure = draw.draw_attention_maps(np.zeros((4, 8, 3), np.uint8), maps, 'block 0')
  np.testing.assert_allclose(figure.axes[1].images[0].get_array(), [[0.5, 1]])
  np.testing.assert_allclose(figure.axes[2].images[0].get_array(), [[1, 0]])
  assert [axes.get_title() for axes in figure.axes[:3]] == [
    'input image',
    'head 0: 20.0 %',
    'head 1: 50.0 %',
  ]
