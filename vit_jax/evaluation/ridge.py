"""Fit linear classifiers in closed form: ridge regression in float64, with NumPy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

PENALTY = 2.0**10
_CONSTANT = 100.0  # feature that carries the bias; as it is large, the bias is hardly penalized


def ridge(features: np.ndarray, targets: np.ndarray, penalty: float) -> np.ndarray:
  """Return the weights that minimize |features @ weights - targets|^2 + penalty |weights|^2.

  They come from an eigendecomposition of X^T X or X X^T, whichever is smaller. Apart from float64
  copies of the arguments, no array is larger than min(N, D)^2 or D K.

  Args:
    features: (N, D), standardized. Add a constant column to get a bias.
    targets: (N, K).
    penalty: greater than 0, so that the solution is unique for features of any rank.

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
  """A linear classifier of features that it standardizes first."""

  mean: np.ndarray  # (D,) of the features it was fitted to
  std: np.ndarray  # (D,)
  weights: np.ndarray  # (D + 1, K), the last row is the bias

  def scores(self, features: np.ndarray) -> np.ndarray:
    """Return the score of each class, (N, D) -> (N, K) float64. The highest is the prediction."""
    return _standardize(features, self.mean, self.std) @ self.weights


def fit_classifier(
  features: np.ndarray, labels: np.ndarray, num_classes: int, penalty: float = PENALTY
) -> Classifier:
  """Fit a classifier as in the paper's few-shot evaluation (section 4.1).

  It is a ridge regression from features to {-1, 1}^K. The features are standardized by their mean
  and standard deviation + 1e-5.

  Args:
    features: (N, D).
    labels: (N,) int in [0, num_classes).
    num_classes: K.
    penalty: weight of the squared norm of the weights.
  """
  mean = features.mean(axis=0, dtype=np.float64)
  std = features.std(axis=0, dtype=np.float64) + 1e-5
  targets = np.full((len(labels), num_classes), -1.0)
  targets[np.arange(len(labels)), labels] = 1
  return Classifier(mean, std, ridge(_standardize(features, mean, std), targets, penalty))


def _standardize(features: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
  """Return standardized features and a constant column, (N, D) -> (N, D + 1) float64."""
  out = np.empty((len(features), len(mean) + 1))
  np.subtract(features, mean, out=out[:, :-1])
  out[:, :-1] /= std
  out[:, -1] = _CONSTANT
  return out
