"""Compare decoded images with Pillow, and boxes with slices. Refuse damaged files."""

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image
import pytest
import simplejpeg

from tests.helpers.images import IMAGE, assert_close, encode
from vit_jax.data import decode
from vit_jax.data.decode import decode_crop, decode_image

ALPHA = np.random.default_rng(1).integers(0, 256, IMAGE.shape[:2], dtype=np.uint8)


def pillow_rgb(data):
  return np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))


# --- Formats and colors


def test_png_variants_give_exact_rgb():
  gray = IMAGE[..., 0]
  gray_rgb = np.dstack([gray] * 3)
  assert_close(decode_image(encode(IMAGE, 'PNG')), IMAGE, 0)
  assert_close(decode_image(encode(gray, 'PNG')), gray_rgb, 0)
  assert_close(decode_image(encode(np.dstack([IMAGE, ALPHA]), 'PNG')), IMAGE, 0)
  assert_close(decode_image(encode(np.dstack([gray, ALPHA]), 'PNG')), gray_rgb, 0)
  palette = Image.fromarray(IMAGE).quantize(50)
  expected = np.asarray(palette.convert('RGB'))
  assert_close(decode_image(encode(palette, 'PNG')), expected, 0)
  assert_close(decode_image(encode(palette, 'PNG', transparency=3)), expected, 0)
  black_white = Image.fromarray(IMAGE).convert('1')
  assert_close(decode_image(encode(black_white, 'PNG')), np.asarray(black_white.convert('RGB')), 0)


@pytest.mark.parametrize('channels', [1, 3, 4])
def test_16_bit_png_gives_upper_8_bits(channels):
  image = np.random.default_rng(0).integers(0, 2**16, (20, 30, channels)).astype(np.uint16)
  data = cv2.imencode('.png', image)[1].tobytes()  # BGR(A)
  expected = np.repeat(image, 3, -1) if channels == 1 else image[..., 2::-1]
  assert_close(decode_image(data), expected / 257, 1)


@pytest.mark.parametrize('options', [{}, {'lossless': True}])
@pytest.mark.parametrize('alpha', [False, True])
def test_webp_equals_pillow(options, alpha):
  data = encode(np.dstack([IMAGE, ALPHA]) if alpha else IMAGE, 'WEBP', **options)
  assert_close(decode_image(data), pillow_rgb(data), 1)
  assert np.abs(decode_image(data) - IMAGE.astype(float)).mean() < 6


@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK'])
@pytest.mark.parametrize('options', [{}, {'progressive': True}, {'subsampling': 0}])
def test_jpeg_equals_pillow(mode, options):
  image = Image.fromarray(IMAGE).convert(mode)
  data = encode(image, 'JPEG', quality=95, **options)
  assert_close(decode_image(data), pillow_rgb(data), 1)
  assert np.abs(decode_image(data) - np.asarray(image.convert('RGB'), float)).mean() < 6


def test_adobe_ycck_jpeg():
  cmyk = 255 - np.asarray(Image.fromarray(IMAGE).convert('CMYK'))  # Adobe stores it inverted
  data = simplejpeg.encode_jpeg(np.ascontiguousarray(cmyk), 95, 'CMYK', '444')
  assert simplejpeg.decode_jpeg_header(data)[2] == 'YCCK'
  assert_close(decode_image(data), pillow_rgb(data), 2)
  assert np.abs(decode_image(data) - IMAGE.astype(float)).mean() < 6


def test_content_decides_not_the_file_name(tmp_path):
  path = tmp_path / 'really_a_png.jpg'
  path.write_bytes(encode(IMAGE, 'PNG'))
  assert_close(decode_image(path.read_bytes()), IMAGE, 0)


# --- EXIF


TURNS = {
  1: lambda a: a,
  2: lambda a: a[:, ::-1],
  3: lambda a: a[::-1, ::-1],
  4: lambda a: a[::-1],
  5: lambda a: a.transpose(1, 0, 2),
  6: lambda a: np.rot90(a, -1),
  7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
  8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation_is_applied_when_asked(kind, orientation, decoder):
  exif = Image.Exif()
  exif[0x0112] = orientation
  data = encode(IMAGE, kind, exif=exif)
  plain = decode_image(data)
  assert_close(plain, pillow_rgb(encode(IMAGE, kind)), 1)
  turned = decode_image(data, apply_exif=True)
  np.testing.assert_array_equal(turned, TURNS[orientation](plain))
  crop = decode_crop(data, lambda h, w: (h // 3, w // 3, 9, 11), apply_exif=True)
  y, x = turned.shape[0] // 3, turned.shape[1] // 3
  np.testing.assert_array_equal(crop, turned[y : y + 9, x : x + 11])


def jpeg_with_exif(exif):
  data = encode(IMAGE, 'JPEG')
  return data[:2] + b'\xff\xe1' + struct.pack('>H', len(exif) + 8) + b'Exif\0\0' + exif + data[2:]


@pytest.mark.parametrize('order, magic', [('<', b'II*\0'), ('>', b'MM\0*')])
def test_exif_in_both_byte_orders(order, magic):
  entries = [(0x010F, 2, 4, 0), (0x0112, 3, 1, 6)]
  exif = magic + struct.pack(order + 'IH', 8, len(entries))
  exif += b''.join(struct.pack(order + 'HHIHxx', *entry) for entry in entries)
  data = jpeg_with_exif(exif)
  np.testing.assert_array_equal(decode_image(data, apply_exif=True), TURNS[6](decode_image(data)))


@pytest.mark.parametrize(
  'exif',
  [
    b'',
    b'II*\0',
    b'II*\0\xff\xff\xff\xff',
    b'II*\0\x08\0\0\0\xff\xff',
    b'nonsense',
    b'MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0',
  ],
)
def test_malformed_exif_leaves_the_image_as_stored(exif):
  data = jpeg_with_exif(exif)
  np.testing.assert_array_equal(decode_image(data, apply_exif=True), decode_image(data))


# --- Damage


FILES = {
  'baseline': encode(IMAGE, 'JPEG', quality=90),
  'progressive': encode(IMAGE, 'JPEG', quality=90, progressive=True),
  'thumbnail': jpeg_with_exif(
    encode(IMAGE[:16, :16], 'JPEG')
  ),  # an end-of-image marker near the start
  'gray': encode(IMAGE[..., 0], 'JPEG'),
  'cmyk': encode(Image.fromarray(IMAGE).convert('CMYK'), 'JPEG'),
  'png': encode(IMAGE, 'PNG'),
  '16-bit png': cv2.imencode('.png', IMAGE.astype(np.uint16) * 257)[1].tobytes(),
  'webp': encode(IMAGE, 'WEBP'),
  'lossless webp': encode(IMAGE, 'WEBP', lossless=True),
}
DECODERS = {
  'image': decode_image,
  'top': lambda data: decode_crop(data, lambda h, w: (0, 0, 5, 5)),
  'bottom': lambda data: decode_crop(data, lambda h, w: (h - 5, w - 5, 5, 5)),
}


@pytest.mark.parametrize('name', FILES)
def test_truncated_files_are_refused(name, decoder):
  data = FILES[name]
  lengths = {*np.linspace(1, len(data) - 1, 25, dtype=int), *range(len(data) - 12, len(data))}
  for length in lengths:
    for part, function in DECODERS.items():
      with pytest.raises(ValueError):
        function(data[:length])
        pytest.fail(f'{length} of {len(data)} bytes accepted ({part})')


@pytest.mark.parametrize('name', FILES)
def test_bytes_after_the_image_are_ignored(name, decoder):
  expected = decode_image(FILES[name])
  for tail in (b'\0', b'\r\n', b'trailing words' * 100):
    np.testing.assert_array_equal(decode_image(FILES[name] + tail), expected)
    np.testing.assert_array_equal(DECODERS['top'](FILES[name] + tail), expected[:5, :5])
    np.testing.assert_array_equal(DECODERS['bottom'](FILES[name] + tail), expected[-5:, -5:])


@pytest.mark.parametrize(
  'data, message',
  [
    (b'', 'empty'),
    (b'<!DOCTYPE html><html></html>', 'not a JPEG, PNG or WebP'),
    (bytes(range(256)) * 9, 'not a JPEG'),
    (encode(IMAGE, 'GIF'), "starts with b'GIF8"),
    (b'\xff\xd8', 'damaged JPEG'),
    (b'\xff\xd8' + bytes(999), 'damaged JPEG'),
    (b'\x89PNG\r\n\x1a\n', 'damaged PNG: the file is cut short'),
    (b'RIFF\x08\0\0\0WEBPVP8 ', 'damaged WebP'),
  ],
)
def test_files_that_are_not_images(data, message, decoder):
  for function in DECODERS.values():
    with pytest.raises(ValueError, match=message):
      function(data)


@pytest.mark.parametrize('name', ['png', '16-bit png'])
def test_no_flipped_bit_of_a_png_passes(name):
  data = FILES[name]
  for position in {*range(60), *range(60, len(data), 97), *range(len(data) - 12, len(data))}:
    flipped = bytearray(data)
    flipped[position] ^= 1 << position % 8
    with pytest.raises(ValueError):
      decode_image(bytes(flipped))
      pytest.fail(f'flipped bit in byte {position} accepted')


def test_png_with_too_few_rows_is_refused():
  def chunk(kind, payload):
    body = kind + payload
    return struct.pack('>I', len(payload)) + body + struct.pack('>I', zlib.crc32(body))

  def png(rows):
    pixels = b''.join(b'\0' + row.tobytes() for row in IMAGE[:rows])
    header = struct.pack('>IIBBBBB', 97, 63, 8, 2, 0, 0, 0)
    return (
      b'\x89PNG\r\n\x1a\n'
      + chunk(b'IHDR', header)
      + chunk(b'IDAT', zlib.compress(pixels))
      + chunk(b'IEND', b'')
    )

  assert_close(decode_image(png(63)), IMAGE, 0)
  with pytest.raises(ValueError, match='damaged PNG'):
    decode_image(png(40))


def test_flipped_bits_of_a_jpeg_raise_or_give_a_whole_array(decoder):
  refused = 0
  data = FILES['baseline']
  for position in range(2, len(data), 13):
    flipped = bytearray(data)
    flipped[position] ^= 1 << position % 8
    try:
      crop = decode_crop(bytes(flipped), lambda h, w: (h // 2, w // 2, h - h // 2, w - w // 2))
    except ValueError:
      refused += 1
    else:
      assert crop.size and crop.dtype == np.uint8
  assert refused > 20  # JPEG has no checksum, so most flipped bits only change pixels


def test_extraneous_bytes_are_refused_where_they_are_read(decoder):
  # They are harmless here, but often they are the only sign of a flipped bit.
  data = FILES['baseline']
  damaged = data[:-2] + bytes(9) + data[-2:]
  for part in ('image', 'bottom'):
    with pytest.raises(ValueError, match='damaged JPEG.*extraneous bytes'):
      DECODERS[part](damaged)


# --- Partial JPEG decoding


def jpeg_kinds(image):
  for sampling in ('444', '422', '420', '440', '411', 'Gray'):
    yield sampling, simplejpeg.encode_jpeg(image, 85, 'RGB', sampling)
  for sampling in (0, 1, 2):
    yield f'progressive {sampling}', encode(image, 'JPEG', progressive=True, subsampling=sampling)
  yield 'restarts', encode(image, 'JPEG', restart_marker_blocks=3)
  yield 'rgb', encode(image, 'JPEG', keep_rgb=True)
  yield 'cmyk', encode(Image.fromarray(image).convert('CMYK'), 'JPEG')


@pytest.mark.parametrize(
  'height, width', [(125, 167), (61, 83), (16, 16), (1, 1), (8, 200), (70, 9)]
)
def test_crop_equals_the_slice_of_the_whole_image(height, width, decoder):
  rng = np.random.default_rng(0)
  noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)  # all pixels differ
  for kind, data in jpeg_kinds(noise):
    whole = simplejpeg.decode_jpeg(data, 'RGB')
    for _ in range(60):
      h, w = int(rng.integers(height)) + 1, int(rng.integers(width)) + 1
      if rng.random() < 0.3:
        h, w = min(h, 3), min(w, 3)  # the smallest boxes lie at every offset in a block
      y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
      box = y, x, h, w
      crop = decode_crop(data, lambda *size, box=box: box)
      np.testing.assert_array_equal(crop, whole[y : y + h, x : x + w], err_msg=f'{kind}, box {box}')


def test_the_extension_refuses_boxes_outside_the_image():
  if decode._jpegcrop is None:
    pytest.skip('the optional C extension is not built')
  for y, x, h, w in ((0, 0, 64, 1), (0, 97, 1, 1), (-1, 0, 2, 2), (0, -1, 2, 2), (0, 0, 0, 0)):
    with pytest.raises(ValueError, match='outside the image'):
      decode._jpegcrop.decode_box(FILES['baseline'], bytearray(h * w * 3), y, x, h, w)
  with pytest.raises(ValueError, match='wrong size'):
    decode._jpegcrop.decode_box(FILES['baseline'], bytearray(11), 0, 0, 2, 2)
