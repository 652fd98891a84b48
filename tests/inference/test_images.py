"""Image files are found below folders, and loaded from paths, bytes, open files and arrays."""

import io

import numpy as np
import pytest

from vit_jax.errors import InputError
from vit_jax.inference.images import find_images, load_image, name_images

PIXELS = np.zeros((2, 3, 3), np.uint8)


def touch(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(b'content')
  return str(path)


def test_find_images(tmp_path):
  upper, png, nested = (touch(tmp_path / name) for name in ('b.JPG', 'a.png', 'x/y/c.webp'))
  for name in ('notes.txt', '.hidden.png', 'x/.cache/d.png'):
    touch(tmp_path / name)
  assert find_images([str(tmp_path)]) == [png, upper, nested]
  notes = str(tmp_path / 'notes.txt')  # a file that is given by name may have any extension
  assert find_images([upper, '-', 'gs://b/c', notes]) == [upper, '-', 'gs://b/c', notes]
  with pytest.raises(InputError, match=f'^Cannot read {tmp_path}/z: no such file or folder.$'):
    find_images([f'{tmp_path}/z'])
  (tmp_path / 'empty').mkdir()
  with pytest.raises(InputError, match=f'^The folder {tmp_path}/empty has no images '):
    find_images([f'{tmp_path}/empty'])


def test_name_images(tmp_path):
  path = tmp_path / 'a.png'
  with open(touch(path), 'rb') as f:
    names = [name for name, _ in name_images([path, str(path), b'content', PIXELS, f])]
    assert names == [str(path), str(path), 'image 2', 'image 3', str(path)]
  for one in (path, str(path), b'content', io.BytesIO(b'content'), PIXELS):
    assert [image for _, image in name_images(one)] == [one]
  assert [name for name, _ in name_images(np.stack([PIXELS] * 2))] == ['image 0', 'image 1']


def test_load_image(tmp_path):
  path = tmp_path / 'a.png'
  for image in (touch(path), path, b'content', bytearray(b'content'), io.BytesIO(b'content')):
    assert load_image('a', image, lambda content: content) == b'content'
  np.testing.assert_array_equal(load_image('a', PIXELS, lambda pixels: pixels), PIXELS)


def test_errors_name_the_image(tmp_path):
  def fail(content):
    raise ValueError('damaged PNG')

  for name, image, words in (
    ('x.png', tmp_path / 'x.png', 'Cannot read x.png: No such file or directory.'),
    ('image 3', b'content', 'Cannot read image 3: damaged PNG.'),
    (
      'image 0',
      PIXELS[0],
      'Cannot read image 0: an array must be (height, width, 3) uint8 RGB, '
      'but this one is (3, 3) uint8.',
    ),
  ):
    with pytest.raises(InputError) as e:
      load_image(name, image, fail)
    assert str(e.value) == words
