"""Scores equal those of cases that can be worked out by hand, and those of plain loops."""

import numpy as np
import pytest

from vit_jax.evaluation import scores


def random_predictions(seed, size=2000, num_classes=7):
  rng = np.random.default_rng(seed)
  labels = rng.integers(num_classes, size=size)
  predictions = np.where(rng.random(size) < 0.6, labels, rng.integers(num_classes, size=size))
  return labels, predictions, rng.random(size)


def calibration_error_by_loops(confidence, correct, bins):
  """Compute it by definition: B_m holds the samples with a confidence in ((m - 1) / M, m / M]."""
  total = 0.0
  for m in range(1, bins + 1):
    inside = [i for i, c in enumerate(confidence) if (m - 1) / bins < c <= m / bins]
    if inside:
      accuracy = sum(bool(correct[i]) for i in inside) / len(inside)
      mean = sum(float(confidence[i]) for i in inside) / len(inside)
      total += len(inside) / len(confidence) * abs(accuracy - mean)
  return total


@pytest.mark.parametrize(
  'confidence, correct, want',
  [
    ([0.75] * 4, [1, 1, 1, 0], 0),  # perfectly calibrated
    ([0.75] * 4 + [0.5] * 2, [1, 1, 1, 0, 0, 1], 0),
    ([1.0, 1.0, 1.0], [1, 1, 1], 0),
    ([1.0, 1.0, 1.0], [0, 0, 0], 1),  # full confidence, right or wrong
    ([0.9] * 5, [1, 1, 0, 0, 0], 0.5),
    ([0.1] * 5, [1, 1, 1, 0, 0], 0.5),  # overconfident, underconfident
    ([0.95, 0.55], [1, 1], 0.25),  # two bins, off by .05 and .45
    ([0.5, 0.51], [1, 0], 0.005),  # in one bin the two errors cancel
    ([0.2, 0.21], [1, 0], 0.505),  # .2 is the end of a bin, .21 in the next: off by .8 and .21
    ([0.0, 0.9], [0, 1], 0.05),
    ([0.3], [1], 0.7),
  ],
)
def test_calibration_error(confidence, correct, want):
  error = scores.calibration_error(np.array(confidence), np.array(correct, bool))
  assert error == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize('bins', [1, 2, 10, 15])
def test_calibration_error_equals_loops(bins):
  labels, predictions, confidence = random_predictions(bins)
  confidence[: 2 * bins + 1] = np.arange(2 * bins + 1) / (2 * bins)  # ends and middles of bins
  confidence[confidence == 0] = 1e-9  # the definition has no bin for 0
  correct = labels == predictions
  assert scores.calibration_error(confidence, correct, bins) == pytest.approx(
    calibration_error_by_loops(confidence, correct, bins), abs=1e-12
  )


def test_bins_without_images():
  bins = scores.confidence_bins(np.array([0, 0.25, 0.26, 1]), np.array([1, 0, 1, 1], bool), 4)
  np.testing.assert_array_equal(bins.images, [2, 1, 0, 1])
  np.testing.assert_allclose(bins.confidence, [0.125, 0.26, 0, 1])
  np.testing.assert_allclose(bins.accuracy, [0.5, 1, 0, 1])


def test_per_class():
  correct = np.array([1, 0, 1, 1], bool)
  images, right = scores.per_class(np.array([0, 0, 3, 3]), correct, 5)
  np.testing.assert_array_equal(images, [2, 0, 0, 2, 0])
  np.testing.assert_array_equal(right, [1, 0, 0, 2, 0])


def test_several_labels_count_in_each_of_their_classes():
  labels = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 0]], np.uint8)
  image, label = scores.label_pairs(labels)
  np.testing.assert_array_equal(image, [0, 0, 2])
  np.testing.assert_array_equal(label, [0, 1, 1])
  images, right = scores.per_class(label, np.array([1, 0, 0], bool)[image], 3)
  np.testing.assert_array_equal(images, [1, 2, 0])
  np.testing.assert_array_equal(right, [1, 1, 0])
  np.testing.assert_array_equal(scores.label_pairs(np.array([7, 4])), [[0, 1], [7, 4]])


def test_confusions():
  labels = np.array([0, 9, 9, 9, 3, 3, 0, 21_842, 5])
  predictions = np.array([1, 8, 8, 7, 3, 0, 1, 0, 5])
  pairs = scores.confusions(labels, predictions)
  assert list(zip(*(x.tolist() for x in pairs))) == [
    (0, 1, 2),
    (9, 8, 2),
    (3, 0, 1),
    (9, 7, 1),
    (21_842, 0, 1),
  ]
  assert [len(x) for x in scores.confusions(labels, labels)] == [0, 0, 0]


def test_most_confused():
  pairs = scores.confusions(np.array([4, 4, 4, 2, 1, 1]), np.array([0, 0, 6, 0, 1, 6]))
  # Errors: 3 for class 0, 1 for 1, 1 for 2, 3 for 4, 2 for 6, none for 3 and 5.
  assert scores.most_confused(pairs, 7, 2).tolist() == [0, 4]
  assert scores.most_confused(pairs, 7, 4).tolist() == [0, 1, 4, 6]
  assert scores.most_confused(pairs, 5, 3).tolist() == [0, 1, 4]  # without class 6
  assert scores.most_confused(pairs, 7, 99).tolist() == list(range(7))
  nothing = scores.confusions(np.array([1]), np.array([1]))
  assert scores.most_confused(nothing, 5, 2).tolist() == [0, 1]


@pytest.mark.parametrize('classes', [[0, 1, 2, 3, 4, 5, 6], [1, 4, 6], [3]])
def test_confusion_matrix_equals_loops(classes):
  labels, predictions, _ = random_predictions(3)
  want = np.zeros((len(classes), len(classes) + 1), int)
  for label, prediction in zip(labels, predictions):
    if label in classes:
      column = classes.index(prediction) if prediction in classes else len(classes)
      want[classes.index(label), column] += 1
  matrix = scores.confusion_matrix(labels, predictions, np.array(classes))
  np.testing.assert_array_equal(matrix, want)
  assert matrix.sum() == np.isin(labels, classes).sum()
