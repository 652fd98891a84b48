"""Read images with several labels, and batch them."""

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.helpers.shapes import png, read_all, run_python, write_shapes
from vit_jax.data.batch import ReadOptions
from vit_jax.data.open_source import open_source
from vit_jax.data.pipeline import eval_batches, train_batches
from vit_jax.errors import InputError

NAMES = ['disc', 'ring', 'star', 'bar', 'dot']


def classes(i):
  """Return zero to three labels for image i."""
  return sorted({i % 5, (i + 3) % 5, (2 * i) % 5})[: i % 4]


def multi_hot(i):
  return np.isin(range(5), classes(i)).astype(np.int64)


def preprocess(data, rng):
  del rng
  return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


@pytest.fixture(scope='module')
def several(tmp_path_factory):
  """Return data_dirs with a Sequence of ClassLabel, an integer vector and a float vector."""
  root = tmp_path_factory.mktemp('several')
  write_shapes(
    root / 's',
    label=classes,
    first_label=[],
    label_feature=tfds.features.Sequence(tfds.features.ClassLabel(names=NAMES)),
  )
  for dtype in (np.int64, np.float32):
    write_shapes(
      root / np.dtype(dtype).name,
      label=lambda i, dtype=dtype: multi_hot(i).astype(dtype),
      first_label=np.zeros(5, dtype),
      label_feature=tfds.features.Tensor(shape=(5,), dtype=dtype),
    )
  return root


@pytest.mark.parametrize('kind', ['s', 'int64', 'float32'])
def test_labels_are_multi_hot(several, kind):
  opened = open_source('shapes', 'train', str(several / kind))
  assert opened.multi_label and opened.num_classes == 5
  assert opened.class_names == (NAMES if kind == 's' else None)
  labels = {r['image']: r['label'] for r in read_all(opened)}
  assert len(labels) == 41
  for i in range(41):
    assert labels[png(i)].dtype == np.uint8
    assert labels[png(i)].tolist() == multi_hot(i).tolist()


def test_batches_of_multi_hot_labels(several):
  opened = open_source('shapes', 'train', str(several / 's'))
  expected = {preprocess(png(i), None).tobytes(): multi_hot(i).tolist() for i in range(41)}
  with train_batches(opened, preprocess, ReadOptions(24), seed=0) as batches:
    batch = next(batches)
  assert batch['label'].shape == (24, 5) and batch['label'].dtype == np.uint8
  for image, label in zip(batch['image'], batch['label']):
    assert label.tolist() == expected[image.tobytes()]
  with eval_batches(opened, preprocess, ReadOptions(24)) as batches:
    first, last = batches
  assert last['mask'].sum() == 17 and not last['label'][17:].any()
  assert first['label'].sum() + last['label'].sum() == sum(len(classes(i)) for i in range(41))


def test_a_class_out_of_range(tmp_path):
  write_shapes(
    tmp_path,
    label=lambda i: [i % 3, -1],
    first_label=[],
    label_feature=tfds.features.Sequence(tfds.features.ClassLabel(names=NAMES)),
  )
  with pytest.raises(InputError, match=r'record \d+ has the label -1, which is not in \[0, 5\)\.'):
    read_all(open_source('shapes', 'train', str(tmp_path)))


def test_a_vector_that_is_not_multi_hot(tmp_path):
  write_shapes(
    tmp_path,
    label=lambda i: np.full(5, 0.2, np.float32),
    first_label=np.zeros(5, np.float32),
    label_feature=tfds.features.Tensor(shape=(5,), dtype=np.float32),
  )
  with pytest.raises(
    InputError, match=r'record \d+: The feature label is not a multi-hot vector: it has values'
  ):
    read_all(open_source('shapes', 'train', str(tmp_path)))


def test_worker_processes_read_several_labels(several):
  code = """
import sys
import numpy as np
from vit_jax.data.open_source import open_source
from vit_jax.data.batch import ReadOptions
from vit_jax.data.pipeline import eval_batches
from vit_jax.data.preprocess import make_eval_preprocess
if __name__ == '__main__':
  opened = open_source('shapes', 'train', sys.argv[1])
  preprocess = make_eval_preprocess('bit', 8)
  with eval_batches(opened, preprocess, ReadOptions(41, num_workers=1)) as batches:
    print(next(batches)['label'].sum(0).tolist())
"""
  result = run_python(code, several / 's')
  assert result.stdout.strip() == str(sum(multi_hot(i) for i in range(41)).tolist()), result.stderr
