"""Decoding and preprocessing: values against Pillow, NumPy references and definitions."""

import concurrent.futures
import io
import pickle
import struct
import zlib

import cv2
import numpy as np
from PIL import Image
import pytest
import simplejpeg

from vit_jax.data import decode
from vit_jax.data.decode import decode_crop, decode_image
from vit_jax.data.preprocess import bit_sizes, inception_box, make_preprocess, resize
from vit_jax.errors import InputError


def smooth_image(height, width, seed=0):
  rng = np.random.default_rng(seed)
  coarse = rng.uniform(20, 235, (5, 6, 3)).astype(np.float32)
  image = cv2.resize(coarse, (width, height)) + rng.normal(0, 6, (height, width, 3))
  return image.clip(0, 255).astype(np.uint8)


IMAGE = smooth_image(63, 97)
ALPHA = np.random.default_rng(1).integers(0, 256, IMAGE.shape[:2], dtype=np.uint8)


def encode(image, kind, **options):
  out = io.BytesIO()
  (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, kind, **options)
  return out.getvalue()


def pillow_rgb(data):
  return np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))


def assert_close(got, expected, tolerance):
  assert got.dtype == np.uint8
  assert got.shape == expected.shape
  assert np.abs(got.astype(float) - expected).max() <= tolerance


def reference_resize(image, height, width):
  """Half-pixel bilinear in float64, not rounded."""
  image = image.astype(np.float64)
  for axis, size in ((0, height), (1, width)):
    old = image.shape[axis]
    at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
    low = np.floor(at).astype(int)
    weight = (at - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    high = np.minimum(low + 1, old - 1)
    image = image.take(low, axis) * (1 - weight) + image.take(high, axis) * weight
  return image


@pytest.fixture(params=['whole', 'partial'])
def decoder(request, monkeypatch):
  """Runs a test without and with the optional C extension."""
  if request.param == 'whole':
    monkeypatch.setattr(decode, '_jpegcrop', None)
  elif decode._jpegcrop is None:
    pytest.skip('the optional C extension is not built')


# --- resize


@pytest.mark.parametrize('old, new', [
    ((63, 97), (224, 224)), ((375, 500), (224, 224)), ((97, 63), (31, 45)), ((8, 8), (37, 37)),
    ((1, 1), (3, 5)), ((50, 1), (7, 9)), ((448, 448), (224, 224)), ((32, 32), (32, 32))])
def test_resize_equals_float64_reference(old, new):
  image = np.random.default_rng(0).integers(0, 256, (*old, 3), dtype=np.uint8)
  assert_close(resize(image, *new), reference_resize(image, *new), 0.505)


# --- the inception box


def uniformity(samples):
  """Kolmogorov-Smirnov statistic against U(0, 1), times sqrt(n): above 1.95 with p = .001."""
  samples = np.sort(samples)
  grid = np.arange(len(samples) + 1) / len(samples)
  distance = max((grid[1:] - samples).max(), (samples - grid[:-1]).max())
  return distance * np.sqrt(len(samples))


@pytest.mark.parametrize('height, width', [(6000, 8000), (8000, 6000), (6000, 6000)])
def test_inception_box_is_uniform_in_aspect_height_and_offset(height, width):
  rng = np.random.default_rng(0)
  y, x, h, w = np.array([inception_box(height, width, rng) for _ in range(8000)]).T
  ratio = w / h
  low = np.sqrt(0.05 * height * width / ratio)
  high = np.minimum(np.minimum(np.sqrt(height * width / ratio), height), width / ratio)
  assert uniformity((ratio - 3 / 4) / (4 / 3 - 3 / 4)) < 1.95
  assert uniformity((h - low) / (high - low)) < 1.95
  inside = (h < height) & (w < width)
  assert uniformity((y / (height - h))[inside]) < 1.95
  assert uniformity((x / (width - w))[inside]) < 1.95
  assert abs(np.corrcoef(ratio, (h - low) / (high - low))[0, 1]) < 0.04
  assert abs(np.corrcoef(y / (height - h + 1), x / (width - w + 1))[0, 1]) < 0.04


@pytest.mark.parametrize('area, aspect', [((0.05, 1), (3 / 4, 4 / 3)), ((0.3, 0.6), (1, 2))])
def test_inception_box_mean_area_equals_the_integral(area, aspect):
  # The mean of h^2 * ratio over h in [low, high], integrated over the ratio.
  height, width = 375, 500
  ratio = np.linspace(*aspect, 10_001)
  low = np.sqrt(area[0] * height * width / ratio)
  high = np.minimum(np.sqrt(area[1] * height * width / ratio), np.minimum(height, width / ratio))
  expected = np.mean(ratio * (high**3 - low**3) / (3 * (high - low))) / (height * width)
  rng = np.random.default_rng(0)
  boxes = np.array([inception_box(height, width, rng, area, aspect) for _ in range(20_000)])
  areas = boxes[:, 2] * boxes[:, 3] / (height * width)
  assert abs(areas.mean() - expected) < 4 * areas.std() / np.sqrt(len(areas)) + 0.001
  assert area[0] <= areas.min() and areas.max() <= area[1]
  if area == (0.05, 1):
    assert abs(areas.mean() - 0.343) < 0.006


def test_inception_box_of_a_small_image_has_its_exact_distribution():
  # All (ratio, h) of an 8 x 8 image, h uniform over the integers whose area is in range.
  probability = np.zeros((9, 9))
  ratios = np.linspace(3 / 4, 4 / 3, 20_001)
  for ratio in ratios:
    heights = [h for h in range(1, 9) if round(h * ratio) <= 8 and
               round(np.sqrt(0.05 * 64 / ratio)) <= h <= round(np.sqrt(64 / ratio))]
    for h in heights:
      w = round(h * ratio)
      if h * w < 0.05 * 64:  # repaired by one more row
        probability[h + 1, round((h + 1) * ratio)] += 1 / len(heights) / len(ratios)
      else:
        probability[h, w] += 1 / len(heights) / len(ratios)
  assert probability.sum() == pytest.approx(1)
  rng = np.random.default_rng(0)
  counts, n = np.zeros((9, 9)), 20_000
  for _ in range(n):
    _, _, h, w = inception_box(8, 8, rng)
    counts[h, w] += 1
  np.testing.assert_allclose(
      counts / n, probability, atol=4.5 * np.sqrt(0.25 / n), err_msg='box sizes')
  assert (counts[probability == 0] <= 0.001 * n).all()


@pytest.mark.parametrize('height, width', [
    (1, 1), (1, 2), (2, 3), (1, 500), (500, 1), (3, 7), (10, 5000), (8, 8), (96, 96)])
def test_inception_box_is_inside_any_image(height, width):
  rng = np.random.default_rng(0)
  for _ in range(300):
    y, x, h, w = inception_box(height, width, rng)
    assert 0 <= y <= height - h and 0 <= x <= width - w and h >= 1 and w >= 1
  if max(height, width) >= 400:  # no box of the wanted aspect covers 5 %: the whole image
    assert (y, x, h, w) == (0, 0, height, width)


# --- formats and colours


def test_png_variants_give_exact_rgb():
  grey = IMAGE[..., 0]
  grey_rgb = np.dstack([grey] * 3)
  assert_close(decode_image(encode(IMAGE, 'PNG')), IMAGE, 0)
  assert_close(decode_image(encode(grey, 'PNG')), grey_rgb, 0)
  assert_close(decode_image(encode(np.dstack([IMAGE, ALPHA]), 'PNG')), IMAGE, 0)
  assert_close(decode_image(encode(np.dstack([grey, ALPHA]), 'PNG')), grey_rgb, 0)
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
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: lambda a: np.rot90(a, 1)}


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
  np.testing.assert_array_equal(crop, turned[y:y + 9, x:x + 11])


def jpeg_with_exif(exif):
  data = encode(IMAGE, 'JPEG')
  return data[:2] + b'\xff\xe1' + struct.pack('>H', len(exif) + 8) + b'Exif\0\0' + exif + data[2:]


@pytest.mark.parametrize('order, magic', [('<', b'II*\0'), ('>', b'MM\0*')])
def test_exif_in_both_byte_orders(order, magic):
  entries = [(0x010f, 2, 4, 0), (0x0112, 3, 1, 6)]
  exif = magic + struct.pack(order + 'IH', 8, len(entries))
  exif += b''.join(struct.pack(order + 'HHIHxx', *entry) for entry in entries)
  data = jpeg_with_exif(exif)
  np.testing.assert_array_equal(
      decode_image(data, apply_exif=True), TURNS[6](decode_image(data)))


@pytest.mark.parametrize('exif', [
    b'', b'II*\0', b'II*\0\xff\xff\xff\xff', b'II*\0\x08\0\0\0\xff\xff', b'nonsense',
    b'MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0'])
def test_malformed_exif_leaves_the_image_as_stored(exif):
  data = jpeg_with_exif(exif)
  np.testing.assert_array_equal(decode_image(data, apply_exif=True), decode_image(data))


# --- damage


FILES = {
    'baseline': encode(IMAGE, 'JPEG', quality=90),
    'progressive': encode(IMAGE, 'JPEG', quality=90, progressive=True),
    'thumbnail': jpeg_with_exif(encode(IMAGE[:16, :16], 'JPEG')),  # an image end near the start
    'grey': encode(IMAGE[..., 0], 'JPEG'),
    'cmyk': encode(Image.fromarray(IMAGE).convert('CMYK'), 'JPEG'),
    'png': encode(IMAGE, 'PNG'),
    '16-bit png': cv2.imencode('.png', IMAGE.astype(np.uint16) * 257)[1].tobytes(),
    'webp': encode(IMAGE, 'WEBP'),
    'lossless webp': encode(IMAGE, 'WEBP', lossless=True)}
DECODERS = {
    'image': decode_image,
    'top': lambda data: decode_crop(data, lambda h, w: (0, 0, 5, 5)),
    'bottom': lambda data: decode_crop(data, lambda h, w: (h - 5, w - 5, 5, 5))}


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


@pytest.mark.parametrize('data, message', [
    (b'', 'empty'), (b'<!DOCTYPE html><html></html>', 'not a JPEG, PNG or WebP'),
    (bytes(range(256)) * 9, 'not a JPEG'), (encode(IMAGE, 'GIF'), "starts with b'GIF8"),
    (b'\xff\xd8', 'damaged JPEG'), (b'\xff\xd8' + bytes(999), 'damaged JPEG'),
    (b'\x89PNG\r\n\x1a\n', 'damaged PNG: the file is cut short'),
    (b'RIFF\x08\0\0\0WEBPVP8 ', 'damaged WebP')])
def test_what_is_no_image_is_named(data, message, decoder):
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
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(pixels))
            + chunk(b'IEND', b''))
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
  assert refused > 20  # JPEG has no checksum: most flipped bits just change pixels


def test_extraneous_bytes_are_refused_where_they_are_read(decoder):
  # Harmless here, but also the only sign that most flipped bits leave.
  data = FILES['baseline']
  damaged = data[:-2] + bytes(9) + data[-2:]
  for part in ('image', 'bottom'):
    with pytest.raises(ValueError, match='damaged JPEG.*extraneous bytes'):
      DECODERS[part](damaged)


# --- partial JPEG decoding


def jpeg_kinds(image):
  for sampling in ('444', '422', '420', '440', '411', 'Gray'):
    yield sampling, simplejpeg.encode_jpeg(image, 85, 'RGB', sampling)
  for sampling in (0, 1, 2):
    yield f'progressive {sampling}', encode(
        image, 'JPEG', progressive=True, subsampling=sampling)
  yield 'restarts', encode(image, 'JPEG', restart_marker_blocks=3)
  yield 'rgb', encode(image, 'JPEG', keep_rgb=True)
  yield 'cmyk', encode(Image.fromarray(image).convert('CMYK'), 'JPEG')


@pytest.mark.parametrize(
    'height, width', [(125, 167), (61, 83), (16, 16), (1, 1), (8, 200), (70, 9)])
def test_crop_equals_the_slice_of_the_whole_image(height, width, decoder):
  rng = np.random.default_rng(0)
  noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)  # no two pixels alike
  for kind, data in jpeg_kinds(noise):
    whole = simplejpeg.decode_jpeg(data, 'RGB')
    for _ in range(60):
      h, w = int(rng.integers(height)) + 1, int(rng.integers(width)) + 1
      if rng.random() < 0.3:
        h, w = min(h, 3), min(w, 3)  # the smallest boxes meet every place in a block
      y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
      crop = decode_crop(data, lambda *size: (y, x, h, w))
      np.testing.assert_array_equal(
          crop, whole[y:y + h, x:x + w], err_msg=f'{kind}, box {y, x, h, w}')


def test_the_extension_refuses_boxes_outside_the_image():
  if decode._jpegcrop is None:
    pytest.skip('the optional C extension is not built')
  for y, x, h, w in ((0, 0, 64, 1), (0, 97, 1, 1), (-1, 0, 2, 2), (0, -1, 2, 2), (0, 0, 0, 0)):
    with pytest.raises(ValueError, match='outside the image'):
      decode._jpegcrop.decode_box(FILES['baseline'], bytearray(h * w * 3), y, x, h, w)
  with pytest.raises(ValueError, match='wrong size'):
    decode._jpegcrop.decode_box(FILES['baseline'], bytearray(11), 0, 0, 2, 2)


# --- presets


BYTES = {'jpeg': encode(smooth_image(125, 167), 'JPEG'),
         'png': encode(smooth_image(61, 83), 'PNG')}


@pytest.mark.parametrize('data', BYTES.values(), ids=BYTES)
@pytest.mark.parametrize('flip', [True, False])
def test_inception_train_equals_reference(data, flip, decoder):
  preprocess = make_preprocess('inception', image_size=64, train=True, flip=flip)
  for seed in range(10):
    rng = np.random.default_rng(seed)
    image = decode_image(data)
    y, x, h, w = inception_box(*image.shape[:2], rng)
    expected = reference_resize(image[y:y + h, x:x + w], 64, 64)
    if flip and rng.random() < 0.5:
      expected = expected[:, ::-1]
    assert_close(preprocess(data, np.random.default_rng(seed)), expected, 0.505)


@pytest.mark.parametrize('height, width, size, resize_size, resized', [
    (125, 167, 56, None, (64, 86)), (167, 125, 56, None, (86, 64)), (20, 20, 224, None, (256, 256)),
    (63, 97, 48, 48, (48, 74)), (375, 500, 224, None, (256, 341))])
def test_inception_eval_equals_reference(height, width, size, resize_size, resized):
  image = smooth_image(height, width)
  preprocess = make_preprocess('inception', image_size=size, train=False, resize_size=resize_size)
  expected = reference_resize(image, *resized)
  y, x = (resized[0] - size) // 2, (resized[1] - size) // 2
  assert_close(
      preprocess(encode(image, 'PNG'), None), expected[y:y + size, x:x + size], 0.505)


@pytest.mark.parametrize('shape', [(1, 5000), (5000, 1)])
def test_inception_eval_of_a_thread_of_pixels(shape):
  image = np.full((*shape, 3), (10, 20, 30), np.uint8)
  preprocess = make_preprocess('inception', image_size=224, train=False)
  np.testing.assert_array_equal(
      preprocess(encode(image, 'PNG'), None), np.full((224, 224, 3), (10, 20, 30)))


@pytest.mark.parametrize('data', BYTES.values(), ids=BYTES)
@pytest.mark.parametrize('size, resize_size, side', [(96, None, 112), (48, 60, 60), (50, 50, 50)])
def test_bit_train_equals_reference(data, size, resize_size, side):
  preprocess = make_preprocess('bit', image_size=size, train=True, resize_size=resize_size)
  resized = reference_resize(decode_image(data), side, side)
  for seed in range(6):
    rng = np.random.default_rng(seed)
    y, x = rng.integers(side - size + 1, size=2)
    expected = resized[y:y + size, x:x + size]
    if rng.random() < 0.5:
      expected = expected[:, ::-1]
    assert_close(preprocess(data, np.random.default_rng(seed)), expected, 0.505)


def test_bit_crops_reach_every_offset_and_flip_half():
  ramp = np.zeros((9, 9, 3), np.uint8)
  ramp[..., 0] = 10 * np.arange(9)[:, None]
  ramp[..., 1] = 10 * np.arange(9)
  preprocess = make_preprocess('bit', image_size=6, train=True, resize_size=9)
  data, rng, n = encode(ramp, 'PNG'), np.random.default_rng(0), 4000
  counts, flips = np.zeros((4, 4)), 0
  for _ in range(n):
    image = preprocess(data, rng)
    counts[image[0, 0, 0] // 10, image[..., 1].min() // 10] += 1
    flips += int(image[0, 0, 1] > image[0, 5, 1])
  assert np.abs(counts / n - 1 / 16).max() < 4 * np.sqrt(1 / 16 / n)
  assert abs(flips / n - 0.5) < 4 * np.sqrt(0.25 / n)


@pytest.mark.parametrize('data', BYTES.values(), ids=BYTES)
def test_bit_eval_equals_reference(data):
  preprocess = make_preprocess('bit', image_size=90, train=False)
  assert_close(preprocess(data, None), reference_resize(decode_image(data), 90, 90), 0.505)


def test_bit_default_resize_keeps_448_over_384():
  for size, side in ((384, 448), (224, 261), (32, 37), (480, 560)):
    assert make_preprocess('bit', image_size=size, train=True).keywords['resize_size'] == side


def test_bit_sizes_follow_the_area():
  assert bit_sizes(32, 32) == bit_sizes(95, 96) == bit_sizes(1, 96 * 96 - 1) == (160, 128)
  assert bit_sizes(96, 96) == bit_sizes(375, 500) == bit_sizes(1, 96 * 96) == (512, 480)


@pytest.mark.parametrize('preset', ['inception', 'bit'])
def test_apply_exif_reaches_every_preset(preset):
  exif = Image.Exif()
  exif[0x0112] = 6
  turned = encode(np.rot90(IMAGE), 'PNG', exif=exif)
  upright = encode(IMAGE, 'PNG')
  for train in (True, False):
    plain = make_preprocess(preset, image_size=32, train=train)
    with_exif = make_preprocess(preset, image_size=32, train=train, apply_exif=True)
    expected = plain(upright, np.random.default_rng(3))
    np.testing.assert_array_equal(with_exif(turned, np.random.default_rng(3)), expected)
    assert (plain(turned, np.random.default_rng(3)) != expected).any()


@pytest.mark.parametrize('preset', ['inception', 'bit'])
def test_pure_function_of_bytes_and_key_from_threads_and_pickles(preset):
  preprocess = make_preprocess(preset, image_size=40, train=True)
  jobs = [(data, seed) for seed in range(40) for data in BYTES.values()]

  def run(function, job):
    return function(job[0], np.random.default_rng(job[1]))

  expected = [run(preprocess, job) for job in jobs]
  copy = pickle.loads(pickle.dumps(preprocess))
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    for job, image, again in zip(jobs, expected, pool.map(lambda job: run(copy, job), jobs)):
      assert image.shape == (40, 40, 3) and image.flags.c_contiguous
      np.testing.assert_array_equal(image, again, err_msg=f'seed {job[1]}')
  # 'bit' has 8 * 8 offsets and 2 flips to draw from, so some of the 80 coincide.
  assert len({image.tobytes() for image in expected}) > (79 if preset == 'inception' else 60)


def test_flip_probability_is_half():
  image = np.zeros((32, 32, 3), np.uint8)
  image[:] = (np.arange(32) * 8)[:, None]  # brighter to the right
  preprocess = make_preprocess('inception', image_size=8, train=True)
  data, rng = encode(image, 'PNG'), np.random.default_rng(0)
  flipped = [int(out[0, 0, 0]) > int(out[0, -1, 0]) for out in
             (preprocess(data, rng) for _ in range(3000))]
  assert abs(np.mean(flipped) - 0.5) < 4 * np.sqrt(0.25 / 3000)


def test_opencv_stays_in_the_calling_thread():
  make_preprocess('bit', image_size=8, train=False)(BYTES['jpeg'], None)
  assert cv2.getNumThreads() in (0, 1)


@pytest.mark.parametrize('arguments, message', [
    (dict(preset='crop', image_size=8),
     "unknown preprocessing 'crop': choose one of inception, bit"),
    (dict(preset='bit', image_size=0), 'image_size must be at least 1, got 0'),
    (dict(preset='bit', image_size=9, resize_size=8), r'resize_size \(8\) is smaller')])
def test_bad_arguments_are_input_errors(arguments, message):
  with pytest.raises(InputError, match=message):
    make_preprocess(**arguments, train=True)
