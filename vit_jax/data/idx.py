"""Prepare MNIST and Fashion-MNIST from their four IDX files, offline and without TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import gzip
import io
import math
import os
import struct
from typing import TYPE_CHECKING, Any
import zlib

import cv2
import numpy as np

from vit_jax.errors import InputError

if TYPE_CHECKING:
  import tensorflow_datasets as tfds

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
  """Return True if `name` is one of the two datasets and its four files are in the directory.

  The files may be unpacked already, and may be called t10k-images.idx3-ubyte, as on some mirrors.
  """
  return name in CLASS_NAMES and all(
    _find(directory, file) for pair in FILES.values() for file in pair
  )


def _find(directory: str, name: str) -> str | None:
  """Return the path of one of the four files under any of its usual names, or None."""
  names = (name, name.removesuffix('.gz'))
  paths = [
    os.path.join(directory, n) for n in (*names, *(n.replace('-idx', '.idx') for n in names))
  ]
  return next(filter(os.path.exists, paths), None)


def prepare(name: str, files_dir: str, data_dir: str) -> str:
  """Write 'mnist' or 'fashion_mnist' as ArrayRecord, like TFDS. Return the directory.

  Args:
    name: 'mnist' or 'fashion_mnist'.
    files_dir: directory of train-images-idx3-ubyte.gz and the three other files, as on the
      dataset's page or in Debian's package dataset-fashion-mnist.
    data_dir: directory of TFDS datasets.

  Raises:
    InputError: a file is damaged.
    OSError: data_dir cannot be written.
  """
  builder = _builder_class(name, files_dir)(data_dir=data_dir, file_format='array_record')
  # TFDS prints banners about downloads, but nothing is downloaded.
  with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    builder.download_and_prepare()
  return os.fspath(builder.data_dir)


def read_idx(path: str) -> np.ndarray:
  """Read an IDX file, gzipped or not: (n, rows, columns) images or (n,) labels, uint8.

  Raises:
    InputError: the file is not an IDX file of bytes, or is cut off.
  """
  try:
    with open(path, 'rb') as f:
      data = f.read()
    if not data.startswith(b'\0\0'):
      data = gzip.decompress(data)
    zeros, kind, num_axes = struct.unpack('>HBB', data[:4])
    shape = struct.unpack(f'>{num_axes}I', data[4 : 4 + 4 * num_axes])
  except (OSError, EOFError, zlib.error, struct.error) as e:
    raise InputError(
      f'Cannot read {path}: it is not a complete gzipped IDX file ({e}). Download it again.'
    ) from e
  values = np.frombuffer(data, np.uint8, offset=4 + 4 * num_axes)
  if (zeros, kind) != (0, 8) or len(values) != math.prod(shape):
    raise InputError(
      f'Cannot read {path}: it is not a complete IDX file of bytes. Its header says {shape}, and '
      f'{len(values):,} bytes follow. Download it again.'
    )
  return values.reshape(shape)


def _builder_class(dataset: str, files_dir: str) -> type[tfds.core.GeneratorBasedBuilder]:
  import tensorflow_datasets as tfds

  # This class is not registered, because TFDS has a builder of the same name.
  class Idx(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A replacement for TFDS's builder, which needs TensorFlow to encode the images."""

    name = dataset
    VERSION = tfds.core.Version('3.0.1')
    RELEASE_NOTES = {'3.0.1': 'Same version as in TFDS. Records are in the order of the files.'}

    def _info(self) -> tfds.core.DatasetInfo:
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(
          {
            'image': tfds.features.Image(shape=(28, 28, 1), encoding_format='png'),
            'label': tfds.features.ClassLabel(names=CLASS_NAMES[dataset]),
          }
        ),
        supervised_keys=('image', 'label'),
        disable_shuffling=True,
      )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
      del dl_manager  # nothing to download
      return {
        split: self._generate_examples(*(_find(files_dir, f) or f for f in files))
        for split, files in FILES.items()
      }

    def _generate_examples(
      self, images_path: str, labels_path: str
    ) -> Iterator[tuple[int, dict[str, Any]]]:
      images, labels = read_idx(images_path), read_idx(labels_path)
      if len(images) != len(labels) or images.shape[1:] != (28, 28):
        raise InputError(
          f'{images_path} holds images of shape {images.shape}, but {labels_path} holds '
          f'{len(labels)} labels. Download both files again.'
        )
      for key, (image, label) in enumerate(zip(images, labels)):
        png = cv2.imencode('.png', image)[1].tobytes()
        yield key, {'image': png, 'label': int(label)}

  return Idx
