"""Score predictions: calibration, accuracy per class, confusions.

These are pure functions of NumPy arrays, the same for every model and dataset.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


def label_pairs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Return one (image, class) pair for each label of each image.

  Args:
    labels: (B,) int, or multi-hot (B, K).

  Returns:
    Indices of images (P,) and classes (P,), in the order of the images.
  """
  if labels.ndim == 1:
    return np.arange(len(labels)), labels
  images, classes = np.nonzero(labels)
  return images, classes


class Bins(NamedTuple):
  """Predictions grouped by confidence. Empty bins have mean 0."""

  images: np.ndarray  # (M,) int, number of predictions
  confidence: np.ndarray  # (M,) mean
  accuracy: np.ndarray  # (M,)


def confidence_bins(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> Bins:
  """Group predictions into bins of equal width: bin m of M covers ((m - 1) / M, m / M].

  Args:
    confidence: (N,) probability of the predicted class, in [0, 1]. The first bin includes 0.
    correct: (N,) bool.
    bins: number of bins, M.
  """
  index = np.searchsorted(np.arange(1, bins) / bins, confidence)
  images = np.bincount(index, minlength=bins)

  def mean(x: np.ndarray) -> np.ndarray:
    return np.bincount(index, x, bins) / np.maximum(images, 1)

  return Bins(images, mean(confidence), mean(correct))


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
  """Return the expected calibration error (arXiv 1706.04599, equation 3), in [0, 1].

  It is the mean of |accuracy - mean confidence| over the bins of `confidence_bins`, weighted by
  their number of predictions. A model has error 0 if, for example, 80 % of the predictions that it
  makes with confidence 0.8 are correct.

  Args:
    confidence: (N,) probability of the predicted class, in [0, 1], N >= 1.
    correct: (N,) bool.
    bins: number of bins.
  """
  binned = confidence_bins(confidence, correct, bins)
  gap = np.abs(binned.accuracy - binned.confidence)
  return float(np.average(gap, weights=binned.images))


def per_class(
  labels: np.ndarray, correct: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
  """Count the images of each class, and the correct predictions among them.

  Args:
    labels: (P,) int. An image with several labels counts in each of these classes: use the pairs
      of `label_pairs`.
    correct: (P,) bool, for the image that has the label.
    num_classes: K.

  Returns:
    Number of images (K,) and of correct predictions (K,), int.
  """
  return (
    np.bincount(labels, minlength=num_classes),
    np.bincount(labels[correct], minlength=num_classes),
  )


class Confusions(NamedTuple):
  """Pairs of confused classes, sorted by frequency, then by label and prediction."""

  label: np.ndarray  # (E,) int
  prediction: np.ndarray  # (E,) int, not the label
  images: np.ndarray  # (E,) int, at least 1


def confusions(labels: np.ndarray, predictions: np.ndarray) -> Confusions:
  """Count how often each class was predicted for images of each other class.

  Memory use depends on the number of pairs that occur, not on the number of classes.

  Args:
    labels: (N,) int.
    predictions: (N,) int.
  """
  wrong = labels != predictions
  pairs, images = np.unique(
    np.stack([labels[wrong], predictions[wrong]]), axis=1, return_counts=True
  )
  order = np.argsort(-images, kind='stable')  # np.unique sorted the pairs
  label, prediction = pairs[:, order]
  return Confusions(label, prediction, images[order])


def most_confused(pairs: Confusions, num_classes: int, count: int) -> np.ndarray:
  """Return the classes with the most errors, in ascending order.

  An error counts for the class of the label and for the predicted class. Ties go to the lower
  class.

  Args:
    pairs: as `confusions` returns them.
    num_classes: only classes below this one are returned.
    count: maximum number of classes.

  Returns:
    (min(count, num_classes),) int.
  """
  errors = np.bincount(
    np.concatenate([pairs.label, pairs.prediction]), np.tile(pairs.images, 2), num_classes
  )[:num_classes]
  return np.sort(np.argsort(-errors, kind='stable')[:count])


def confusion_matrix(
  labels: np.ndarray, predictions: np.ndarray, classes: np.ndarray
) -> np.ndarray:
  """Count the predictions for images of the given classes.

  Args:
    labels: (N,) int.
    predictions: (N,) int.
    classes: (n,) int, sorted, n >= 1.

  Returns:
    (n, n + 1) int. Rows are labels and columns are predictions. The last column counts the
    predictions of all other classes.
  """
  size = len(classes)

  def position(x: np.ndarray) -> np.ndarray:
    """Return the index of each class in `classes`, or n for the others."""
    index = np.searchsorted(classes, x)
    return np.where(classes[np.minimum(index, size - 1)] == x, index, size)

  cells = position(labels) * (size + 1) + position(predictions)
  return np.bincount(cells, minlength=(size + 1) ** 2).reshape(size + 1, size + 1)[:size]
