"""Image files are found below folders, and loaded from every kind of object that holds one."""

import io
import re
from unittest.mock import Mock

import numpy as np
from PIL import Image, ImageOps
import pytest

from tests.helpers.images import IMAGE, encode
from vit_jax.data.preprocess import make_eval_preprocess, resize
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


@pytest.mark.parametrize('mode', ['RGB', 'L', 'P', 'RGBA', 'LA', 'CMYK', '1', 'I;16'])
@pytest.mark.parametrize('orientation', [None, 6])
def test_every_entrance_gives_the_same_pixels(mode, orientation, tmp_path):
  picture = Image.fromarray(IMAGE).convert('L' if mode == 'I;16' else mode)
  if mode == 'I;16':
    picture = Image.fromarray(np.asarray(picture).astype(np.uint16) * 200)
  exif = Image.Exif()
  if orientation:
    exif[0x0112] = orientation
  kind = 'JPEG' if mode == 'CMYK' else 'PNG'
  path = tmp_path / f'image.{kind.lower()}'
  picture.save(path, kind, exif=exif)
  preprocess = make_eval_preprocess('bit', 24, apply_exif=True)
  with open(path, 'rb') as file, Image.open(path) as opened, Image.open(path) as loaded:
    loaded.load()
    images = [
      str(path),
      path,
      path.read_bytes(),
      io.BytesIO(path.read_bytes()),
      file,
      opened,
      loaded,
    ]
    pixels = [load_image(*named, preprocess) for named in name_images(images)]
  upright = picture if mode == 'I;16' else picture.convert('RGB')
  if orientation:
    upright = upright.transpose(Image.Transpose.ROTATE_270)
  upright = np.asarray(upright)
  expected = np.repeat((upright >> 8)[..., None], 3, -1) if mode == 'I;16' else upright
  if kind == 'PNG':
    images.append(expected.astype(np.uint8))
    pixels.append(load_image('array', images[-1], preprocess))
  for found in pixels[1:]:
    np.testing.assert_array_equal(found, pixels[0])
  assert np.abs(pixels[0] - resize(expected.astype(np.uint8), 24, 24).astype(float)).mean() < 3


def test_open_files_are_read_from_their_start(tmp_path):
  file = io.BytesIO(b'content')
  file.seek(0, io.SEEK_END)
  assert load_image('a', file, lambda content: content) == b'content'
  file = Mock(seekable=lambda: True, seek=lambda position: position)
  for kind in (bytearray, memoryview):
    file.read = lambda kind=kind: kind(b'content')
    assert load_image('a', file, bytes) == b'content'
  file.read = lambda: None
  with pytest.raises(InputError) as e:
    load_image('a', file, bytes)
  assert str(e.value) == 'Cannot read a: reading the file returned NoneType instead of bytes.'
  path = tmp_path / 'a.txt'
  path.write_text('text')
  with open(path) as text, pytest.raises(InputError) as e:
    load_image('a.txt', text, lambda content: content)
  assert str(e.value) == ("Cannot read a.txt: the file is open for text. Open it with mode 'rb'.")


def test_an_image_of_pillow_that_was_turned_is_not_turned_again():
  exif = Image.Exif()
  exif[0x0112] = 6
  image = Image.open(io.BytesIO(encode(IMAGE, 'JPEG', exif=exif)))
  expected = np.asarray(ImageOps.exif_transpose(image))
  for picture in (image, ImageOps.exif_transpose(image)):
    ((name, picture),) = name_images(picture)
    np.testing.assert_array_equal(load_image(name, picture, lambda pixels: pixels), expected)
  unsaved = Image.fromarray(IMAGE)
  unsaved.getexif()[0x0112] = 3
  pixels = load_image('a', unsaved, lambda pixels: pixels)
  np.testing.assert_array_equal(pixels, IMAGE[::-1, ::-1])


def test_damaged_images_of_pillow_are_named(tmp_path):
  path = tmp_path / 'short.jpg'
  path.write_bytes(encode(IMAGE, 'JPEG')[:-20])
  ((name, image),) = name_images(Image.open(path))
  with pytest.raises(InputError) as e:
    load_image(name, image, lambda pixels: pixels)
  assert re.fullmatch(
    rf'Cannot read {path}: damaged JPEG: image file is truncated \(\d+ bytes not processed\)\.',
    str(e.value),
  )


def test_warnings_name_the_image(messages):
  data = encode(IMAGE, 'JPEG')
  preprocess = make_eval_preprocess('bit', 24, apply_exif=True)
  load_image('a.jpg', data[:-2] + bytes(9) + data[-2:], preprocess)
  (message,) = messages
  assert re.fullmatch(
    r'Read a\.jpg with a warning: Corrupt JPEG data: \d extraneous bytes before marker 0xd9\.',
    message,
  )


def test_too_little_memory_is_an_error_of_the_image():
  def fail(content):
    raise MemoryError

  with pytest.raises(InputError) as e:
    load_image('a.png', b'content', fail)
  assert str(e.value) == 'Cannot read a.png: there is not enough memory to decode it.'


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
