"""MNIST and Fashion-MNIST from their own four files, prepared without TensorFlow or a download."""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import os
import struct

import cv2
import numpy as np
import tensorflow_datasets as tfds

from vit_jax.errors import InputError

FILES = {
  split: (f'{stem}-images-idx3-ubyte.gz', f'{stem}-labels-idx1-ubyte.gz')
  for split, stem in (('train', 'train'), ('test', 't10k'))
}
CLASS_NAMES = {
  'mnist': tuple('0123456789'),
  'fashion_mnist': (
    'T-shirt/top',
    'Trouser',
    'Pullover',
    'Dress',
    'Coat',
    'Sandal',
    'Shirt',
    'Sneaker',
    'Bag',
    'Ankle boot',
  ),
}


def has_files(name: str, directory: str) -> bool:
  """Whether the data set is one of these and its four files lie in the directory."""
  return name in CLASS_NAMES and all(
    os.path.exists(os.path.join(directory, file)) for pair in FILES.values() for file in pair
  )


def prepare(name: str, files_dir: str, data_dir: str) -> str:
  """Writes 'mnist' or 'fashion_mnist' as TFDS would, as ArrayRecord; returns its directory.

  Args:
    files_dir: holds train-images-idx3-ubyte.gz and the three others, as on the data set's page
      or in Debian's package dataset-fashion-mnist.

  Raises:
    InputError: a file is damaged.
    OSError: data_dir cannot be written.
  """
  builder = _builder(name, files_dir)(data_dir=data_dir, file_format='array_record')
  # TFDS prints banners about downloads, of which there are none.
  with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    builder.download_and_prepare()
  return os.fspath(builder.data_dir)


def read_idx(path: str) -> np.ndarray:
  """Reads a gzipped IDX file of bytes: (n, rows, columns) images or (n,) labels, uint8.

  Raises:
    InputError: it is not one, or is cut off.
  """
  try:
    with gzip.open(path) as f:
      data = f.read()
    zeros, kind, num_axes = struct.unpack('>HBB', data[:4])
    shape = struct.unpack(f'>{num_axes}I', data[4 : 4 + 4 * num_axes])
  except (OSError, EOFError, struct.error) as e:
    raise InputError(f'{path} is no whole gzipped IDX file ({e}); get it again') from e
  values = np.frombuffer(data, np.uint8, offset=4 + 4 * num_axes)
  if (zeros, kind) != (0, 8) or len(values) != math.prod(shape):
    raise InputError(
      f'{path} is no whole IDX file of bytes: its header says {shape}, and '
      f'{len(values):,} bytes follow; get it again'
    )
  return values.reshape(shape)


def _builder(data_set: str, files_dir: str) -> type[tfds.core.GeneratorBasedBuilder]:
  class Idx(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # TFDS's has the name
    """As TFDS's builder of that name, which needs TensorFlow to encode the images."""

    name = data_set
    VERSION = tfds.core.Version('3.0.1')
    RELEASE_NOTES = {'3.0.1': 'The version of TFDS; the records are in the order of the files.'}

    def _info(self) -> tfds.core.DatasetInfo:
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(
          {
            'image': tfds.features.Image(shape=(28, 28, 1), encoding_format='png'),
            'label': tfds.features.ClassLabel(names=CLASS_NAMES[data_set]),
          }
        ),
        supervised_keys=('image', 'label'),
        disable_shuffling=True,
      )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
      del dl_manager  # nothing to download
      return {
        split: self._generate_examples(*(os.path.join(files_dir, f) for f in files))
        for split, files in FILES.items()
      }

    def _generate_examples(self, images_path: str, labels_path: str):
      images, labels = read_idx(images_path), read_idx(labels_path)
      if len(images) != len(labels) or images.shape[1:] != (28, 28):
        raise InputError(
          f'{images_path} holds {images.shape} images, {labels_path} '
          f'{len(labels)} labels; they do not belong together'
        )
      for key, (image, label) in enumerate(zip(images, labels)):
        png = cv2.imencode('.png', image)[1].tobytes()
        yield key, {'image': png, 'label': int(label)}

  return Idx
