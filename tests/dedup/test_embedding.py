import collections

import numpy as np
import pytest

from tests.helpers.images import smooth_image
from tests.helpers.small_vit import small_vit
from vit_jax.dedup.embedding import embedding_distances


def test_distance_is_the_smaller_one_of_the_image_and_its_mirror_image():
  model, params, _ = small_vit()
  images = [smooth_image(8, 12, seed=i) for i in range(3)]
  tests = {10: images[0], 11: images[1][:, ::-1], 12: images[2]}
  pairs = np.array([[0, 10, 3], [1, 11, 3], [0, 12, 3]])
  distances = embedding_distances(model, params, pairs, images.__getitem__, tests.__getitem__)
  assert distances.dtype == np.float32
  np.testing.assert_allclose(distances[:2], 0, atol=1e-5)
  features = [
    np.asarray(model.clone(num_classes=0).apply({'params': params}, image[None] / 127.5 - 1))[0]
    for image in (images[0], images[2], images[2][:, ::-1])
  ]
  a, *others = (x / np.linalg.norm(x) for x in features)
  assert distances[2] == pytest.approx(1 - max(a @ b for b in others), abs=1e-4)
  assert distances[2] > 1e-3


def test_each_image_is_computed_once():
  model, params, _ = small_vit()
  reads = collections.Counter()

  def read(i):
    reads[i] += 1
    return smooth_image(8, 12, seed=i)

  pairs = np.array([[0, 5], [1, 5], [0, 6]])
  embedding_distances(model, params, pairs, read, lambda i: smooth_image(8, 12, seed=i))
  assert reads == {0: 1, 1: 1}
  assert embedding_distances(model, params, pairs[:0], read, read).shape == (0,)
