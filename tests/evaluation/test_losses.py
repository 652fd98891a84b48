import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import InputError
from vit_jax.evaluation.losses import cross_entropy, to_probabilities


@pytest.mark.parametrize('kind', ['softmax', 'sigmoid'])
@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_cross_entropy_equals_its_definition(kind, smoothing):
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(5, 7)) * 3
  labels = rng.integers(0, 7, 5)
  target = np.eye(7)[labels] * (1 - smoothing) + smoothing / 7
  if kind == 'softmax':
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    want = -(target * np.log(p)).sum(-1)
  else:
    p = 1 / (1 + np.exp(-logits))
    want = -(target * np.log(p) + (1 - target) * np.log(1 - p)).sum(-1)
  got = cross_entropy(
    jnp.asarray(logits, jnp.float32), labels, kind=kind, label_smoothing=smoothing
  )
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_cross_entropy_is_finite_at_extreme_logits():
  logits = jnp.array([[1e4, -1e4]])
  for kind in ('softmax', 'sigmoid'):
    assert np.isfinite(cross_entropy(logits, jnp.array([1]), kind=kind)).all()


def test_multi_hot_labels():
  """The loss equals the sum of binary losses over all classes, also with a wider head."""
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(size=(7, 5)).astype(np.float32), rng.integers(0, 2, (7, 4), np.uint8)
  wide = np.pad(labels, ((0, 0), (0, 1)))
  p = 1 / (1 + np.exp(-logits.astype(np.float64)))
  expected = -np.where(wide, np.log(p), np.log(1 - p)).sum(1)
  losses = lambda labels, **how: cross_entropy(logits, labels, **how)
  np.testing.assert_allclose(losses(labels, kind='sigmoid'), expected, rtol=1e-5)
  one = rng.integers(0, 5, 7)
  hot = np.eye(5, dtype=np.uint8)[one]
  for kind in ('softmax', 'sigmoid'):
    np.testing.assert_array_equal(
      losses(one, kind=kind, label_smoothing=0.1), losses(hot, kind=kind, label_smoothing=0.1)
    )


def test_unknown_loss():
  with pytest.raises(InputError, match=r"^Unknown loss 'hinge'\. Available: softmax, sigmoid\.$"):
    cross_entropy(jnp.zeros((1, 2)), jnp.zeros(1, int), kind='hinge')


def test_probabilities():
  logits = jnp.log(jnp.array([[1.0, 3.0]]))
  np.testing.assert_allclose(to_probabilities(logits, 'softmax'), [[1 / 4, 3 / 4]], rtol=1e-6)
  np.testing.assert_allclose(to_probabilities(logits, 'sigmoid'), [[1 / 2, 3 / 4]], rtol=1e-6)
