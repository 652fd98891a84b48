"""A few images of each class, chosen at random but the same everywhere."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
import os
from typing import Any

import numpy as np

from vit_jax.data.source import Source
from vit_jax.errors import InputError

_LABELS_AT_A_TIME = 1024  # that one thread reads


class Shots(Source):
  """The images of a source that one of several draws takes.

  Attributes:
    picks: (seeds, num_classes, most): which of these images each draw takes of each class, in
      order: of k shots, the first k. So the 1-shot images are among the 5-shot ones.
  """

  def __init__(self, source: Source, *, most: int, seeds: int, num_threads: int | None = None):
    """Reads the label of every image, without decoding any, and draws.

    Args:
      source: of one label per image.
      most: images to take of each class.
      seeds: how many draws.
      num_threads: that read; None: one per CPU.
    Raises:
      InputError: naming the class that has fewer images, or a record that cannot be read.
    """
    self.num_classes, self.class_names = source.num_classes, source.class_names
    self.apply_exif = source.apply_exif
    self._source = source
    labels = _read_labels(source, num_threads)
    self._check_counts(np.bincount(labels, minlength=source.num_classes), most)
    drawn = np.stack([pick(labels, source.num_classes, most, seed) for seed in range(seeds)])
    self._indices, places = np.unique(drawn, return_inverse=True)  # draws may share images
    self.picks = places.reshape(drawn.shape)

  def _check_counts(self, counts: np.ndarray, most: int) -> None:
    rarest = int(counts.argmin())
    if counts[rarest] < most:
      name = f' ({self.class_names[rarest]})' if self.class_names else ''
      raise InputError(
        f'class {rarest}{name} has {counts[rarest]} images, too few for {most} '
        'shots; ask for fewer shots, or take a larger split'
      )

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self._source[int(self._indices[index])]

  def record_name(self, index: int) -> str:
    return self._source.record_name(int(self._indices[index]))


def pick(labels: np.ndarray, num_classes: int, most: int, seed: int) -> np.ndarray:
  """The images that one draw takes of each class, in order.

  A class's order depends on nothing but the seed, the class and how many images it has.

  Args:
    labels: (N,) in [0, num_classes).
    most: images to take of a class, of which each has so many.
  Returns:
    (num_classes, most) indices into `labels`.
  """
  by_class = np.split(
    np.argsort(labels, kind='stable'), np.cumsum(np.bincount(labels, minlength=num_classes))[:-1]
  )
  # RandomState, unlike Generator, promises the same permutation in every NumPy version.
  return np.stack(
    [
      np.random.RandomState([seed, label]).permutation(images)[:most]
      for label, images in enumerate(by_class)
    ]
  )


def _read_labels(source: Source, num_threads: int | None) -> np.ndarray:
  """(N,) the label of every image."""

  def read(first):
    return [
      _read_label(source, index)
      for index in range(first, min(first + _LABELS_AT_A_TIME, len(source)))
    ]

  with ThreadPoolExecutor(num_threads or os.cpu_count()) as pool:
    return np.concatenate(list(pool.map(read, range(0, len(source), _LABELS_AT_A_TIME))))


def _read_label(source: Source, index: int) -> int:
  try:
    return source.label(index)
  except InputError:
    raise
  except ValueError as e:
    raise InputError(f'record {source.record_name(index)}: {e}; repair or remove it') from e
