"""Compare preprocessing with NumPy references, and boxes with their distributions."""

import concurrent.futures
import pickle
import re
import tracemalloc

import cv2
import numpy as np
from PIL import Image
import pytest

from tests.helpers.images import IMAGE, assert_close, encode, smooth_image
from tests.helpers.paths import FILES
from vit_jax.data.augment import make_augment
from vit_jax.data.decode import decode_crop, decode_image
from vit_jax.data.preprocess import (
  bit_sizes,
  inception_box,
  make_eval_preprocess,
  make_train_preprocess,
  resize,
)
from vit_jax.errors import InputError


def reference_resize(image, height, width):
  """Resize bilinearly with half-pixel centers in float64, without rounding."""
  image = image.astype(np.float64)
  for axis, size in ((0, height), (1, width)):
    old = image.shape[axis]
    at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
    low = np.floor(at).astype(int)
    weight = (at - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    high = np.minimum(low + 1, old - 1)
    image = image.take(low, axis) * (1 - weight) + image.take(high, axis) * weight
  return image


def reference_area(image, height, width):
  """Resize to the means of the areas that the new pixels cover, in float64, without rounding."""
  for axis, size in ((0, height), (1, width)):
    old = image.shape[axis]
    start, end = (np.arange(size)[:, None] + i for i in (0, 1))
    cells = np.arange(old)
    low, high = np.maximum(start * old / size, cells), np.minimum(end * old / size, cells + 1)
    weights = np.maximum(high - low, 0) * size / old  # (new, old)
    image = np.moveaxis(np.tensordot(weights, image.astype(np.float64), (1, axis)), 0, axis)
  return image


# --- resize


@pytest.mark.parametrize(
  'old, new',
  [
    ((63, 97), (224, 224)),
    ((375, 500), (224, 224)),
    ((97, 63), (31, 45)),
    ((8, 8), (37, 37)),
    ((1, 1), (3, 5)),
    ((50, 1), (7, 9)),
    ((448, 448), (224, 224)),
    ((32, 32), (32, 32)),
  ],
)
def test_resize_equals_float64_reference(old, new):
  image = np.random.default_rng(0).integers(0, 256, (*old, 3), dtype=np.uint8)
  assert_close(resize(image, *new), reference_resize(image, *new), 0.505)


@pytest.mark.parametrize(
  'old, new',
  [
    ((63, 97), (24, 31)),
    ((375, 500), (256, 341)),
    ((64, 64), (16, 16)),  # whole factors
    ((97, 63), (200, 145)),
    ((30, 80), (60, 40)),  # one side grows, one shrinks
    ((80, 30), (80, 47)),
    ((1, 1), (3, 5)),
    ((50, 1), (7, 9)),
  ],
)
def test_area_equals_float64_reference(old, new):
  image = np.random.default_rng(0).integers(0, 256, (*old, 3), dtype=np.uint8)
  assert_close(resize(image, *new, 'area'), reference_area(image, *new), 0.505)


@pytest.mark.parametrize('old', [(63, 97), (97, 63), (375, 500), (20, 31), (64, 64)])
@pytest.mark.parametrize('eval_filter', ['bicubic', 'bilinear_antialias'])
def test_antialiased_filters_equal_torchvision(old, eval_filter):
  """torchvision resizes the whole image with Pillow, rounds the long side down, and crops."""
  image = np.random.default_rng(0).integers(0, 256, (*old, 3), dtype=np.uint8)
  resample = getattr(Image.Resampling, eval_filter.removesuffix('_antialias').upper())
  height, width = (int(53 * side / min(old)) for side in old)
  for preset, size in (('inception', (height, width)), ('squash', (53, 53)), ('bit', (48, 48))):
    whole = np.array(Image.fromarray(image).resize(size[::-1], resample))
    y, x = (round((side - 48) / 2) for side in size)
    new = make_eval_preprocess(preset, 48, resize_size=53, eval_filter=eval_filter)(image)
    np.testing.assert_array_equal(new, whole[y : y + 48, x : x + 48], preset)


def test_antialiased_panoramas_are_not_resized_whole():
  image = smooth_image(60, 2400)
  whole = np.array(Image.fromarray(image).resize((53 * 40, 53), Image.Resampling.BICUBIC))
  new = make_eval_preprocess('inception', 48, resize_size=53, eval_filter='bicubic')(image)
  assert_close(new, whole[2:50, 1036:1084], 1)


@pytest.mark.parametrize('eval_filter', ['bilinear', 'area'])
@pytest.mark.parametrize('shape', [(1, 300_000), (300_000, 1), (2, 150_000)])
def test_panoramas_take_little_memory(shape, eval_filter):
  image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
  preprocess = make_eval_preprocess('inception', 224, eval_filter=eval_filter)
  tracemalloc.start()
  new = preprocess(image)
  most = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert new.shape == (224, 224, 3) and most < 10 * image.size


@pytest.mark.parametrize('shape', [(3, 300), (300, 3), (1, 77)])
def test_the_crop_of_a_panorama_equals_that_of_the_whole_image(shape):
  image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
  height, width = (round(side * (37 / min(shape))) for side in shape)
  whole = cv2.resize(image.astype(np.float32), (width, height))
  y, x = (height - 32) // 2, (width - 32) // 2
  new = make_eval_preprocess('inception', 32, resize_size=37, eval_filter='bilinear')(image)
  assert_close(new, whole[y : y + 32, x : x + 32], 0.505)


REFERENCE = np.load(FILES / 'preprocess.npz')  # by TensorFlow and the published evaluation code


@pytest.mark.parametrize(
  'preset, eval_filter, name',
  [
    ('inception', None, 'eval_area_small73_crop64'),
    ('inception', 'area', 'eval_area_small73_crop64'),
    ('inception', 'bilinear', 'eval_bilinear_small73_crop64'),
    ('squash', None, 'fewshot_resize73_crop64'),
  ],
)
def test_evaluation_has_the_published_pixels(preset, eval_filter, name):
  """The published code cuts off the fraction, which is rounded here."""
  preprocess = make_eval_preprocess(preset, 64, resize_size=73, eval_filter=eval_filter)
  difference = preprocess(REFERENCE['jpeg'].tobytes()).astype(int) - REFERENCE[name]
  assert difference.min() == 0 and difference.max() == 1
  assert 0.45 < difference.mean() < 0.55


def test_fast_dct_has_the_default_pixels_of_tensorflow():
  data = REFERENCE['jpeg'].tobytes()
  for fast_dct, name in ((True, 'default'), (False, 'accurate')):
    expected = REFERENCE[f'decoded_sample_{name}']
    image = decode_image(data, fast_dct=fast_dct)
    np.testing.assert_array_equal(image[::5, ::5], expected)
    np.testing.assert_array_equal(
      decode_crop(data, lambda *_: (20, 30, 60, 70), fast_dct=fast_dct), image[20:80, 30:100]
    )
    for preset in ('inception', 'bit'):
      preprocess = make_eval_preprocess(preset, 64, fast_dct=fast_dct)
      np.testing.assert_array_equal(preprocess(data), preprocess(image))
      train = make_train_preprocess(preset, 64, fast_dct=fast_dct)
      again = make_train_preprocess(preset, 64)
      new, old = (
        f(d, np.random.default_rng(0)) for f, d in ((train, data), (again, encode(image, 'PNG')))
      )
      np.testing.assert_array_equal(new, old)


# --- the inception box


def uniformity(samples):
  """Return sqrt(n) times the Kolmogorov-Smirnov statistic against U(0, 1): > 1.95 at p = .001."""
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
    heights = [
      h
      for h in range(1, 9)
      if round(h * ratio) <= 8
      and round(np.sqrt(0.05 * 64 / ratio)) <= h <= round(np.sqrt(64 / ratio))
    ]
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
    counts / n, probability, atol=4.5 * np.sqrt(0.25 / n), err_msg='box sizes'
  )
  assert (counts[probability == 0] <= 0.001 * n).all()


@pytest.mark.parametrize(
  'height, width',
  [(1, 1), (1, 2), (2, 3), (1, 500), (500, 1), (3, 7), (10, 5000), (8, 8), (96, 96)],
)
def test_inception_box_is_inside_any_image(height, width):
  rng = np.random.default_rng(0)
  for _ in range(300):
    y, x, h, w = inception_box(height, width, rng)
    assert 0 <= y <= height - h and 0 <= x <= width - w and h >= 1 and w >= 1
  if max(height, width) >= 400:  # no box in the aspect range covers 5 %, so it is the whole image
    assert (y, x, h, w) == (0, 0, height, width)


# --- presets


BYTES = {'jpeg': encode(smooth_image(125, 167), 'JPEG'), 'png': encode(smooth_image(61, 83), 'PNG')}


@pytest.mark.parametrize('data', BYTES.values(), ids=BYTES)
@pytest.mark.parametrize('flip', [True, False])
def test_inception_train_equals_reference(data, flip, decoder):
  preprocess = make_train_preprocess('inception', 64, flip=flip)
  for seed in range(10):
    rng = np.random.default_rng(seed)
    image = decode_image(data)
    y, x, h, w = inception_box(*image.shape[:2], rng)
    expected = reference_resize(image[y : y + h, x : x + w], 64, 64)
    if flip and rng.random() < 0.5:
      expected = expected[:, ::-1]
    assert_close(preprocess(data, np.random.default_rng(seed)), expected, 0.505)


@pytest.mark.parametrize(
  'height, width, size, resize_size, resized',
  [
    (125, 167, 56, None, (64, 86)),
    (167, 125, 56, None, (86, 64)),
    (20, 20, 224, None, (256, 256)),
    (63, 97, 48, 48, (48, 74)),
    (375, 500, 224, None, (256, 341)),
  ],
)
@pytest.mark.parametrize('eval_filter', ['bilinear', 'area', None])
def test_inception_eval_equals_reference(height, width, size, resize_size, resized, eval_filter):
  image = smooth_image(height, width)
  preprocess = make_eval_preprocess(
    'inception', size, resize_size=resize_size, eval_filter=eval_filter
  )
  reference = reference_resize if eval_filter == 'bilinear' else reference_area
  expected = reference(image, *resized)
  y, x = (resized[0] - size) // 2, (resized[1] - size) // 2
  assert_close(preprocess(encode(image, 'PNG'), None), expected[y : y + size, x : x + size], 0.505)


@pytest.mark.parametrize('shape', [(1, 5000), (5000, 1)])
@pytest.mark.parametrize('eval_filter', ['bilinear', 'area', 'bicubic', 'bilinear_antialias'])
def test_inception_eval_of_a_thread_of_pixels(shape, eval_filter):
  image = np.full((*shape, 3), (10, 20, 30), np.uint8)
  preprocess = make_eval_preprocess('inception', 224, eval_filter=eval_filter)
  np.testing.assert_array_equal(
    preprocess(encode(image, 'PNG'), None), np.full((224, 224, 3), (10, 20, 30))
  )


@pytest.mark.parametrize('data', BYTES.values(), ids=BYTES)
@pytest.mark.parametrize('size, resize_size, side', [(96, None, 112), (48, 60, 60), (50, 50, 50)])
def test_bit_train_equals_reference(data, size, resize_size, side):
  preprocess = make_train_preprocess('bit', size, resize_size=resize_size)
  resized = reference_resize(decode_image(data), side, side)
  for seed in range(6):
    rng = np.random.default_rng(seed)
    y, x = rng.integers(side - size + 1, size=2)
    expected = resized[y : y + size, x : x + size]
    if rng.random() < 0.5:
      expected = expected[:, ::-1]
    assert_close(preprocess(data, np.random.default_rng(seed)), expected, 0.505)


def test_bit_crops_reach_every_offset_and_flip_half():
  ramp = np.zeros((9, 9, 3), np.uint8)
  ramp[..., 0] = 10 * np.arange(9)[:, None]
  ramp[..., 1] = 10 * np.arange(9)
  preprocess = make_train_preprocess('bit', 6, resize_size=9)
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
  preprocess = make_eval_preprocess('bit', 90)
  assert_close(preprocess(data, None), reference_resize(decode_image(data), 90, 90), 0.505)


def test_bit_default_resize_keeps_448_over_384():
  for size, side in ((384, 448), (224, 261), (32, 37), (480, 560)):
    crop = make_train_preprocess('bit', size).keywords['crop']
    assert crop.keywords['resize_size'] == side


def test_bit_sizes_follow_the_area():
  assert bit_sizes(32, 32) == bit_sizes(95, 96) == bit_sizes(1, 96 * 96 - 1) == (160, 128)
  assert bit_sizes(96, 96) == bit_sizes(375, 500) == bit_sizes(1, 96 * 96) == (512, 480)


@pytest.mark.parametrize('preset', ['inception', 'bit'])
def test_apply_exif_reaches_every_preset(preset):
  exif = Image.Exif()
  exif[0x0112] = 6
  turned = encode(np.rot90(IMAGE), 'PNG', exif=exif)
  upright = encode(IMAGE, 'PNG')
  for make in (make_train_preprocess, make_eval_preprocess):
    plain, with_exif = make(preset, 32), make(preset, 32, apply_exif=True)
    expected = plain(upright, np.random.default_rng(3))
    np.testing.assert_array_equal(with_exif(turned, np.random.default_rng(3)), expected)
    assert (plain(turned, np.random.default_rng(3)) != expected).any()


@pytest.mark.parametrize('preset', ['inception', 'bit'])
def test_pure_function_of_bytes_and_key_from_threads_and_pickles(preset):
  preprocess = make_train_preprocess(preset, 40)
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


@pytest.mark.parametrize('preset', ['inception', 'bit'])
def test_augment_comes_last(preset):
  augment, data = make_augment(2, 15), BYTES['jpeg']
  plain = make_train_preprocess(preset, 40)
  augmented = pickle.loads(pickle.dumps(make_train_preprocess(preset, 40, augment=augment)))
  for seed in range(20):
    rng = np.random.default_rng(seed)
    expected = augment(plain(data, rng), rng)
    np.testing.assert_array_equal(augmented(data, np.random.default_rng(seed)), expected)


def test_flip_probability_is_half():
  image = np.zeros((32, 32, 3), np.uint8)
  image[:] = (np.arange(32) * 8)[:, None]  # brighter to the right
  preprocess = make_train_preprocess('inception', 8)
  data, rng = encode(image, 'PNG'), np.random.default_rng(0)
  flipped = [
    int(out[0, 0, 0]) > int(out[0, -1, 0]) for out in (preprocess(data, rng) for _ in range(3000))
  ]
  assert abs(np.mean(flipped) - 0.5) < 4 * np.sqrt(0.25 / 3000)


def test_opencv_stays_in_the_calling_thread():
  make_eval_preprocess('bit', 8)(BYTES['jpeg'], None)
  assert cv2.getNumThreads() in (0, 1)


@pytest.mark.parametrize(
  'make, arguments, message',
  [
    (make_train_preprocess, ('crop', 8), "Unknown preset 'crop'. Available: inception, bit."),
    (
      make_eval_preprocess,
      ('crop', 8),
      "Unknown preset 'crop'. Available: inception, bit, squash.",
    ),
    (make_train_preprocess, ('bit', 0), 'image_size must be at least 1, but it is 0.'),
    (make_eval_preprocess, ('bit', (8, 0)), 'image_size must be at least 1, but it is 0.'),
    (
      make_eval_preprocess,
      ('inception', (8, 16)),
      "The preset 'inception' crops squares, but the images of the model are 8x16 pixels. "
      "Use the preset 'bit'.",
    ),
  ],
)
def test_bad_arguments_are_input_errors(make, arguments, message):
  with pytest.raises(InputError, match=f'^{re.escape(message)}$'):
    make(*arguments)


@pytest.mark.parametrize(
  'make, preset', [(make_train_preprocess, 'bit'), (make_eval_preprocess, 'inception')]
)
def test_images_must_be_resized_to_more_than_the_crop(make, preset):
  message = r'^resize_size \(8\) is smaller than image_size \(9\)\. Images are resized before '
  with pytest.raises(InputError, match=message):
    make(preset, 9, resize_size=8)


def test_bit_eval_resizes_to_any_height_and_width():
  preprocess = make_eval_preprocess('bit', (40, 90))
  np.testing.assert_array_equal(preprocess(encode(IMAGE, 'PNG')), resize(IMAGE, 40, 90))


@pytest.mark.parametrize('preset', ['inception', 'bit'])
def test_evaluation_takes_decoded_images(preset):
  preprocess = make_eval_preprocess(preset, 40)
  np.testing.assert_array_equal(preprocess(IMAGE), preprocess(encode(IMAGE, 'PNG')))
