"""A corpus of image files has the pixels that Pillow gives them, as a whole and in crops."""

import contextlib
import io

import numpy as np
from PIL import Image, ImageOps
import pytest

from tests.helpers.image_variants import jpeg_variants, other_variants
from tests.helpers.images import smooth_image
from vit_jax.data.decode import decode_crop, decode_image
from vit_jax.data.decode_warnings import collect_warnings

SIZES = [  # height, width: around the blocks of 8 and 16 pixels of a JPEG
  (1, 1),
  (1, 50),
  (50, 1),
  (7, 9),
  (8, 8),
  (15, 17),
  (16, 16),
  (17, 15),
  (31, 64),
  (33, 47),
  (63, 97),
  (101, 30),
]
# Pillow warns about them, and so do we.
pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')


def pillow_pixels(data):
  """Return the pixels of a file, or the error if Pillow refuses it."""
  with Image.open(io.BytesIO(data)) as image:
    with contextlib.suppress(SyntaxError):  # the EXIF block is damaged; the image is not
      image = ImageOps.exif_transpose(image)
    return np.asarray(image.convert('RGB'))


def check(name, data, rng):
  try:
    expected = pillow_pixels(data)
  except OSError:
    with pytest.raises(ValueError):
      decode_image(data)
      pytest.fail(f'{name}: accepted, although Pillow refuses it')
    return 0
  with collect_warnings():
    whole = decode_image(data, apply_exif=True)
    assert whole.dtype == np.uint8 and whole.shape == expected.shape, name
    assert np.abs(whole.astype(float) - expected).mean() == 0, name
    height, width, _ = expected.shape
    h, w = int(rng.integers(height)) + 1, int(rng.integers(width)) + 1
    y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    crop = decode_crop(data, lambda *size: (y, x, h, w), apply_exif=True)
    np.testing.assert_array_equal(crop, expected[y : y + h, x : x + w], err_msg=name)
  return 1


@pytest.mark.parametrize('variants', [jpeg_variants, other_variants])
def test_pixels_equal_those_of_pillow(variants, decoder):
  rng = np.random.default_rng(0)
  read = total = 0
  for height, width in SIZES:
    for name, data in variants(smooth_image(height, width)):
      read += check(f'{name}, {height} x {width}', data, rng)
      total += 1
  assert total >= 500 and read > 0.98 * total


@pytest.mark.parametrize('kind', ['PNG', 'TIFF', 'PPM'])
def test_gray_images_of_16_bits_give_their_upper_8(kind):
  values = np.random.default_rng(0).integers(0, 2**16, (20, 30)).astype(np.uint16)
  out = io.BytesIO()
  Image.fromarray(values).save(out, kind)
  pixels = decode_image(out.getvalue())
  np.testing.assert_array_equal(pixels, np.repeat((values >> 8)[..., None], 3, -1))
  # Pillow makes all values above 255 white.
  difference = np.abs(pixels.astype(float) - pillow_pixels(out.getvalue())).mean()
  assert 120 < difference < 130
