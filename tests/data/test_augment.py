"""RandAugment: compare operations with their definitions and Pillow, and check magnitudes."""

import concurrent.futures
import math
import pickle

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
import pytest

from tests.helpers.images import IMAGE, assert_close
from vit_jax.data import augment
from vit_jax.data.augment import FILL, OPERATIONS, make_augment, rand_augment
from vit_jax.errors import InputError

DARK = IMAGE // 3 + np.uint8([40, 60, 20])  # low contrast, channels of different ranges
NOISE = np.random.default_rng(1).integers(0, 256, (41, 30, 3), dtype=np.uint8)
FLAT = np.full((9, 12, 3), (7, 130, 255), np.uint8)
IMAGES = {
  'image': IMAGE,
  'dark': DARK,
  'noise': NOISE,
  'flat': FLAT,
  'pixel': NOISE[:1, :1],
  'row': NOISE[:1],
  'column': NOISE[:, :1],
  'two': NOISE[:2, :2],
}
FACTORS = (0.0, 0.1, 1.0, 1.9, 2.8, 5.5)
EXACT = 0
ROUNDED = 1  # Pillow truncates, but ours rounds


def pillow(image, function, *arguments):
  return np.asarray(function(Image.fromarray(image), *arguments))


def enhance(image, kind, factor):
  return np.asarray(kind(Image.fromarray(image)).enhance(factor))


@pytest.mark.parametrize('image', IMAGES.values(), ids=IMAGES)
def test_values_by_themselves_equal_pillow(image):
  check = lambda got, *function: assert_close(got, pillow(image, *function), EXACT)
  check(augment.autocontrast(image), ImageOps.autocontrast)
  check(augment.equalize(image), ImageOps.equalize)
  check(augment.invert(image), ImageOps.invert)
  for bits in range(1, 9):
    check(augment.posterize(image, bits), ImageOps.posterize, bits)
  for threshold in (0, 1, 100, 128, 255, 256, 512):
    check(augment.solarize(image, threshold), ImageOps.solarize, threshold)


@pytest.mark.parametrize('image', IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize('factor', FACTORS)
def test_enhancements_equal_pillow_to_a_level(image, factor):
  for function, kind in (
    (augment.brightness, ImageEnhance.Brightness),
    (augment.contrast, ImageEnhance.Contrast),
  ):
    assert_close(function(image, factor), enhance(image, kind, factor), ROUNDED)
  # If the gray or smooth value is rounded differently by 1, the result differs by |1 - factor|.
  for function, kind in (
    (augment.color, ImageEnhance.Color),
    (augment.sharpness, ImageEnhance.Sharpness),
  ):
    got, expected = function(image, factor), enhance(image, kind, factor)
    assert_close(got, expected, ROUNDED + math.ceil(abs(1 - factor)))
    assert (np.abs(got.astype(int) - expected) > ROUNDED).mean() < 0.001


def test_a_factor_of_one_is_the_image():
  for function in (augment.color, augment.contrast, augment.brightness, augment.sharpness):
    np.testing.assert_array_equal(function(NOISE, 1.0), NOISE)


def test_solarize_add_adds_to_the_dark_half():
  values = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)[None]
  expected = [min(v + 110, 255) if v < 128 else v for v in range(256)]
  for channel in range(3):
    np.testing.assert_array_equal(augment.solarize_add(values, 110)[0, :, channel], expected)
  assert set(augment.solarize_add(values, 330)[0, :128, 0]) == {255}


def moved(image, source):
  """Move pixels in float64: each (y, x) gets the pixel nearest to source(y, x), or FILL outside.

  The second result is False where the place lies within .01 of the middle between two pixels.
  """
  h, w = image.shape[:2]
  y, x = source(*np.mgrid[:h, :w].astype(float))
  clear = np.ones((h, w), bool)
  for place in (y, x):
    clear &= np.abs(place - np.floor(place) - 0.5) > 0.01
  y, x = np.rint(y).astype(int), np.rint(x).astype(int)
  inside = (y >= 0) & (y < h) & (x >= 0) & (x < w)
  out = image[y.clip(0, h - 1), x.clip(0, w - 1)]
  out[~inside] = FILL
  return out, clear


@pytest.mark.parametrize('image', IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize('amount', [-1.31, -0.47, 0.0, 0.33, 2.0])
def test_movements_equal_their_definition(image, amount):
  def check(got, source):
    expected, clear = moved(image, source)
    assert clear.mean() > 0.8 or clear.size < 50
    np.testing.assert_array_equal(got[clear], expected[clear])

  def turned(y, x):
    cy, cx = (image.shape[0] - 1) / 2, (image.shape[1] - 1) / 2
    cos, sin = math.cos(amount), math.sin(amount)
    return cy + sin * (x - cx) + cos * (y - cy), cx + cos * (x - cx) - sin * (y - cy)

  check(augment.rotate(image, math.degrees(amount)), turned)
  check(augment.shear_x(image, amount), lambda y, x: (y, x + amount * y))
  check(augment.shear_y(image, amount), lambda y, x: (y + amount * x, x))
  check(augment.translate(image, 10 * amount, 0), lambda y, x: (y, x + 10 * amount))
  check(augment.translate(image, 0, 10 * amount), lambda y, x: (y + 10 * amount, x))


def test_rotation_is_counter_clockwise():
  image = NOISE[:30, :30]
  np.testing.assert_array_equal(augment.rotate(image, 90), np.rot90(image))


def test_cutout_fills_one_square_around_any_pixel():
  image, rng = np.zeros((7, 10, 3), np.uint8), np.random.default_rng(0)
  counts, n = np.zeros((7, 10)), 7000
  for _ in range(n):
    out = augment.cutout(image, 2, rng)
    filled = np.argwhere(out[..., 0] == FILL)
    (top, left), (bottom, right) = filled.min(0), filled.max(0)
    assert (out[top : bottom + 1, left : right + 1] == FILL).all()
    assert len(filled) == (bottom - top + 1) * (right - left + 1)
    y, x = max(bottom - 1, 0) if bottom < 6 else top + 2, right - 1 if right < 9 else left + 2
    counts[y, x] += 1
  assert not image.any()
  np.testing.assert_allclose(counts / n, 1 / 70, atol=4.5 * np.sqrt(1 / 70 / n))


# --- Magnitudes


GRAY = np.full((224, 224, 3), 100, np.uint8)
RAMP = np.repeat(np.arange(224, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(224, axis=0)


@pytest.mark.parametrize(
  'magnitude, expected',
  [
    (
      0,
      dict(
        Posterize=1, Solarize=0, SolarizeAdd=0, factor=0.1, degrees=0, slope=0, pixels=0, half=0
      ),
    ),
    (
      10,
      dict(
        Posterize=4,
        Solarize=256,
        SolarizeAdd=110,
        factor=1.9,
        degrees=30,
        slope=0.3,
        pixels=100,
        half=40,
      ),
    ),
    (
      15,
      dict(
        Posterize=6,
        Solarize=384,
        SolarizeAdd=165,
        factor=2.8,
        degrees=45,
        slope=0.45,
        pixels=150,
        half=60,
      ),
    ),
    (
      20,
      dict(
        Posterize=8,
        Solarize=512,
        SolarizeAdd=220,
        factor=3.7,
        degrees=60,
        slope=0.6,
        pixels=200,
        half=80,
      ),
    ),
    (
      30,
      dict(
        Posterize=8,
        Solarize=768,
        SolarizeAdd=330,
        factor=5.5,
        degrees=90,
        slope=0.9,
        pixels=300,
        half=120,
      ),
    ),
  ],
)
def test_what_a_magnitude_means(magnitude, expected):
  apply = lambda name, image=RAMP, seed=0: OPERATIONS[name](
    image, magnitude / 10, np.random.default_rng(seed)
  )
  same = np.testing.assert_array_equal
  same(apply('Posterize'), augment.posterize(RAMP, expected['Posterize']))
  same(apply('Solarize'), augment.solarize(RAMP, expected['Solarize']))
  same(apply('SolarizeAdd'), augment.solarize_add(RAMP, expected['SolarizeAdd']))
  for name, function in (
    ('Color', augment.color),
    ('Contrast', augment.contrast),
    ('Brightness', augment.brightness),
    ('Sharpness', augment.sharpness),
  ):
    assert_close(apply(name), function(RAMP, expected['factor']).astype(float), 1)
  pixels = expected['pixels']
  ways = {
    'Rotate': lambda sign: augment.rotate(RAMP, sign * expected['degrees']),
    'ShearX': lambda sign: augment.shear_x(RAMP, sign * expected['slope']),
    'ShearY': lambda sign: augment.shear_y(RAMP, sign * expected['slope']),
    'TranslateX': lambda sign: augment.translate(RAMP, sign * pixels, 0),
    'TranslateY': lambda sign: augment.translate(RAMP, 0, sign * pixels),
  }
  for name, function in ways.items():
    got = {apply(name, seed=seed).tobytes() for seed in range(20)}
    assert got == {function(1).tobytes(), function(-1).tobytes()}, name
  areas = [(apply('Cutout', GRAY, seed)[..., 0] == FILL).sum() for seed in range(40)]
  assert max(areas) <= (2 * expected['half']) ** 2
  assert max(areas) >= 0.8 * min(2 * expected['half'], 224) ** 2


def test_pixels_are_in_proportion_to_the_image():
  rng = np.random.default_rng
  small = RAMP[:112, :112]
  for seed in range(6):
    got = OPERATIONS['TranslateX'](small, 1.5, rng(seed))
    assert any((got == augment.translate(small, way * 75, 0)).all() for way in (1, -1))
  areas = [
    (OPERATIONS['Cutout'](GRAY[:112, :112], 1.5, rng(seed)) == FILL)[..., 0].sum()
    for seed in range(40)
  ]
  assert max(areas) == 60 * 60


# --- Drawing operations


def test_operations_are_drawn_alike_and_may_repeat(monkeypatch):
  drawn = []
  for name in OPERATIONS:
    monkeypatch.setitem(
      OPERATIONS, name, lambda image, m, rng, name=name: drawn.append(name) or image
    )
  rng, n = np.random.default_rng(0), 16_000
  for _ in range(n):
    assert rand_augment(NOISE, rng) is NOISE
  first, second = drawn[::2], drawn[1::2]
  for names in (first, second):
    counts = np.array([names.count(name) for name in OPERATIONS])
    assert np.abs(counts / n - 1 / 16).max() < 4 * np.sqrt(1 / 16 / n)
  repeated = np.mean([a == b for a, b in zip(first, second)])
  assert abs(repeated - 1 / 16) < 4 * np.sqrt(1 / 16 / n)


def test_sixteen_operations():
  assert set(OPERATIONS) == {
    'AutoContrast',
    'Equalize',
    'Invert',
    'Rotate',
    'Posterize',
    'Solarize',
    'SolarizeAdd',
    'Color',
    'Contrast',
    'Brightness',
    'Sharpness',
    'ShearX',
    'ShearY',
    'TranslateX',
    'TranslateY',
    'Cutout',
  }


@pytest.mark.parametrize('image', IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize('magnitude', [0, 7.5, 15, 30])
def test_any_image_stays_as_it_is_and_gives_a_new_one(image, magnitude):
  before = image.copy()
  for name in OPERATIONS:
    out = rand_augment(image, np.random.default_rng(0), 1, magnitude, [name])
    assert out.shape == image.shape and out.dtype == np.uint8 and out.flags.c_contiguous
    np.testing.assert_array_equal(image, before)


def test_a_function_of_the_image_and_the_generator_from_threads_and_pickles():
  function = make_augment(2, 15)
  expected = [rand_augment(IMAGE, np.random.default_rng(seed)) for seed in range(60)]
  copy = pickle.loads(pickle.dumps(function))
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    again = pool.map(lambda seed: copy(IMAGE, np.random.default_rng(seed)), range(60))
    for image, other in zip(expected, again):
      np.testing.assert_array_equal(image, other)
  assert len({image.tobytes() for image in expected}) > 45


def test_nothing_to_do():
  assert make_augment(0, 15) is None
  assert rand_augment(IMAGE, np.random.default_rng(0), 0) is IMAGE


@pytest.mark.parametrize(
  'arguments, words',
  [
    ((-1, 15), 'The number of RandAugment operations must be at least 0, but it is -1.'),
    ((2, -0.1), 'The magnitude of RandAugment must be from 0 to 30, but it is -0.1.'),
    ((2, 31), 'The magnitude of RandAugment must be from 0 to 30, but it is 31.'),
    ((2, float('nan')), 'must be from 0 to 30, but it is nan.'),
    ((2, 15, ('Rotate', 'rotate')), "Unknown RandAugment operation 'rotate'. .*Available: AutoCon"),
    ((2, 15, ()), 'no operations to draw from. Available: AutoContrast, .*, Cutout.$'),
  ],
)
def test_bad_arguments_are_input_errors(arguments, words):
  with pytest.raises(InputError, match=words):
    make_augment(*arguments)
  with pytest.raises(InputError, match=words):
    rand_augment(IMAGE, np.random.default_rng(0), *arguments)
