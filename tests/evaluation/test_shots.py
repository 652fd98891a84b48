"""Each draw of a class depends only on the seed, the class and its number of images."""

import numpy as np

from vit_jax.evaluation.shots import pick


def test_picks():
  labels = np.random.default_rng(0).integers(0, 5, 400)
  picks = pick(labels, 5, 25, seed=0)
  assert picks.shape == (5, 25)
  for label, images in enumerate(picks):
    assert len(set(images)) == 25
    assert set(labels[images]) == {label}
  np.testing.assert_array_equal(pick(labels, 5, 10, seed=0), picks[:, :10])  # nested
  assert (pick(labels, 5, 25, seed=1) != picks).any(axis=1).all()
  # The number of classes and of images of the other classes does not matter.
  fewer = labels[labels != 4]
  positions = np.flatnonzero(labels != 4)
  np.testing.assert_array_equal(positions[pick(fewer, 4, 25, seed=0)], picks[:4])


def test_picks_are_the_same_everywhere():
  np.testing.assert_array_equal(
    pick(np.arange(24) % 2, 2, 5, seed=3), [[2, 18, 0, 16, 20], [3, 7, 19, 11, 13]]
  )
