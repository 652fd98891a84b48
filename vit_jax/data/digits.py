"""Prepare scikit-learn's handwritten digits as a TFDS dataset, without a download."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import functools
import io
import os
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
  import tensorflow_datasets as tfds

NUM_TRAIN = 1437  # 80 % of 1,797; the other 360 are the test split
_PERMUTATION_SEED = 0


def prepare(data_dir: str) -> None:
  """Write the dataset under data_dir as ArrayRecord. Several processes may call this at once.

  TFDS writes into a temporary directory and renames it, so readers see all of it or nothing.

  Raises:
    OSError: data_dir cannot be written.
  """
  builder = builder_class()(data_dir=data_dir, file_format='array_record')
  try:
    # TFDS prints progress bars and banners. This takes a tenth of a second and needs none.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
      builder.download_and_prepare()
  except OSError:
    # Renaming fails if the target is not empty, because another process was faster.
    if not os.path.exists(os.path.join(builder.data_dir, 'dataset_info.json')):
      raise


@functools.cache  # TFDS registers the class, and accepts only one of this name
def builder_class() -> type[tfds.core.GeneratorBasedBuilder]:
  """Return the TFDS builder class of 'digits'."""
  import tensorflow_datasets as tfds

  class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 gray 8x8 digits, split 1437/360 into train and test by a fixed permutation.

    Intensities 0..16 are scaled to 0..255. TFDS is given PNG bytes, so that it does not need
    TensorFlow to encode the images.
    """

    name = 'digits'
    VERSION = tfds.core.Version('1.0.0')
    RELEASE_NOTES = {'1.0.0': 'First version.'}

    def _info(self) -> tfds.core.DatasetInfo:
      return tfds.core.DatasetInfo(
        builder=self,
        description='Handwritten digits of scikit-learn (UCI ML optical recognition, test set).',
        features=tfds.features.FeaturesDict(
          {
            'image': tfds.features.Image(shape=(8, 8, 1), encoding_format='png'),
            'label': tfds.features.ClassLabel(num_classes=10),
          }
        ),
        supervised_keys=('image', 'label'),
        disable_shuffling=True,
      )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
      del dl_manager  # nothing to download
      # RandomState, unlike Generator, promises the same permutation in every NumPy version.
      order = np.random.RandomState(_PERMUTATION_SEED).permutation(1797)
      return {
        'train': self._generate_examples(order[:NUM_TRAIN]),
        'test': self._generate_examples(order[NUM_TRAIN:]),
      }

    def _generate_examples(self, indices: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
      from sklearn import datasets

      digits: Any = datasets.load_digits()
      images = np.round(digits.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8)
      for key, index in enumerate(indices):
        png = cv2.imencode('.png', images[index])[1].tobytes()
        yield key, {'image': png, 'label': int(digits.target[index])}

  return Digits
