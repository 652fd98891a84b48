"""Prepare MNIST and Fashion-MNIST from their four files, and refuse damaged files."""

import gzip
import struct

import cv2
import numpy as np
import pytest

from vit_jax.data import idx
from vit_jax.data.open_source import describe_dataset, open_source
from vit_jax.errors import InputError
from vit_jax.tools import prepare


def write_idx(path, array):
  header = struct.pack(f'>HBB{array.ndim}I', 0, 8, array.ndim, *array.shape)
  path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def files(tmp_path):
  """Write the four files of a dataset of 7 and 3 images. Return images and labels by split."""
  rng, made = np.random.default_rng(0), {}
  (tmp_path / 'files').mkdir()
  for (split, names), size in zip(idx.FILES.items(), (7, 3)):
    made[split] = (
      rng.integers(0, 256, (size, 28, 28), np.uint8),
      rng.integers(0, 10, size).astype(np.uint8),
    )
    for name, array in zip(names, made[split]):
      write_idx(tmp_path / 'files' / name, array)
  return tmp_path / 'files', made


@pytest.mark.parametrize('name', ['fashion_mnist', 'mnist'])
def test_every_image_and_label_is_read_back(files, tmp_path, capsys, name):
  files_dir, made = files
  assert prepare.main([name, f'--data_dir={tmp_path}', f'--manual_dir={files_dir}']) == 0
  assert 'train 7 examples, test 3 examples' in capsys.readouterr().out
  for split, (images, labels) in made.items():
    source = open_source(name, split, str(tmp_path))
    assert len(source) == len(images) and source.num_classes == 10
    for i in range(len(source)):
      pixels = cv2.imdecode(np.frombuffer(source[i]['image'], np.uint8), cv2.IMREAD_GRAYSCALE)
      np.testing.assert_array_equal(pixels, images[i])
      assert source[i]['label'] == labels[i]
  assert source.class_names == list(idx.CLASS_NAMES[name])


def test_files_that_are_unpacked_or_have_the_names_of_a_mirror(files, tmp_path):
  files_dir, made = files
  for i, path in enumerate(sorted(files_dir.iterdir())):
    content = gzip.decompress(path.read_bytes())
    path.unlink()
    name = path.name.removesuffix('.gz')
    (files_dir / (name if i % 2 else name.replace('-idx', '.idx'))).write_bytes(content)
  assert idx.has_files('mnist', str(files_dir)) and not idx.has_files('mnist', str(tmp_path))
  assert prepare.main(['mnist', f'--data_dir={tmp_path}', f'--manual_dir={files_dir}']) == 0
  source = open_source('mnist', 'test', str(tmp_path))
  assert [source[i]['label'] for i in range(3)] == made['test'][1].tolist()


@pytest.mark.parametrize('name', ['mnist', 'fashion_mnist'])
def test_as_tfds_describes_it(name):
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder(name)
  except ImportError:
    pytest.skip('the builder of TFDS needs TensorFlow')
  assert tuple(builder.info.features['label'].names) == idx.CLASS_NAMES[name]
  assert len(idx.CLASS_NAMES[name]) == describe_dataset(name).num_classes


def test_damaged_files(files, tmp_path, capsys):
  files_dir, made = files
  images, labels = (files_dir / name for name in idx.FILES['train'])
  call = lambda: (
    prepare.main(['mnist', f'--data_dir={tmp_path}', f'--manual_dir={files_dir}']),
    capsys.readouterr().err,
  )
  write_idx(labels, made['train'][1][:5])
  code, said = call()
  assert code == 1 and '5 labels. Download both files again.' in said
  images.write_bytes(images.read_bytes()[:1000])
  code, said = call()
  assert code == 1 and f'Cannot read {images}: it is not a complete gzipped IDX file' in said
  images.write_bytes(gzip.compress(struct.pack('>HBB3I', 0, 8, 3, 7, 28, 28) + b'short'))
  with pytest.raises(InputError, match=r'Its header says \(7, 28, 28\), and 5 bytes follow\.'):
    idx.read_idx(images)
  images.write_bytes(gzip.compress(b'PK'))
  with pytest.raises(InputError, match='it is not a complete gzipped IDX file'):
    idx.read_idx(images)
