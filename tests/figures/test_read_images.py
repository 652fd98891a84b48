import numpy as np
import pytest

from tests.helpers.images import encode, smooth_image
from vit_jax.data.preprocess import resize
from vit_jax.errors import InputError
from vit_jax.figures.read_images import read_images, sample_photographs


def test_both_sides_are_resized(tmp_path):
  pixels = smooth_image(20, 24, seed=0)
  path = tmp_path / 'x.png'
  path.write_bytes(encode(pixels, 'PNG'))
  (image,) = read_images([str(path)], (8, 12))
  assert image.dtype == np.uint8
  np.testing.assert_array_equal(image, resize(pixels, 8, 12))


def test_sample_photographs():
  shapes = [image.shape for image in read_images(sample_photographs(), (30, 40))]
  assert shapes == [(30, 40, 3), (30, 40, 3)]


def test_not_an_image(tmp_path):
  path = tmp_path / 'x.png'
  path.write_bytes(b'text')
  with pytest.raises(InputError, match=f'^Cannot read {path}: '):
    list(read_images([str(path)], (8, 8)))
