"""Few-shot evaluation equals a reference that follows the protocol image by image."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from tests.helpers.fewshot import as_pixels, evaluate_digits, open_fewshot, write_photos
from tests.helpers.images import smooth_image
from tests.helpers.jobs import free_port
from tests.helpers.shapes import write_shapes
from vit_jax import create_model
from vit_jax.data.open_source import open_source
from vit_jax.data.preprocess import make_eval_preprocess
from vit_jax.errors import InputError
from vit_jax.evaluation.fewshot import FewShotProtocol, make_represent_step
from vit_jax.evaluation.shots import pick
from vit_jax.parallel.mesh import MeshPartitioner
from vit_jax.parallel.pmap import PmapPartitioner

TINY = dict(hidden_dim=32, mlp_dim=64, num_heads=2, num_layers=1)


def read_digits(digits_dir, split):
  """Return the encoded images and their labels."""
  source = open_source('digits', split, digits_dir)
  examples = [source[i] for i in range(len(source))]
  labels = np.array([example['label'] for example in examples])
  return [example['image'] for example in examples], labels


def as_floats(images):
  return images.reshape(len(images), -1).astype(float)


def reference(represent, digits_dir, shots, seeds, image_size, resize_size=None, without=()):
  """Return accuracies (seeds, shots), computed image by image as the protocol says."""
  preprocess = make_eval_preprocess('squash', image_size, resize_size=resize_size)
  (train, labels), (test, test_labels) = (read_digits(digits_dir, s) for s in ('train', 'test'))
  train, test = (
    represent(np.stack([preprocess(image, None) for image in images])) for images in (train, test)
  )
  accuracies = np.zeros((seeds, len(shots)))
  for seed in range(seeds):
    for i, k in enumerate(shots):
      rows = np.setdiff1d(pick(labels, 10, k, seed), without)
      mean, std = train[rows].mean(0), train[rows].std(0) + 1e-5
      x, y = (np.c_[(f - mean) / std, np.full(len(f), 100)] for f in (train[rows], test))
      model = Ridge(alpha=1024, fit_intercept=False).fit(x, 2 * np.eye(10)[labels[rows]] - 1)
      accuracies[seed, i] = np.mean(model.predict(y).argmax(1) == test_labels)
  return accuracies


def test_pixels_of_digits(digits_dir):
  """The accuracies equal the reference, grow with the shots, and are as good as pixels allow."""
  accuracies = evaluate_digits(digits_dir)
  assert accuracies.shape == (3, 4)
  np.testing.assert_array_equal(
    accuracies, reference(as_floats, digits_dir, (1, 5, 10, 25), 3, 8, 8)
  )
  assert len(set(accuracies[:, 0])) > 1
  mean = accuracies.mean(0)
  assert (np.diff(mean) > 0).all()
  assert mean[0] > 0.5 and mean[3] > 0.9


def test_neither_batches_nor_their_order_matter(digits_dir):
  expected = evaluate_digits(digits_dir, batch_size=360)

  def shuffled(params, batch):
    order = np.random.default_rng(0).permutation(64)
    represented = as_pixels(params, batch)
    represented['features'][~represented['mask']] = np.nan  # must not count
    return {name: value[order] for name, value in represented.items()}

  np.testing.assert_array_equal(evaluate_digits(digits_dir, shuffled, batch_size=64), expected)


def test_every_test_image_counts_once(digits_dir):
  """A perfect classifier is right for exactly the 360 test images."""

  def knowing(params, batch):
    features = np.eye(10, dtype=np.float32)[batch['label']]
    return {k: v for k, v in batch.items() if k != 'image'} | {'features': features}

  evaluation = open_fewshot(
    'digits', knowing, batch_size=101, shots=(1, 2), seeds=2, data_dir=digits_dir
  )
  correct, examples = evaluation.count_correct(None)
  assert examples == 360 and (correct == 360).all()
  assert evaluation(None) == {'fewshot/digits_1shot': 1.0, 'fewshot/digits_2shot': 1.0}


def test_metrics_and_stopping(digits_dir):
  evaluation = open_fewshot('digits', as_pixels, batch_size=100, shots=(5,), data_dir=digits_dir)
  accuracies = evaluation.count_correct(None)[0][:, 0] / 360
  asked = []
  metrics = evaluation(None, lambda: bool(asked.append(0)))
  assert metrics == {evaluation.metric(5): pytest.approx(accuracies.mean(), abs=1e-12)}
  assert len(asked) == evaluation.num_batches == 2 + 4  # some 140 shots, 360 test images
  for stop_after in (1, 3, 6):
    asked.clear()
    stop = lambda last=stop_after: bool(asked.append(0)) or len(asked) == last
    assert evaluation(None, stop) is None
    assert len(asked) == stop_after


@pytest.mark.parametrize(
  'name, overrides',
  [
    ('ViT-Ti/8', dict(TINY, representation_size=24)),
    ('ViT-Ti/8', dict(TINY, head='map')),
    pytest.param('BiT-R50x1', {}, marks=pytest.mark.slow),
  ],
)
def test_the_representation_is_what_the_head_is_applied_to(name, overrides):
  model = create_model(name, num_classes=7, image_size=32, **overrides)
  images = np.stack([smooth_image(32, 32, seed=i) for i in range(2)])
  params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 32, 32, 3)))['params']
  key = jax.random.key(1)
  head = params['resnet']['head']['conv2d'] if 'resnet' in params else params['head']
  head['kernel'] = jax.random.normal(key, head['kernel'].shape) * 0.02
  head['bias'] = jax.random.normal(key, head['bias'].shape)
  batch = {'image': images, 'label': np.array([3, 4]), 'mask': np.array([True, False])}
  represented = jax.jit(make_represent_step(model))(params, batch)
  assert set(represented) == {'features', 'label', 'mask'}
  assert represented['features'].dtype == np.float32
  kernel = np.asarray(head['kernel']).reshape(-1, 7)
  np.testing.assert_allclose(
    represented['features'] @ kernel + head['bias'],
    jax.jit(model.apply)({'params': params}, images / np.float32(127.5) - 1),
    atol=1e-4,
  )


@pytest.mark.parametrize('make', [PmapPartitioner, MeshPartitioner])
def test_a_vit_on_digits(digits_dir, make):
  """An untrained ViT is far better than chance, and agrees with the reference."""
  model = create_model('ViT-Ti/4', num_classes=3, image_size=16, **TINY)
  params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 16, 16, 3)))['params']
  partitioner = make(104)
  accuracies = evaluate_digits(
    digits_dir,
    partitioner.gather_step(make_represent_step(model)),
    partitioner.put(params),
    image_size=16,
    resize_size=None,
    batch_size=104,
    shots=(1, 25),
    seeds=2,
  )

  def represent(images):
    bare = model.clone(num_classes=0)
    return np.asarray(
      jax.jit(bare.apply)({'params': params}, images / np.float32(127.5) - 1), np.float64
    )

  np.testing.assert_allclose(
    accuracies, reference(represent, digits_dir, (1, 25), 2, 16), atol=2 / 360
  )
  assert accuracies[:, 1].min() > 0.4


def test_only_the_shots_are_decoded(tmp_path):
  """A damaged shot is an error, or is left out if max_bad_records allows it."""
  folder = write_photos(tmp_path, {'cat': 9, 'dog': 8})
  evaluation = lambda **options: open_fewshot(
    folder, as_pixels, batch_size=4, shots=(1, 2), seeds=2, **options
  )
  picks = [pick(np.repeat([0, 1], [9, 8]), 2, 2, seed) for seed in (0, 1)]
  paths = sorted(tmp_path.glob('train/*/*'))
  expected = evaluation().count_correct(None)
  assert expected[1] == 2
  for i, path in enumerate(paths):
    if i not in np.ravel(picks):
      path.write_bytes(b'no image')
  counts = evaluation().count_correct(None)
  assert counts[0].tolist() == expected[0].tolist()

  damaged = paths[picks[0][1, 1]]
  damaged.write_bytes(b'no image')
  with pytest.raises(InputError, match=f'^Record {damaged} is damaged: '):
    evaluation()(None)
  (tmp_path / 'val' / 'dog' / '0.png').write_bytes(b'no image')
  correct, examples = evaluation(max_bad_records=1).count_correct(None)
  assert examples == 1 and correct.shape == (2, 2)


def test_a_damaged_shot_is_left_out(digits_dir):
  """The other shots keep their labels."""
  labels = read_digits(digits_dir, 'train')[1]
  shots = np.unique(pick(labels, 10, 5, seed=0))  # in the order in which they are read

  def without(*damaged):
    def represent(params, batch):
      represented = as_pixels(params, batch)
      if (labels[shots] == represented['label'][:50]).all():
        represented['mask'][list(damaged)] = False
      return represented

    return evaluate_digits(digits_dir, represent, batch_size=120, shots=(5,), seeds=1)

  for damaged in (7, 20), (0, 49):
    accuracies = without(*damaged)
    np.testing.assert_array_equal(
      accuracies, reference(as_floats, digits_dir, (5,), 1, 8, 8, without=shots[list(damaged)])
    )
    assert accuracies != without()


def test_impossible_requests(tmp_path, digits_dir):
  folder = write_photos(tmp_path / 'photos', {'ant': 4, 'bee': 3})
  with pytest.raises(InputError) as e:
    open_fewshot(folder, as_pixels, batch_size=4, shots=(1, 4))
  assert str(e.value) == (
    f"Cannot draw shots from {folder}, split 'train'. Class 1 (bee) has 3 images, but 4 shots were "
    'requested. Use fewer shots or a larger split.'
  )
  with pytest.raises(InputError, match=r"'train\[:1\]'. Class 0 \(ant\) has 0 images, but 1 shots"):
    open_fewshot(folder, as_pixels, batch_size=4, shots=(1,), train_split='train[:1]')
  other = write_photos(tmp_path / 'other', {'ant': 2}, val=False)
  words = f'^Dataset {other} has no test images: none of its splits is called validation, val or t'
  with pytest.raises(InputError, match=words):
    open_fewshot(other, as_pixels, batch_size=4)
  with pytest.raises(InputError, match='^shots must be at least 1, but it is 0.$'):
    FewShotProtocol(8, shots=(5, 0))
  with pytest.raises(InputError, match='^seeds must be at least 1, but it is 0.$'):
    FewShotProtocol(8, seeds=0)


def test_features_that_are_not_finite(digits_dir):
  def broken(params, batch):
    represented = as_pixels(params, batch)
    represented['features'][3, 5] = np.inf
    return represented

  words = '^The features of an image of digits are not finite. The training may have diverged.$'
  with pytest.raises(InputError, match=words):
    evaluate_digits(digits_dir, broken)


def test_several_labels(tmp_path):
  import tensorflow_datasets as tfds

  write_shapes(
    tmp_path,
    label_key='labels',
    label=lambda i: [i % 3],
    label_feature=tfds.features.Sequence(tfds.features.ClassLabel(num_classes=3)),
    first_label=[0],
  )
  with pytest.raises(InputError, match='^Images of dataset shapes have several labels, but few-'):
    open_fewshot('shapes', as_pixels, batch_size=4, data_dir=str(tmp_path))


PROGRAM = """
import sys
import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from vit_jax.data.batch import ReadOptions
from vit_jax.evaluation.fewshot import FewShot, FewShotProtocol
port, index, data_dir = sys.argv[1:]
jax.distributed.initialize(f'localhost:{port}', 2, int(index))
def represent(params, batch):
  images = batch.pop('image')
  assert len(images) == 50
  batch['features'] = images.reshape(50, -1).astype(np.float32)
  return {name: process_allgather(value, tiled=True) for name, value in batch.items()}
evaluation = FewShot('digits', represent, FewShotProtocol(8, resize_size=8, seeds=2),
                     ReadOptions(100, int(index), 2), data_dir=data_dir)
correct, examples = evaluation.count_correct(None)
print(correct.tolist(), examples)
"""


@pytest.mark.slow
def test_two_processes_find_what_one_does(digits_dir):
  port = free_port()
  job = [
    subprocess.Popen(
      [sys.executable, '-c', PROGRAM, str(port), str(i), digits_dir],
      stdout=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  printed = [process.communicate(timeout=120)[0].splitlines()[-1] for process in job]
  expected = np.rint(360 * evaluate_digits(digits_dir, seeds=2)).astype(int)
  assert printed == [f'{expected.tolist()} 360'] * 2
