"""Images are found by their content, and what is left out is counted."""

import os
import time

import numpy as np
from PIL import Image
import pytest

from tests.helpers.images import encode
from vit_jax.data import image_files
from vit_jax.data.image_files import ImageFiles, count, join_reasons
from vit_jax.errors import InputError

PIXELS = np.zeros((8, 8, 3), np.uint8)
PNG = encode(PIXELS, 'PNG')


def write(path, content=PNG):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content)


def test_images_are_found_by_their_content(tmp_path):
  kinds = {'a.bmp': 'BMP', 'b.gif': 'GIF', 'c.tif': 'TIFF', 'd.ppm': 'PPM', 'e': 'JPEG'}
  for name, kind in kinds.items():
    write(tmp_path / name, encode(Image.fromarray(PIXELS), kind))
  write(tmp_path / 'f.JPG', b'any content')  # its decoder will refuse it
  write(tmp_path / 'g.txt')  # an image with a wrong name
  write(tmp_path / 'x.bmp', b'BMX is not an image')
  write(tmp_path / 'y.txt', b'a text')
  write(tmp_path / '.z.png')
  os.mkfifo(tmp_path / 'pipe')  # would never end
  images = ImageFiles()
  assert images.list(str(tmp_path)) == [os.fsencode(n) for n in (*kinds, 'f.JPG', 'g.txt')]
  assert images.left_out() == [
    '3 files that are not images (1 .bmp; 1 without an extension; 1 .txt)',
    '1 hidden',
  ]


def test_folders_below_and_links(tmp_path):
  for path in ('b.png', 'b/2.png', 'b/1.png', 'b/c/d/3.png', 'a/.hidden/4.png'):
    write(tmp_path / path)
  (tmp_path / 'a' / 'up').symlink_to(tmp_path / 'a')  # never ends if it is followed
  (tmp_path / 'a' / 'other').symlink_to(tmp_path / 'b')
  images = ImageFiles()
  assert images.list(str(tmp_path)) == [
    b'a/other/1.png', b'a/other/2.png', b'a/other/c/d/3.png', b'b.png',
    b'b/1.png', b'b/2.png', b'b/c/d/3.png',
  ]  # fmt: skip
  assert images.left_out() == ['1 hidden']
  assert images.newly_listed == 6  # all but b.png


@pytest.mark.parametrize('link', ['here', 'class', 'split', 'dataset', 'above', 'below'])
def test_no_link_leads_to_a_folder_that_contains_it(tmp_path, link):
  data = tmp_path / 'above' / 'data'
  for path in ('train/cat/a.png', 'train/dog/b.png', 'train/dog/deep/c.png', 'val/cat/d.png'):
    write(data / path)
  dog = data / 'train' / 'dog'
  targets = {'here': '.', 'class': dog, 'split': '..', 'dataset': '../..', 'above': '../../..'}
  if link == 'below':
    (dog / 'deep' / 'up').symlink_to('../..')
  else:
    (dog / 'up').symlink_to(targets[link])
  (tmp_path / 'elsewhere').symlink_to(data / 'train')
  for directory in (dog, tmp_path / 'elsewhere' / 'dog'):
    assert ImageFiles().list(str(directory)) == [b'b.png', b'deep/c.png']


def test_a_class_that_is_itself_a_link_is_in_its_split(tmp_path):
  write(tmp_path / 'store' / 'cats' / 'a.png')
  write(tmp_path / 'train' / 'dog' / 'b.png')
  (tmp_path / 'train' / 'cat').symlink_to('../store/cats')
  (tmp_path / 'store' / 'cats' / 'up').symlink_to(tmp_path / 'train')
  assert ImageFiles().list(str(tmp_path / 'train' / 'cat')) == [b'a.png']


def test_a_hundred_files_of_an_extension_speak_for_the_others(tmp_path, monkeypatch):
  reads = []
  begins = image_files._begins_like_an_image
  monkeypatch.setattr(
    image_files,
    '_begins_like_an_image',
    lambda path, tree: reads.append(path) or begins(path, tree),
  )
  for i in range(150):
    write(tmp_path / f'{i:03}.dat')
    write(tmp_path / f'{i:03}.txt', b'text')
    write(tmp_path / f'{i:03}.bin', PNG if i % 2 else b'text')
  images = ImageFiles()
  listed = images.list(str(tmp_path))
  assert sum(path.endswith(b'.dat') for path in listed) == 150
  assert sum(path.endswith(b'.bin') for path in listed) == 75  # they differ, so all are read
  assert len(listed) == 225 and len(reads) == 100 + 100 + 150
  assert images.left_out() == [
    '225 files that are not images (150 .txt, 50 of them not looked at; 75 .bin)'
  ]


def test_a_folder_that_cannot_be_read(tmp_path):
  with pytest.raises(InputError) as e:
    ImageFiles().list(str(tmp_path / 'none'))
  assert str(e.value) == f'Cannot read the folder {tmp_path}/none: No such file or directory.'


def test_many_images_are_listed_without_reading_them(tmp_path):
  for i in range(20_000):
    (tmp_path / f'{i}.jpg').touch()
  start = time.monotonic()
  assert len(ImageFiles().list(str(tmp_path))) == 20_000
  assert time.monotonic() - start < 2  # about 0.03 s; a million take 2 s


def test_words():
  assert (count(1, 'file'), count(1000, 'file')) == ('1 file', '1,000 files')
  assert [join_reasons('abc'[:n]) for n in (1, 2, 3)] == ['a', 'a and b', 'a, b and c']
