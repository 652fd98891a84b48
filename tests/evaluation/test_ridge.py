"""The ridge solution equals that of scikit-learn."""

import tracemalloc

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from vit_jax.evaluation.ridge import fit_classifier, ridge


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize(
  'n, d, rank',
  [(60, 20, 20), (20, 60, 20), (40, 40, 40), (60, 20, 7), (20, 60, 7), (1, 5, 1), (50, 1, 1)],
)
@pytest.mark.parametrize('penalty', [0.1, 2.0**10])
def test_ridge_equals_scikit_learn(n, d, rank, dtype, penalty):
  rng = np.random.default_rng(n + d)
  features = rng.normal(size=(n, rank)) @ rng.normal(size=(rank, d))
  features = np.append(features, np.full((n, 1), 100), axis=1).astype(dtype)
  targets = np.where(rng.random((n, 3)) < 0.3, 1, -1).astype(dtype)
  weights = ridge(features, targets, penalty)
  assert weights.dtype == np.float64
  expected = (
    Ridge(alpha=penalty, fit_intercept=False, solver='svd')
    .fit(features.astype(float), targets.astype(float))
    .coef_.T
  )
  np.testing.assert_allclose(weights, expected, atol=1e-9)


@pytest.mark.parametrize('n, d', [(3000, 20), (20, 3000)])
def test_ridge_takes_no_more_memory_than_documented(n, d):
  features = np.random.default_rng(0).normal(size=(n, d))
  tracemalloc.start()
  ridge(features, np.ones((n, 3)), 1.0)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < features.nbytes  # a 150th of (3000, 3000)


def test_the_classifier_is_that_of_the_protocol():
  rng = np.random.default_rng(0)
  labels = np.repeat(np.arange(4), 5)
  features = (rng.normal(size=(20, 8)) * 3 + labels[:, None]).astype(np.float32)
  features[:, 3] = 7.7  # constant among the shots
  others = rng.normal(size=(50, 8)) * 3
  mean, std = features.astype(float).mean(0), features.astype(float).std(0) + 1e-5
  x, y = (np.c_[(f - mean) / std, np.full(len(f), 100)] for f in (features, others))
  expected = Ridge(alpha=1024, fit_intercept=False).fit(x, 2 * np.eye(4)[labels] - 1)
  classifier = fit_classifier(features, labels, 4)
  assert classifier.weights.shape == (9, 4)
  np.testing.assert_allclose(classifier.weights, expected.coef_.T, atol=1e-8)
  np.testing.assert_allclose(classifier.scores(others), expected.predict(y), atol=1e-8)
