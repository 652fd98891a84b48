"""Linear layers multiply as their equation says, and sum the gradients of biases in float32."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.linear import Linear, add_broadcast

RNG = np.random.default_rng(0)
EQUATIONS = {
  'bld,dm->blm': ((2, 5, 6), (6, 4)),
  'bld,dhk->blhk': ((2, 5, 6), (6, 3, 2)),
  'bld,dhk->bhlk': ((2, 5, 6), (6, 3, 2)),
  'blhk,hkd->bld': ((2, 5, 3, 2), (3, 2, 6)),
  'bhlk,hkd->bld': ((2, 3, 5, 2), (3, 2, 6)),
}


def normal(shape):
  return jnp.asarray(RNG.normal(size=shape), jnp.float32)


@pytest.mark.parametrize('use_bias', [True, False])
@pytest.mark.parametrize('equation', EQUATIONS)
def test_it_is_flax_s_einsum(equation, use_bias):
  x, shape = normal(EQUATIONS[equation][0]), EQUATIONS[equation][1]
  init = nn.initializers.normal(1.0)
  ours = Linear(equation, shape, jnp.float32, init, bias_init=init, use_bias=use_bias)
  theirs = nn.Einsum(
    shape, equation, dtype=jnp.float32, kernel_init=init, bias_init=init, use_bias=use_bias
  )
  params = ours.init(jax.random.key(0), x)
  jax.tree.map(np.testing.assert_array_equal, params, theirs.init(jax.random.key(0), x))

  def value_and_gradients(layer):
    y, backward = jax.vjp(layer.apply, params, x)
    return y, *backward(jnp.cos(y))

  for a, b in zip(
    jax.tree.leaves(value_and_gradients(ours)), jax.tree.leaves(value_and_gradients(theirs))
  ):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_bias_gets_a_sum_that_bfloat16_cannot_count_to():
  """In bfloat16, 256 + 1 is 256."""
  layer = Linear('bld,dm->blm', (2, 3), jnp.bfloat16, nn.initializers.ones)
  x = jnp.ones((100, 50, 2), jnp.bfloat16)
  params = layer.init(jax.random.key(0), x)
  loss = lambda params: layer.apply(params, x).astype(jnp.float32).sum()
  bias = jax.jit(jax.grad(loss))(params)['params']['bias']
  assert bias.dtype == jnp.float32
  np.testing.assert_array_equal(bias, 5000)


def test_gradients_have_the_type_of_their_parameters():
  layer = Linear('bld,dm->blm', (2, 3), jnp.bfloat16, nn.initializers.ones)
  x = jnp.ones((4, 5, 2), jnp.bfloat16)
  params = jax.tree.map(lambda a: a.astype(jnp.bfloat16), layer.init(jax.random.key(0), x))
  gradients = jax.grad(lambda params: layer.apply(params, x).sum())(params)
  assert {a.dtype for a in jax.tree.leaves(gradients)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize('shape', [(1, 5, 6), (1, 1, 6), (1, 5, 1), (2, 5, 6)])
def test_a_sum_s_gradient_is_summed_over_the_repeated_axes(shape):
  x, small, gradient = normal((2, 5, 6)), normal(shape), normal((2, 5, 6))
  y, backward = jax.vjp(add_broadcast, x, small)
  expected, expected_backward = jax.vjp(jnp.add, x, small)
  np.testing.assert_array_equal(y, expected)
  for a, b in zip(backward(gradient), expected_backward(gradient)):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
