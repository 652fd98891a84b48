"""Predictions equal the model's own probabilities, for any kind of image and any batch size."""

import threading
from unittest import mock

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from tests.helpers.images import encode, smooth_image
from tests.helpers.paths import FILES
from vit_jax import create_model, load_params, predict
from vit_jax.data.preprocess import make_eval_preprocess, resize
from vit_jax.errors import InputError
from vit_jax.inference import predict as predict_module
from vit_jax.inference.predict import Prediction, PredictOptions, predict_each

DATA = FILES
IMAGES = [smooth_image(30 + 7 * i, 64 - 5 * i, seed=i) for i in range(7)]
CLASSES = [f'kind {chr(65 + i)}' for i in range(10)]


def mini(**overrides):
  return create_model(
    'ViT-Ti/8',
    **{
      'num_classes': 10,
      'image_size': 32,
      'hidden_dim': 32,
      'mlp_dim': 64,
      'num_heads': 2,
      'num_layers': 2,
    }
    | overrides,
  )


@pytest.fixture(scope='module')
def params():
  return load_params(DATA / 'vit_token.npz', mini())


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  directory = tmp_path_factory.mktemp('images')
  for i, image in enumerate(IMAGES):
    (directory / f'{i}.png').write_bytes(encode(image, 'PNG'))
  return sorted(directory.iterdir())


def reference(params, pixels, loss='softmax'):
  """Return the probabilities (N, 10) of images that have the model's size."""
  logits = mini().apply({'params': params}, np.stack(pixels) / np.float32(127.5) - 1)
  return np.asarray(jax.nn.softmax(logits) if loss == 'softmax' else 1 / (1 + jnp.exp(-logits)))


def check(results, probabilities, names=tuple(f'class {i}' for i in range(10)), top_k=5):
  assert len(results) == len(probabilities)
  for result, row in zip(results, probabilities):
    order = np.argsort(-row)[:top_k]
    assert [(p.label, p.name) for p in result] == [(i, names[i]) for i in order]
    np.testing.assert_allclose([p.probability for p in result], row[order], rtol=1e-5)


@pytest.mark.parametrize('preset', ['bit', 'inception'])
@pytest.mark.parametrize('loss', ['softmax', 'sigmoid'])
def test_probabilities(params, files, preset, loss):
  preprocess = make_eval_preprocess(preset, 32)
  want = reference(params, [preprocess(f.read_bytes(), None) for f in files], loss)
  for images in (
    files,
    [str(f) for f in files],
    [f.read_bytes() for f in files],
    IMAGES,
    [Image.fromarray(image) for image in IMAGES],
  ):
    check(predict(mini(), params, images, preset=preset, loss=loss, batch_size=4), want)
  assert (want.sum(axis=1) == pytest.approx(1)) == (loss == 'softmax')


@pytest.mark.parametrize('batch_size', [1, 3, 7, 8, 100])
def test_batches_make_no_difference(params, batch_size):
  want = reference(params, [resize(image, 32, 32) for image in IMAGES])
  results = predict(
    mini(), params, iter(IMAGES), batch_size=batch_size, class_names=CLASSES, top_k=3
  )
  check(results, want, CLASSES, top_k=3)


def test_one_image_and_an_array_of_many(params, files):
  want = reference(params, [resize(IMAGES[0], 32, 32)])
  for image in (
    files[0],
    str(files[0]),
    files[0].read_bytes(),
    IMAGES[0],
    jnp.asarray(IMAGES[0]),
    Image.fromarray(IMAGES[0]),
  ):
    check(predict(mini(), params, image), want)
  many = np.stack([resize(image, 40, 50) for image in IMAGES])
  assert predict(mini(), params, many) == predict(mini(), params, list(many))
  assert predict(mini(), params, []) == []


def test_all_classes_where_there_are_few(params):
  (result,) = predict(mini(), params, IMAGES[0], top_k=1000)
  assert sorted(p.label for p in result) == list(range(10))
  assert sum(p.probability for p in result) == pytest.approx(1)


def test_compiled_once(params, monkeypatch):
  traced = mock.Mock(wraps=predict_module.to_probabilities)
  monkeypatch.setattr(predict_module, 'to_probabilities', traced)
  for count in (7, 7, 6, 4, 3):  # 3 images are padded to 4
    predict(mini(), params, IMAGES[:count], batch_size=4, top_k=2)
  assert traced.call_count == 1


def test_photos_are_turned_as_their_exif_says(params):
  exif = Image.Exif()
  exif[0x0112] = 6  # the camera was held upright, so the photo must be turned clockwise
  turned = encode(np.rot90(IMAGES[6]), 'PNG', exif=exif)
  assert predict(mini(), params, [turned]) == predict(mini(), params, [IMAGES[6]])
  assert predict(mini(), params, [IMAGES[6]]) != predict(mini(), params, [np.rot90(IMAGES[6])])


def test_sizes_that_are_not_square(params):
  model = mini(image_size=(16, 64))  # 16 patches as well
  want = model.apply(
    {'params': params},
    np.stack([resize(image, 16, 64) for image in IMAGES]) / np.float32(127.5) - 1,
  )
  check(predict(model, params, IMAGES), np.asarray(jax.nn.softmax(want)))
  with pytest.raises(
    InputError,
    match="The preset 'inception' crops squares, but the images of the model are 16x64 pixels. "
    "Use the preset 'bit'.",
  ):
    predict(model, params, IMAGES, preset='inception')


def test_resize_size(params):
  preprocess = make_eval_preprocess('inception', 32, resize_size=64)
  want = reference(params, [preprocess(encode(image, 'PNG'), None) for image in IMAGES])
  check(predict(mini(), params, IMAGES, preset='inception', resize_size=64), want)


def test_a_stream_is_read_no_further_than_needed(params):
  taken = 0

  def endless():
    nonlocal taken
    while True:
      yield IMAGES[taken % 7]
      taken += 1

  each = predict_each(mini(), params, endless(), PredictOptions(batch_size=2))
  results = [next(each) for _ in range(20)]
  assert results == predict(mini(), params, [IMAGES[i % 7] for i in range(20)], batch_size=2)
  assert taken <= 20 + 5 * 2
  threads = threading.active_count()
  each.close()
  assert threading.active_count() < threads


def test_images_that_cannot_be_read(params, files, tmp_path):
  cut = tmp_path / 'cut.png'
  cut.write_bytes(files[0].read_bytes()[:-200])
  images = [files[0], cut, tmp_path / 'none.jpg', b'GIF89a...', np.zeros((4, 4)), files[1]]
  good, *bad, last = predict_each(mini(), params, images, PredictOptions(batch_size=2))
  assert [good, last] == predict(mini(), params, files[:2], batch_size=2)
  assert [str(e) for e in bad] == [
    f'Cannot read {cut}: damaged PNG: the file is cut short.',
    f'Cannot read {tmp_path}/none.jpg: No such file or directory.',
    'Cannot read image 3: damaged GIF: its header is broken.',
    'Cannot read image 4: an array must be (height, width, 3) uint8 RGB, '
    'but this one is (4, 4) float64.',
  ]
  assert all(isinstance(e, InputError) for e in bad)
  with pytest.raises(
    InputError, match='Cannot read .*cut.png: damaged PNG: the file is cut short.'
  ):
    predict(mini(), params, images)


@pytest.mark.parametrize(
  'options, words',
  [
    (dict(top_k=0), '^top_k must be at least 1, but it is 0.$'),
    (dict(batch_size=0), '^batch_size must be at least 1, but it is 0.$'),
    (dict(loss='hinge'), "^Unknown loss 'hinge'. Available: softmax, sigmoid.$"),
    (dict(preset='vgg'), "^Unknown preset 'vgg'. Available: inception, bit, squash.$"),
    (dict(class_names=CLASSES[:9]), '^There are 9 class names, but the model has 10 classes.$'),
  ],
)
def test_errors(params, options, words):
  with pytest.raises(InputError, match=words):
    predict(mini(), params, IMAGES, **options)


def test_a_model_without_a_head(params):
  with pytest.raises(InputError, match='^The model predicts no classes: it has no head'):
    predict(mini(num_classes=0), params, IMAGES)


def test_names_of_imagenet_are_the_default(params):
  model = mini(num_classes=1000)
  head = {'kernel': np.zeros((32, 1000), np.float32), 'bias': np.eye(1000, dtype='f')[281]}
  (result,) = predict(model, params | {'head': head}, IMAGES[0], top_k=1)
  np.testing.assert_allclose(result[0].probability, np.e / (np.e + 999), rtol=1e-5)
  assert result == [Prediction(281, 'tabby', result[0].probability)]


def test_a_model_of_another_package():
  class Mean(nn.Module):
    """Predicts the brightest color."""

    image_size: tuple[int, int] = (8, 8)
    num_classes: int = 3

    def __call__(self, images, *, train=False):
      return 100 * images.mean(axis=(1, 2))

  green = np.zeros((20, 30, 3), np.uint8) + np.uint8([10, 200, 10])
  ((best, *_),) = predict(Mean(), {}, green, class_names=['red', 'green', 'blue'])
  assert best.name == 'green' and best.probability > 0.99
