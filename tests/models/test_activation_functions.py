"""Activations keep only their input, and their derivatives are those of JAX."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.activation_functions import ACTIVATIONS

PLAIN = {
  'gelu_tanh': lambda x: nn.gelu(x, approximate=True),
  'gelu': lambda x: nn.gelu(x, approximate=False),
  'quick_gelu': lambda x: x * nn.sigmoid(1.702 * x),
}
X = np.concatenate([np.linspace(-12, 12, 4001), [-1e4, -100.0, 100.0, 1e4]]).astype(np.float32)


def test_every_activation_has_a_plain_one():
  assert set(PLAIN) == set(ACTIVATIONS)


@pytest.mark.parametrize('name', PLAIN)
def test_values_and_gradients_are_those_of_plain_functions(name):
  def both(function, x):
    y, backward = jax.vjp(function, x)
    return y, *backward(jnp.ones_like(y))

  (y, dx), (expected, slope) = both(ACTIVATIONS[name], X), both(PLAIN[name], X)
  np.testing.assert_array_equal(y, expected)
  np.testing.assert_allclose(dx, slope, rtol=1e-5, atol=5e-6)
  _, rounded = both(ACTIVATIONS[name], jnp.asarray(X, jnp.bfloat16))
  _, slope = both(PLAIN[name], jnp.asarray(X, jnp.bfloat16).astype(jnp.float32))
  assert rounded.dtype == jnp.bfloat16
  np.testing.assert_allclose(rounded.astype(np.float32), slope, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize('name', PLAIN)
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_only_the_input_is_kept(name, dtype):
  kept = lambda function: [
    (x.shape, x.dtype)
    for x in jax.tree.leaves(jax.vjp(function, jnp.ones((5, 7), dtype))[1])
    if x.size > 1
  ]
  assert kept(ACTIVATIONS[name]) == [((5, 7), dtype)]
  assert len(kept(PLAIN[name])) > 1  # so the test can fail
