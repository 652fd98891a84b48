"""LayerNorm equals Flax's, and its gradients are those of float32."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.norm import LayerNorm

RNG = np.random.default_rng(0)
SHAPE = (4, 9, 24)


def tokens(dtype):
  return jnp.asarray(RNG.normal(2, 3, SHAPE), dtype)


PARAMS = {'scale': jnp.asarray(RNG.normal(1, 1, 24), jnp.float32),
          'bias': jnp.asarray(RNG.normal(size=24), jnp.float32)}  # fmt: skip


def value_and_gradients(layer, params, x, gradient):
  apply = lambda params, x: layer.apply({'params': params}, x)
  y, backward = jax.vjp(apply, params, x)
  return y, *backward(gradient.astype(y.dtype))


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_values_are_flax_s_bit_for_bit(dtype):
  x = tokens(dtype)
  ours, theirs = LayerNorm(1e-6, dtype), nn.LayerNorm(1e-6, dtype)
  init = [layer.init(jax.random.key(0), x) for layer in (ours, theirs)]
  jax.tree.map(np.testing.assert_array_equal, *init)
  apply = lambda layer: jax.jit(layer.apply)({'params': PARAMS}, x)
  assert apply(ours).dtype == dtype
  np.testing.assert_array_equal(apply(ours), apply(theirs))


def test_gradients_are_flax_s():
  x, gradient = tokens(jnp.float32), tokens(jnp.float32)
  ours = value_and_gradients(LayerNorm(1e-6, jnp.float32), PARAMS, x, gradient)
  theirs = value_and_gradients(nn.LayerNorm(1e-6, dtype=jnp.float32), PARAMS, x, gradient)
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
    np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


def test_gradients_in_bfloat16_are_rounded_once():
  x, gradient = tokens(jnp.bfloat16), tokens(jnp.bfloat16)
  _, params, dx = value_and_gradients(LayerNorm(1e-6, jnp.bfloat16), PARAMS, x, gradient)
  _, exact_params, exact_dx = value_and_gradients(
    nn.LayerNorm(1e-6, dtype=jnp.float32), PARAMS, x.astype(jnp.float32), gradient
  )
  assert dx.dtype == jnp.bfloat16
  np.testing.assert_allclose(dx.astype(np.float32), exact_dx, rtol=2**-8, atol=1e-5)
  for name in PARAMS:
    assert params[name].dtype == jnp.float32
    np.testing.assert_allclose(params[name], exact_params[name], atol=1e-4)


def test_a_constant_token_gets_finite_gradients():
  x = jnp.full(SHAPE, 7.0)
  for a in jax.tree.leaves(
    value_and_gradients(LayerNorm(1e-6, jnp.float32), PARAMS, x, tokens(jnp.float32))
  ):
    assert np.isfinite(a).all()
