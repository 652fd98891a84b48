"""The interface of a dataset: labelled images by index."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np


class Source(abc.ABC):
  """Labelled images by index.

  Attributes:
    num_classes: labels lie in [0, num_classes).
    class_names: their names, or None.
    multi_label: whether an image may have several labels, or none.
    apply_exif: whether images should be turned as their EXIF orientation says.
  """

  num_classes: int
  class_names: list[str] | None
  multi_label = False
  apply_exif = False

  @abc.abstractmethod
  def __len__(self) -> int:
    """Returns the number of records."""

  @abc.abstractmethod
  def __getitem__(self, index: int) -> dict[str, Any]:
    """Returns {'image': encoded bytes, 'label': int}; safe to call from many threads.

    If multi_label, the label is multi-hot: (num_classes,) uint8, 1 for each class there is.

    Raises:
      ValueError: this record is damaged (says how; `record_name` says which).
      InputError: something that skipping the record would not cure.
    """

  def label(self, index: int) -> int | np.ndarray:
    """Returns the label alone, without reading the image where that can be; raises as indexing."""
    return self[index]['label']

  @abc.abstractmethod
  def record_name(self, index: int) -> str:
    """Returns where the record lies: the image's path, or file and position in it."""
