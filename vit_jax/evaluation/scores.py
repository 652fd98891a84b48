"""How good predictions are: pure functions of NumPy arrays, the same for every model and data set.

Labels are (B,) int, or multi-hot (B, K) where an image may have several. A prediction is right
when it is one of the image's labels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


def is_among(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Whether one of an image's predictions is its label, or one of its labels.

  Args:
    predictions: (B, k) int, the k most probable classes. Those beyond the labels' K are wrong: a
      head may be wider than its data set has classes.
    labels: (B,) int or multi-hot (B, K).
  Returns:
    (B,) bool.
  """
  if labels.ndim == 1:
    return (predictions == labels[:, None]).any(1)
  num_classes = labels.shape[1]
  known = np.take_along_axis(labels, np.minimum(predictions, num_classes - 1), 1) > 0
  return (known & (predictions < num_classes)).any(1)


def label_pairs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Labels, (B,) int or multi-hot (B, K), as pairs: number of the image (P,), class (P,)."""
  if labels.ndim == 1:
    return np.arange(len(labels)), labels
  return np.nonzero(labels)


class Bins(NamedTuple):
  """Predictions by how sure the model was of them; of bins without any, the means are 0."""

  images: np.ndarray  # (M,) int
  confidence: np.ndarray  # (M,) mean
  accuracy: np.ndarray  # (M,)


def confidence_bins(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> Bins:
  """Sorts predictions into bins of equal width: bin m of M is ((m - 1) / M, m / M].

  Args:
    confidence: (N,) probability of the predicted class, in [0, 1]; 0 goes to the first bin.
    correct: (N,) bool.
  """
  index = np.searchsorted(np.arange(1, bins) / bins, confidence)
  images = np.bincount(index, minlength=bins)
  mean = lambda x: np.bincount(index, x, bins) / np.maximum(images, 1)
  return Bins(images, mean(confidence), mean(correct))


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
  """Expected calibration error of the predicted class, in [0, 1] (arXiv 1706.04599, equation 3).

  The mean over all images of |accuracy - mean confidence| of the image's bin (`confidence_bins`):
  0 when of the predictions made with a confidence of .8, 80 % are right, and so on. Arguments are
  those of `confidence_bins`, at least one image.
  """
  found = confidence_bins(confidence, correct, bins)
  gap = np.abs(found.accuracy - found.confidence)
  return float(np.average(gap, weights=found.images))


def per_class(
  labels: np.ndarray, correct: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
  """How many images each class has, and how many of these are right.

  Args:
    labels: (P,) int. An image with several labels is there once for each: it counts in each of
      these classes (`label_pairs`).
    correct: (P,) bool, whether the image's prediction is right.
  Returns:
    images (num_classes,) and right ones (num_classes,), int.
  """
  return (
    np.bincount(labels, minlength=num_classes),
    np.bincount(labels[correct], minlength=num_classes),
  )


class Confusions(NamedTuple):
  """The kinds of errors there are, the most frequent first, then by label and prediction."""

  label: np.ndarray  # (E,) int
  prediction: np.ndarray  # (E,) int
  images: np.ndarray  # (E,) int, at least 1


def confusions(labels: np.ndarray, predictions: np.ndarray) -> Confusions:
  """Counts each kind of error: (N,) and (N,) int -> pairs of unequal classes.

  Memory goes with the pairs that occur, not with the square of the number of classes.
  """
  wrong = labels != predictions
  pairs, images = np.unique(
    np.stack([labels[wrong], predictions[wrong]]), axis=1, return_counts=True
  )
  order = np.argsort(-images, kind='stable')  # pairs are sorted
  return Confusions(*pairs[:, order], images[order])


def most_confused(found: Confusions, num_classes: int, count: int) -> np.ndarray:
  """Of the classes below num_classes the `count` with the most errors, sorted by index.

  An error is its label's and its prediction's; of classes with equally many the first are taken.
  """
  errors = np.bincount(
    np.concatenate([found.label, found.prediction]), np.tile(found.images, 2), num_classes
  )[:num_classes]
  return np.sort(np.argsort(-errors, kind='stable')[:count])


def confusion_matrix(
  labels: np.ndarray, predictions: np.ndarray, classes: np.ndarray
) -> np.ndarray:
  """How often images of some classes were taken for these classes, or for any other.

  Args:
    labels, predictions: (N,) int.
    classes: (n,) int, sorted, at least one.
  Returns:
    (n, n + 1) int: rows are labels, columns predictions; the last column is all other classes.
  """
  size = len(classes)

  def place(x):  # the index in `classes`; size where it is none of them
    index = np.searchsorted(classes, x)
    return np.where(classes[np.minimum(index, size - 1)] == x, index, size)

  pairs = place(labels) * (size + 1) + place(predictions)
  return np.bincount(pairs, minlength=(size + 1) ** 2).reshape(size + 1, size + 1)[:size]
