"""The first bytes of a file tell the format of the image, whatever its name."""

import numpy as np
from PIL import Image
import pytest

from tests.helpers.images import IMAGE, encode
from vit_jax.data.image_format import image_format


@pytest.mark.parametrize(
  'pillow_format, name',
  [
    ('JPEG', 'JPEG'),
    ('MPO', 'JPEG'),
    ('PNG', 'PNG'),
    ('GIF', 'GIF'),
    ('BMP', 'BMP'),
    ('TIFF', 'TIFF'),
    ('PPM', 'PPM'),
    ('WEBP', 'WebP'),
    ('AVIF', 'AVIF'),
    ('JPEG2000', 'JPEG 2000'),
    ('ICO', 'ICO'),
    ('QOI', 'QOI'),
  ],
)
def test_formats_that_pillow_writes(pillow_format, name):
  data = encode(IMAGE, pillow_format)
  assert image_format(data) == image_format(data[:64]) == name
  assert image_format(b'\r\n' + data) == name


@pytest.mark.parametrize('mode, data', [('1', b'P4'), ('L', b'P5'), ('RGB', b'P6'), ('F', b'Pf')])
def test_all_kinds_of_ppm(mode, data):
  file = encode(Image.fromarray(IMAGE).convert(mode), 'PPM')
  assert file.startswith(data) and image_format(file) == 'PPM'


def test_headers_of_formats_that_pillow_does_not_write():
  assert image_format(b'\0\0\0\x18ftypheic\0\0\0\0mif1heic') == 'HEIC'
  assert image_format(b'\0\0\0\x18ftypmif1\0\0\0\0mif1heic') == 'HEIC'
  assert image_format(b'\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf') == 'AVIF'
  assert image_format(b'P3\n# made by hand\n4 4\n255\n') == 'PPM'
  assert image_format(b'8BPS\0\1' + bytes(6)) == 'PSD'
  assert image_format(encode(IMAGE, 'TIFF', big_tiff=True)) == 'TIFF'


@pytest.mark.parametrize(
  'data',
  [
    b'',
    b'\xff',
    b'<!DOCTYPE html><html>',
    b'BMW sells cars, and this is a text about them.',
    b'P3 is the name of a race.',
    b'GIF files are described here',
    b'RIFF\x24\0\0\0WAVEfmt ',
    b'\0\0\0\x18ftypmp42\0\0\0\0mp42isom',
    b'\0\0\x08\x03\0\0\xea\x60',  # MNIST
    bytes(range(256)),
    np.zeros(99, np.uint8).tobytes(),
  ],
)
def test_other_files(data):
  assert image_format(data) is None
