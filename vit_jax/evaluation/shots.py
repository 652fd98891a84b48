"""A few images of each class, chosen at random but the same everywhere."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
import os

import numpy as np

from vit_jax.data.source import Source
from vit_jax.data.subset import Subset
from vit_jax.errors import InputError

_LABELS_AT_A_TIME = 1024  # that one thread reads


def draw_shots(
  source: Source, *, most: int, seeds: int, num_threads: int | None = None
) -> tuple[Subset, np.ndarray]:
  """Draw images of each class, once for each seed. No image is decoded for this.

  Args:
    source: images with one label each. The label of every image is read.
    most: number of images to draw from each class.
    seeds: number of draws.
    num_threads: number of threads that read labels. Defaults to one per CPU.

  Returns:
    shots: the images that at least one draw took.
    picks: (seeds, num_classes, most) indices into `shots`. The first k of a class are its
      k-shot images, so the 1-shot images are among the 5-shot images.

  Raises:
    InputError: a class has fewer than `most` images, or a label cannot be read.
  """
  labels = _read_labels(source, num_threads)
  _check_counts(source, np.bincount(labels, minlength=source.num_classes), most)
  drawn = np.stack([pick(labels, source.num_classes, most, seed) for seed in range(seeds)])
  indices, places = np.unique(drawn, return_inverse=True)  # draws may share images
  return Subset(source, indices), places.reshape(drawn.shape)


def _check_counts(source: Source, counts: np.ndarray, most: int) -> None:
  """Raise InputError if a class has fewer than `most` images; `counts` is (num_classes,)."""
  rarest = int(counts.argmin())
  if counts[rarest] < most:
    name = f' ({source.class_names[rarest]})' if source.class_names else ''
    raise InputError(
      f'class {rarest}{name} has {counts[rarest]} images, too few for {most} '
      'shots; ask for fewer shots, or take a larger split'
    )


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
