"""The interface of a dataset: labeled images, read by index.

To add a data format:

1. Subclass `Source` in a new file of this folder. docs/data.md shows an example of 20 lines.
2. Add a branch for its names to `open_source` and `split_names` in `open_source.py`, and to
   `is_own_data` in `dataset_names.py`.
3. Add it to `tests/helpers/readers.py`, so that the tests of all readers include it.

Training needs nothing else: preprocessing and batches take any `Source`.

A source is pickled to worker processes and read from many threads, so it opens its files when they
are first read.
`split_ranges` in `splits.py` reads split expressions such as 'train[:90%]+validation'.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
import functools
from typing import TypedDict

import numpy as np


class Example(TypedDict):
  """An image as it is stored, and its label."""

  image: bytes  # a JPEG, PNG or other image file
  label: int | np.ndarray  # class index, or (num_classes,) uint8 with 1 for each class of the image


class Source(abc.ABC):
  """Labeled images, read by index.

  Attributes:
    num_classes: labels lie in [0, num_classes).
    class_names: names of the classes, or None.
    multi_label: True if an image may have any number of labels instead of one.
    apply_exif: True if images must be rotated as their EXIF orientation says.
    empty_classes: names of the classes of which the training split has no image, if that is known.
    newly_listed: number of images that earlier versions of vit_jax would have left out.
    is_remote: True if the examples come over a network, so that many should be read at once.
  """

  num_classes: int
  class_names: list[str] | None
  multi_label: bool = False
  apply_exif: bool = False
  empty_classes: Sequence[str] = ()
  newly_listed: int = 0
  is_remote: bool = False

  @abc.abstractmethod
  def __len__(self) -> int:
    """Return the number of examples."""

  @abc.abstractmethod
  def __getitem__(self, index: int) -> Example:
    """Return an example. Safe to call from many threads.

    Raises:
      IndexError: the index is out of range.
      ValueError: the example is damaged. The message completes "Cannot read x: ...".
      InputError: a problem that skipping this example would not solve.
    """

  def start(self, index: int) -> Callable[[], Example]:
    """Start to read an example in the background, if the storage is slow to answer.

    Call what is returned to get the example or an exception, as from `self[index]`.
    """
    return functools.partial(self.__getitem__, index)

  def label(self, index: int) -> int | np.ndarray:
    """Return the label alone, without reading the image if the format allows that."""
    return self[index]['label']

  @property
  def has_labels_apart(self) -> bool:
    """True if `label` reads no image."""
    return type(self).label is not Source.label

  @abc.abstractmethod
  def location(self, index: int) -> str:
    """Return the place of the example: a path, or a file and the number of a record in it."""
