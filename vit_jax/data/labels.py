"""Which feature of a TFDS record is the image, and what classes its label says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

import numpy as np

from vit_jax.errors import InputError

Features = Mapping[str, Any]  # of a tf.train.Example: name -> bytes_list, int64_list, float_list


@dataclasses.dataclass(frozen=True)
class Labels:
  """How records are labelled.

  Attributes:
    image_key: the feature that holds the encoded image.
    read: (features) -> indices of the record's classes: one, or any number when multi_label.
      Picklable; raises IndexError or ValueError for a record without them.
    num_classes: indices lie in [0, num_classes).
    class_names: their names, or None.
    multi_label: whether a record may have several classes, or none.
  """

  image_key: str
  read: Callable[[Features], list[int]]
  num_classes: int
  class_names: list[str] | None = None
  multi_label: bool = False


def supervised_labels(info) -> Labels:
  """The labels of a tfds.core.DatasetInfo: its supervised keys, else 'image' and 'label'.

  A label is a ClassLabel, or several: a Sequence of ClassLabel, or a multi-hot vector.

  Raises:
    InputError: it has no image with such a label.
  """
  import tensorflow_datasets as tfds

  for keys in (info.supervised_keys, ('image', 'label')):
    if isinstance(keys, Sequence) and len(keys) >= 2 and set(keys[:2]) <= set(info.features):
      image = info.features[keys[0]]
      if isinstance(image, tfds.features.Image) and image.np_dtype.kind == 'u':
        labels = feature_labels(info, keys[1], image_key=keys[0])
        if labels:
          return labels
  features = ', '.join(f'{k}: {type(v).__name__}' for k, v in sorted(info.features.items()))
  raise InputError(
    f'{info.name} is no image classification data set: it needs an Image and a '
    'ClassLabel (or a Sequence of them, or a multi-hot vector) as supervised keys, '
    f'but its features are {features}'
  )


def feature_labels(info, key: str, *, image_key: str = 'image') -> Labels | None:
  """The labels that the feature `key` holds; None when it is none of the kinds above."""
  import tensorflow_datasets as tfds

  feature = info.features[key]
  many = isinstance(feature, tfds.features.Sequence)
  label = feature.feature if many else feature
  if isinstance(label, tfds.features.ClassLabel) and label.num_classes:
    read = functools.partial(_read_indices if many else _read_index, key=key)
    return Labels(image_key, read, label.num_classes, list(label.names), multi_label=many)
  if type(label) is tfds.features.Tensor and len(label.shape) == 1 and label.shape[0]:
    read = functools.partial(_read_multi_hot, key=key, num_classes=label.shape[0])
    return Labels(image_key, read, label.shape[0], multi_label=True)
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
    raise InputError(f'{key} is no multi-hot vector: it has values besides 0 and 1')
  return np.flatnonzero(vector).tolist()
