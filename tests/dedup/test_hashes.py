import cv2
import numpy as np
import pytest

from tests.helpers.images import smooth_image
from vit_jax.dedup.hashes import against_hashes, train_hashes, trim_borders


def photo(height=140, width=180):
  from sklearn.datasets import load_sample_image

  return np.ascontiguousarray(load_sample_image('china.jpg')[100 : 100 + height, 200 : 200 + width])


def distance(changed, image):
  """Return the smallest distance between any hash of one image and any of the other."""
  a, b = train_hashes(changed), against_hashes(image)
  return int(np.bitwise_count(a[:, None] ^ b).min())


def test_hash_equals_imagehash_and_does_not_change():
  """Another value here means that HASH_VERSION must change."""
  imagehash = pytest.importorskip('imagehash')
  from PIL import Image

  image = photo(128, 100)
  gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
  assert f'{train_hashes(image)[0]:016x}' == str(imagehash.phash(Image.fromarray(gray)))
  framed = np.pad(smooth_image(200, 150), ((9, 9), (20, 20), (0, 0)))
  assert [f'{h:016x}' for h in train_hashes(framed)] == ['918d4f3668f03fe0', '9b8bc921fe2601db']
  assert train_hashes(image).dtype == against_hashes(image).dtype == np.uint64
  assert against_hashes(image).shape == (20,) and against_hashes(framed).shape == (22,)


CHANGES = {
  'same': lambda x: x,
  'jpeg': lambda x: cv2.imdecode(cv2.imencode('.jpg', x, [1, 50])[1], 1),
  'smaller': lambda x: cv2.resize(x, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
  'larger': lambda x: cv2.resize(x, None, fx=2, fy=2),
  'other shape': lambda x: cv2.resize(x, (140, 180)),
  'cropped': lambda x: x[:-7, 9:],
  'cropped more': lambda x: x[14:, :-18],
  'mirrored': lambda x: x[:, ::-1],
  'mirrored, cropped': lambda x: x[4:-3, ::-1][:, 9:],
  'darker': lambda x: (x * 0.7).astype(np.uint8),
  'white frame': lambda x: np.pad(x, ((9, 9), (9, 9), (0, 0)), constant_values=255),
  'letterbox': lambda x: np.pad(x, ((40, 40), (0, 0), (0, 0))),
  'gray': lambda x: np.repeat(x.mean(axis=-1, keepdims=True), 3, axis=-1).astype(np.uint8),
}


@pytest.mark.parametrize('change', CHANGES.values(), ids=CHANGES)
def test_changed_images_are_near_and_others_far(change):
  pytest.importorskip('imagehash')
  changed = np.ascontiguousarray(change(photo()))
  assert distance(changed, photo()) <= 8
  assert distance(changed, smooth_image(140, 180)) > 12


@pytest.mark.parametrize('shape', [(1, 1), (1, 50), (50, 1), (8, 8), (700, 3)])
def test_any_shape_has_hashes(shape):
  pytest.importorskip('imagehash')
  for value in (0, 255):
    image = np.full((*shape, 3), value, np.uint8)
    assert train_hashes(image).shape == (1,) and against_hashes(image).shape == (20,)


def test_trim_borders():
  gray = cv2.cvtColor(photo(), cv2.COLOR_RGB2GRAY)
  np.testing.assert_array_equal(trim_borders(gray), gray)
  framed = np.pad(gray, ((3, 5), (7, 0)), constant_values=255)
  np.testing.assert_array_equal(trim_borders(framed), gray)
  noise = np.random.default_rng(0).integers(0, 8, framed.shape, np.uint8)
  assert trim_borders(framed - noise * (framed > 250)).shape == gray.shape
  wide = np.pad(gray, ((80, 80), (0, 0)))  # more frame than image, so it stays as it is
  np.testing.assert_array_equal(trim_borders(wide), wide)
  flat = np.full((20, 30), 7, np.uint8)
  np.testing.assert_array_equal(trim_borders(flat), flat)
