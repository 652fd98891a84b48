"""Linear classifiers of features in closed form: ridge regression in float64, with NumPy alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

PENALTY = 2.0**10
_CONSTANT = 100.0  # the feature that carries the bias; being large, it is hardly penalised


def ridge(features: np.ndarray, targets: np.ndarray, penalty: float) -> np.ndarray:
  """The weights that minimise |features @ weights - targets|^2 + penalty |weights|^2.

  By eigendecomposition of X^T X, or of X X^T where that is smaller: beside the arguments in
  float64 no array is larger than min(N, D)^2 or D K.

  Args:
    features: (N, D), standardised, with a constant column if there is to be a bias.
    targets: (N, K).
    penalty: above 0, so that there is one solution whatever the rank.
  Returns:
    (D, K) float64.
  """
  x, y = np.asarray(features, np.float64), np.asarray(targets, np.float64)
  if x.shape[0] >= x.shape[1]:
    values, vectors = np.linalg.eigh(x.T @ x)
    return vectors @ ((vectors.T @ (x.T @ y)) / (values + penalty)[:, None])
  values, vectors = np.linalg.eigh(x @ x.T)
  return x.T @ (vectors @ ((vectors.T @ y) / (values + penalty)[:, None]))


class Classifier(NamedTuple):
  """One weight vector per class, for features standardised as those it was fitted to."""

  mean: np.ndarray  # (D,)
  std: np.ndarray  # (D,)
  weights: np.ndarray  # (D + 1, K)

  def scores(self, features: np.ndarray) -> np.ndarray:
    """(N, D) -> (N, K) float64, largest for the class that is chosen."""
    return _standardise(features, self.mean, self.std) @ self.weights


def fit_classifier(
  features: np.ndarray, labels: np.ndarray, num_classes: int, penalty: float = PENALTY
) -> Classifier:
  """Ridge regression onto {-1, 1}^K, as in the paper's few-shot evaluation (section 4.1).

  Features are standardised by their own mean and standard deviation + 1e-5.

  Args:
    features: (N, D).
    labels: (N,) in [0, num_classes).
  """
  mean = features.mean(axis=0, dtype=np.float64)
  std = features.std(axis=0, dtype=np.float64) + 1e-5
  targets = np.full((len(labels), num_classes), -1.0)
  targets[np.arange(len(labels)), labels] = 1
  return Classifier(mean, std, ridge(_standardise(features, mean, std), targets, penalty))


def _standardise(features, mean, std):
  """(N, D) -> (N, D + 1) float64, the last column constant."""
  out = np.empty((len(features), len(mean) + 1))
  np.subtract(features, mean, out=out[:, :-1])
  out[:, :-1] /= std
  out[:, -1] = _CONSTANT
  return out
