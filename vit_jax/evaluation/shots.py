"""Draw a few images of each class at random, the same ones on every machine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
import os

import numpy as np

from vit_jax.data.source import Source
from vit_jax.data.subset import Subset
from vit_jax.errors import InputError

_LABELS_AT_A_TIME = 1024  # labels that a thread reads before it takes the next task


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
      f'Class {rarest}{name} has {counts[rarest]} images, but {most} shots were requested. Use '
      'fewer shots or a larger split.'
    )


def pick(labels: np.ndarray, num_classes: int, most: int, seed: int) -> np.ndarray:
  """Draw images of each class.

  The draw of a class depends only on the seed, the class and its number of images.

  Args:
    labels: (N,) int in [0, num_classes), at least `most` for each class.
    num_classes: number of classes.
    most: number of images to draw from each class.
    seed: seed of the draw.

  Returns:
    (num_classes, most) indices into `labels`. The first k of each class are the same for any
    `most` >= k.
  """
  counts = np.bincount(labels, minlength=num_classes)
  by_class = np.split(np.argsort(labels, kind='stable'), np.cumsum(counts)[:-1])
  # RandomState, unlike Generator, promises the same permutation in every NumPy version.
  return np.stack(
    [
      np.random.RandomState([seed, label]).permutation(images)[:most]
      for label, images in enumerate(by_class)
    ]
  )


def _read_labels(source: Source, num_threads: int | None) -> np.ndarray:
  """Return the label of every image, (N,) int."""

  def read(first: int) -> list[int]:
    last = min(first + _LABELS_AT_A_TIME, len(source))
    return [_read_label(source, index) for index in range(first, last)]

  with ThreadPoolExecutor(num_threads or os.cpu_count()) as pool:
    return np.concatenate(list(pool.map(read, range(0, len(source), _LABELS_AT_A_TIME))))


def _read_label(source: Source, index: int) -> int:
  try:
    return int(source.label(index))
  except InputError:
    raise
  except ValueError as e:
    raise InputError(
      f'Cannot read record {source.location(index)}: {e}. Repair or remove it.'
    ) from e
