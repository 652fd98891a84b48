"""Compare decoded images with Pillow, and boxes with slices. Refuse what Pillow refuses."""

import collections
import contextlib
import io
import re
import resource
import struct
import sys
import tracemalloc
import zlib

import cv2
import numpy as np
from PIL import AvifImagePlugin, Image, ImageOps
import pytest
import simplejpeg

from tests.helpers.image_variants import exif_block, jpeg_with_segment, png_chunk, png_file
from tests.helpers.images import IMAGE, assert_close, encode
from vit_jax.data import decode
from vit_jax.data.decode import decode_crop, decode_image
from vit_jax.data.decode_warnings import collect_warnings

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
  return jpeg_with_segment(encode(IMAGE, 'JPEG'), 0xE1, b'Exif\0\0' + exif)


def webp_with_exif(exif):
  data = encode(IMAGE, 'WEBP', exif=b'Exif\0\0' + exif_block(1))
  start = data.index(b'EXIF')
  chunk = b'EXIF' + struct.pack('<I', len(exif)) + exif + bytes(len(exif) % 2)
  return data[:4] + struct.pack('<I', start + len(chunk) - 8) + data[8:start] + chunk


def text_profile(exif):
  """Return an EXIF block as ImageMagick stores it in a PNG."""
  digits = exif.hex().encode()
  lines = b'\n'.join(digits[i : i + 72] for i in range(0, len(digits), 72))
  return b'Raw profile type exif\0' + b'\nexif\n%8d\n' % len(exif) + lines + b'\n'


def exif_variants(orientation):
  """Yield (name, file) for every place and encoding of the orientation that Pillow honors."""
  jpeg = encode(IMAGE, 'JPEG')
  block = exif_block(orientation)
  for order in '<>':
    for kind in (3, 4):
      yield f'jpeg {order} {kind}', jpeg_with_exif(exif_block(orientation, order, kind))
  make = struct.pack('<HHII', 0x010F, 2, 4, 0)
  yield 'not the first tag', jpeg_with_exif(exif_block(orientation, before=[make]))
  yield 'prefix twice', jpeg_with_exif(b'Exif\0\0' + block)
  half = jpeg_with_segment(jpeg, 0xE1, b'Exif\0\0' + block[20:])
  yield 'two segments', jpeg_with_segment(half, 0xE1, b'Exif\0\0' + block[:20])
  xmp = f'<rdf:Description tiff:Orientation="{orientation}"/>'.encode()
  xmp_segment = b'http://ns.adobe.com/xap/1.0/\0' + xmp
  yield 'xmp', jpeg_with_segment(jpeg, 0xE1, xmp_segment)
  yield 'exif, then xmp', jpeg_with_segment(jpeg_with_exif(block), 0xE1, xmp_segment)
  start = jpeg.index(b'\xff\xda')
  segment = jpeg_with_segment(b'\xff\xd8', 0xE1, b'Exif\0\0' + block)[2:]
  yield 'after the frame header', jpeg[:start] + segment + jpeg[start:]
  yield 'webp', webp_with_exif(block)
  yield 'webp with a prefix', webp_with_exif(b'Exif\0\0' + block)
  yield 'png', png_file(IMAGE, png_chunk(b'eXIf', block))
  yield 'png with a prefix', png_file(IMAGE, png_chunk(b'eXIf', b'Exif\0\0' + block))
  for prefix in (b'', b'Exif\0\0'):
    text = text_profile(prefix + block)
    yield 'png with a text profile', png_file(IMAGE, png_chunk(b'tEXt', text))
    name, value = text.split(b'\0', 1)
    compressed = name + b'\0\0' + zlib.compress(value)
    yield 'png with a compressed profile', png_file(IMAGE, png_chunk(b'zTXt', compressed))
  exif = Image.Exif()
  exif[0x0112] = orientation
  yield 'avif', encode(IMAGE, 'AVIF', exif=exif)


@pytest.mark.parametrize('orientation', [1, 3, 6])
def test_orientation_from_every_place_that_pillow_honors(orientation, decoder):
  for name, data in exif_variants(orientation):
    stored = decode_image(data)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert('RGB'))
    with collect_warnings() as warnings:
      turned = decode_image(data, apply_exif=True)
    assert not warnings, name
    np.testing.assert_array_equal(turned, expected, err_msg=name)
    if name != 'avif':  # its decoder rotates the image
      np.testing.assert_array_equal(turned, TURNS[orientation](stored), err_msg=name)
    crop = decode_crop(data, lambda h, w: (3, 5, h - 9, w - 7), apply_exif=True)
    np.testing.assert_array_equal(crop, expected[3:-6, 5:-2], err_msg=name)


def test_tiff_is_rotated_as_pillow_rotates_it():
  data = encode(IMAGE, 'TIFF', tiffinfo={0x0112: 6})
  np.testing.assert_array_equal(decode_image(data, apply_exif=True), TURNS[6](IMAGE))


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
  with collect_warnings():
    np.testing.assert_array_equal(decode_image(data, apply_exif=True), decode_image(data))


def test_warnings_about_readable_images():
  jpeg, png = encode(IMAGE, 'JPEG'), encode(IMAGE, 'PNG')
  wrong = bytearray(png_chunk(b'tEXt', b'Comment\0made by hand'))
  wrong[-1] ^= 1
  for data, expected in (
    (jpeg, []),
    (png, []),
    (b'\xef\xbb\xbf\r\n' + jpeg, ['5 byte(s) before the image']),
    (b'\n' + png, ['1 byte(s) before the image']),
    (png_file(IMAGE, bytes(wrong)), ["wrong checksum of chunk b'tEXt'"]),
    (png_file(IMAGE, png_chunk(b'iCCP', b'sRGB\0\0junk')), ['the color profile is damaged']),
    (png[:-12], ['the file is cut short']),
    (jpeg_with_exif(b'II*\0\x08\0\0\0\xff\xff'), ['Corrupt EXIF data. Expecting to read 12 bytes']),
    (
      png_file(IMAGE, png_chunk(b'eXIf', b'nonsense')),
      ['its EXIF block is damaged (not a TIFF file'],
    ),
    (encode(Image.fromarray(IMAGE).convert('F'), 'TIFF'), ['values above 255 become white']),
  ):
    with collect_warnings() as warnings:
      pixels = decode_image(data, apply_exif=True)
    assert pixels.shape == IMAGE.shape
    assert len(warnings) == len(expected), warnings
    for warning, start in zip(warnings, expected):
      assert warning.startswith(start)


def test_damage_after_the_first_frame_of_an_apng_is_a_warning():
  frames = [Image.fromarray(255 - IMAGE), Image.fromarray(IMAGE[::-1])]
  for frame in (1, 2):
    data = bytearray(encode(IMAGE, 'PNG', save_all=True, append_images=frames))
    chunk = [found.start() for found in re.finditer(b'fcTL', data)][frame]
    data[chunk + 28] ^= 1
    with collect_warnings() as warnings:
      np.testing.assert_array_equal(decode_image(bytes(data)), IMAGE)
    assert warnings == ["wrong checksum of chunk b'fcTL'"]


def test_nothing_is_printed_about_readable_images(capfd):
  for data in (
    png_file(IMAGE, png_chunk(b'iCCP', b'sRGB\0\0junk')),
    jpeg_with_exif(b'II*\0\x08\0\0\0\xff\xff'),
    FILES['baseline'][:-2] + bytes(9) + FILES['baseline'][-2:],
  ):
    with collect_warnings() as warnings:
      decode_image(data, apply_exif=True)
    assert warnings
  assert capfd.readouterr() == ('', '')


def test_formats_that_need_something_else(monkeypatch):
  heic = b'\0\0\0\x18ftypheic\0\0\0\0mif1heic' + bytes(99)
  monkeypatch.setitem(sys.modules, 'pillow_heif', None)
  with pytest.raises(ValueError) as e:
    decode_image(heic)
  assert str(e.value) == 'it is a HEIC image. To read it, run `pip install pillow-heif`'
  avif = encode(IMAGE, 'AVIF')
  assert_close(decode_image(avif), pillow_rgb(avif), 0)
  monkeypatch.setattr(AvifImagePlugin, 'SUPPORTED', False)
  with pytest.raises(ValueError) as e:
    decode_image(avif)
  assert str(e.value) == 'it is an AVIF image. To read it, run `pip install --upgrade pillow`'


# --- Forged sizes


def forged(kind, width, height):
  """Return a small file whose header claims another size."""
  if kind == 'jpeg':
    data = bytearray(encode(IMAGE[:8, :8], 'JPEG', quality=20))
    struct.pack_into('>HH', data, data.index(b'\xff\xc0') + 5, height, width)
  elif kind == 'progressive jpeg':
    data = bytearray(encode(IMAGE[:8, :8], 'JPEG', progressive=True))
    struct.pack_into('>HH', data, data.index(b'\xff\xc2') + 5, height, width)
  elif kind == 'png':
    data = bytearray(encode(IMAGE[:8, :8], 'PNG'))
    struct.pack_into('>II', data, 16, width, height)
    struct.pack_into('>I', data, 29, zlib.crc32(data[12:29]))
  elif kind == 'gif':
    data = bytearray(encode(IMAGE[:8, :8], 'GIF'))
    struct.pack_into('<HH', data, 6, width, height)
    struct.pack_into('<HH', data, data.index(b',\0\0\0\0') + 5, width, height)
  elif kind == 'bmp':
    data = bytearray(encode(IMAGE[:8, :8], 'BMP'))
    struct.pack_into('<II', data, 18, width, height)
  elif kind == 'ppm':
    data = bytearray(b'P6 %d %d 255\n' % (width, height) + bytes(200))
  elif kind == 'tiff':
    data = bytearray(encode(IMAGE[:8, :8], 'TIFF'))
    for tag, value in ((256, width), (257, height), (278, height)):
      entry = data.index(struct.pack('<HHI', tag, 4, 1))
      struct.pack_into('<HHII', data, entry, tag, 4, 1, value)
  else:
    assert kind == 'webp'
    data = bytearray(encode(IMAGE[:8, :8], 'WEBP', lossless=True))
    struct.pack_into('<I', data, 21, (width - 1) | (height - 1) << 14)
  return bytes(data)


@pytest.mark.parametrize(
  'kind', ['jpeg', 'progressive jpeg', 'png', 'gif', 'bmp', 'ppm', 'tiff', 'webp']
)
def test_forged_sizes_are_refused_before_memory_is_taken(kind, decoder):
  sizes = [(16383, 16383)] if kind == 'webp' else [(65500, 65500), (13000, 13000)]
  for width, height in sizes:
    data = forged(kind, width, height)
    for function in DECODERS.values():
      tracemalloc.start()
      with limited_memory(2**27), pytest.raises(ValueError, match='its header claims ') as e:
        function(data)
      most = tracemalloc.get_traced_memory()[1]
      tracemalloc.stop()
      assert most < 2**20
    if width < 20000 and kind != 'webp':
      assert str(e.value).endswith(
        f'its header claims 13,000 x 13,000 pixels, more than {len(data)} bytes can hold'
      )
    else:
      assert 'more' in str(e.value) and str(e.value).endswith(' than the limit of 178,956,970')


@contextlib.contextmanager
def limited_memory(more):
  """Let this process take at most `more` bytes of address space in the `with` block."""
  if not sys.platform.startswith('linux'):
    yield
    return
  limits = resource.getrlimit(resource.RLIMIT_AS)
  with open('/proc/self/statm') as f:
    taken = int(f.read().split()[0]) * resource.getpagesize()
  resource.setrlimit(resource.RLIMIT_AS, (taken + more, limits[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_AS, limits)


def test_the_emptiest_images_are_not_taken_for_forgeries():
  white = np.full((2000, 2000, 3), 255, np.uint8)
  for kind, options in (
    ('JPEG', {'optimize': True}),
    ('JPEG', {'progressive': True}),
    ('JPEG', {'progressive': True, 'subsampling': 2}),
    ('PNG', {'compress_level': 9}),
    ('GIF', {}),
    ('WEBP', {'lossless': True}),
    ('TIFF', {'compression': 'tiff_lzw'}),
  ):
    data = encode(white, kind, **options)
    assert decode_image(data).min() == 255
  for mode, kind in (('L', 'JPEG'), ('1', 'PNG'), ('1', 'BMP'), ('1', 'PPM'), ('1', 'TIFF')):
    data = encode(Image.fromarray(white).convert(mode), kind)
    assert decode_image(data).min() == 255


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
      # Pillow wants all bytes of the pixels of a PNG, but neither the end marker nor the checksum.
      if name.endswith('png') and length >= len(data) - 16:
        with collect_warnings() as warnings:
          pixels = function(data[:length])
        assert warnings == ['the file is cut short']
        np.testing.assert_array_equal(pixels, function(data))
        continue
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
    (b'<!DOCTYPE html><html></html>', "not an image file: it starts with b'<!DOCTYP'"),
    (bytes(range(256)) * 9, 'not an image file'),
    (b'GIF88a' + bytes(99), "starts with b'GIF88a"),
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
def test_no_flipped_bit_of_a_png_passes_unnoticed(name):
  data = FILES[name]
  refused = 0
  for position in {*range(60), *range(60, len(data), 97), *range(len(data) - 12, len(data))}:
    flipped = bytearray(data)
    flipped[position] ^= 1 << position % 8
    try:
      with collect_warnings() as warnings:
        pixels = decode_image(bytes(flipped))
    except ValueError:
      refused += 1
    else:
      assert warnings, f'flipped bit in byte {position} accepted'
      if name == 'png':
        np.testing.assert_array_equal(pixels, pillow_rgb(bytes(flipped)))
  assert refused > 40


def test_png_with_too_few_rows_is_read_with_a_warning():
  whole, short = (png_file(image) for image in (IMAGE, IMAGE[:40]))
  assert_close(decode_image(whole), IMAGE, 0)
  header = slice(8, 33)
  data = short[:8] + whole[header] + short[33:]
  with collect_warnings() as warnings:
    assert_close(decode_image(data), pillow_rgb(data), 0)  # the rest is black
  assert warnings == ['the file lacks rows of pixels']


def test_flipped_bits_of_a_jpeg_give_the_pixels_of_pillow_or_are_refused(decoder):
  results = collections.Counter()
  data = FILES['baseline']
  for position in range(2, len(data), 13):
    flipped = bytearray(data)
    flipped[position] ^= 1 << position % 8
    flipped = bytes(flipped)
    try:
      expected = pillow_rgb(flipped)
    except (OSError, SyntaxError):
      expected = None
    try:
      with collect_warnings() as warnings:
        crop = decode_crop(flipped, lambda h, w: (h // 2, w // 2, h - h // 2, w - w // 2))
    except ValueError:
      assert expected is None, position
      results['refused'] += 1
    else:
      height, width = expected.shape[:2]
      np.testing.assert_array_equal(crop, expected[height // 2 :, width // 2 :])
      results['with a warning' if warnings else 'without'] += 1
  # JPEG has no checksum, so most flipped bits only change pixels.
  assert results['refused'] > 5 and results['with a warning'] > 15 and results['without'] > 50


def test_extraneous_bytes_are_a_warning_where_they_are_read(decoder):
  data = FILES['baseline']
  damaged = data[:-2] + bytes(9) + data[-2:]
  for part in ('image', 'bottom'):
    with collect_warnings() as warnings:
      pixels = DECODERS[part](damaged)
    np.testing.assert_array_equal(pixels, DECODERS[part](data))
    (warning,) = warnings
    assert re.fullmatch(r'Corrupt JPEG data: \d extraneous bytes before marker 0xd9', warning)


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
    whole = pillow_rgb(data)
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
