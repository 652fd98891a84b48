"""Find the label among the features of a TFDS dataset, and read it from a record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_jax.errors import InputError

if TYPE_CHECKING:
  import tensorflow_datasets as tfds

# The features of a tf.train.Example: name -> bytes_list, int64_list, float_list.
Features = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Labels:
  """The labels of the examples of a dataset.

  Attributes:
    image_key: name of the feature that holds the encoded image.
    read: function (features) -> list of class indices. The list has one element, or any number if
      multi_label. The function can be pickled. It raises IndexError or ValueError for a record
      without a label.
    num_classes: indices lie in [0, num_classes).
    class_names: names of the classes, or None.
    multi_label: True if a record may have any number of classes instead of one.
  """

  image_key: str
  read: Callable[[Features], list[int]]
  num_classes: int
  class_names: list[str] | None = None
  multi_label: bool = False


def supervised_labels(info: tfds.core.DatasetInfo) -> Labels:
  """Return the labels of a dataset: its supervised keys, or the features 'image' and 'label'.

  A label is one class (ClassLabel) or several (a Sequence of ClassLabel, or a multi-hot vector).

  Raises:
    InputError: the dataset has no image with such a label.
  """
  import tensorflow_datasets as tfds

  features: Any = info.features  # a FeaturesDict, but TFDS declares a more general type
  supervised_keys: Any = info.supervised_keys
  for keys in (supervised_keys, ('image', 'label')):
    if isinstance(keys, Sequence) and len(keys) >= 2 and set(keys[:2]) <= set(features):
      image = features[keys[0]]
      is_image = isinstance(image, tfds.features.Image)
      if is_image and getattr(image.np_dtype, 'kind', None) == 'u':
        labels = feature_labels(info, keys[1], image_key=keys[0])
        if labels:
          return labels
  types = ', '.join(f'{k}: {type(v).__name__}' for k, v in sorted(features.items()))
  raise InputError(
    f'{info.name} is not an image classification dataset. Its supervised keys must be an Image and '
    'a ClassLabel (or a Sequence of ClassLabel, or a multi-hot vector), but its features are '
    f'{types}. Choose another dataset.'
  )


def feature_labels(
  info: tfds.core.DatasetInfo, key: str, *, image_key: str = 'image'
) -> Labels | None:
  """Return the labels that the feature `key` holds, or None if it cannot be a label."""
  import tensorflow_datasets as tfds

  features: Any = info.features
  feature = features[key]
  is_sequence = isinstance(feature, tfds.features.Sequence)
  label = feature.feature if is_sequence else feature
  if isinstance(label, tfds.features.ClassLabel) and label.num_classes:
    read = functools.partial(_read_indices if is_sequence else _read_index, key=key)
    return Labels(image_key, read, label.num_classes, list(label.names), is_sequence)
  shape: Any = label.shape if type(label) is tfds.features.Tensor else ()
  if len(shape) == 1 and shape[0]:
    read = functools.partial(_read_multi_hot, key=key, num_classes=shape[0])
    return Labels(image_key, read, shape[0], multi_label=True)
  return None


def _read_index(features: Features, key: str) -> list[int]:
  return [features[key].int64_list.value[0]]


def _read_indices(features: Features, key: str) -> list[int]:
  return list(features[key].int64_list.value)


def _read_multi_hot(features: Features, key: str, num_classes: int) -> list[int]:
  feature = features[key]
  vector = np.array(feature.int64_list.value or feature.float_list.value)
  if len(vector) != num_classes:
    raise ValueError(f'{key} has {len(vector)} values instead of {num_classes}')
  if not np.isin(vector, (0, 1)).all():
    raise InputError(
      f'The feature {key} is not a multi-hot vector: it has values besides 0 and 1. Choose another '
      'dataset.'
    )
  return np.flatnonzero(vector).tolist()
