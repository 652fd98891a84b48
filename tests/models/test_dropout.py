"""The masks of dropout: random enough, functions of the example, and never stored."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.cost import hlo
from vit_jax.models.dropout import Dropout, StochasticDepth, dropout_mask, fold_in
from vit_jax.models.layers import MlpBlock
from vit_jax.models.scan import apply_blocks

draw = jax.jit(dropout_mask, static_argnums=1)


def keys(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


def standardized(mask, rate):
  return (np.asarray(mask, np.float32) - (1 - rate)) / np.float32(math.sqrt(rate * (1 - rate)))


def test_masks_do_not_change_between_versions():
  mask = dropout_mask(keys(2), (3, 8), 0.5)
  rows = [''.join('.x'[int(keep)] for keep in row) for row in np.asarray(mask).reshape(6, 8)]
  assert rows == ['.xxxxxxx', 'x......x', '..x..x.x', 'x.xx.x.x', '.xx.x.x.', 'xxx.....']


@pytest.mark.parametrize('rate', [0.001, 0.1, 0.5, 0.9])
def test_rate(rate):
  n = 4 * 500 * 500
  kept = np.asarray(draw(keys(4), (500, 500), rate)).mean()
  assert abs(1 - kept - rate) < 5 * math.sqrt(rate * (1 - rate) / n)


def test_a_rate_of_zero_keeps_everything():
  assert np.all(dropout_mask(keys(2), (300, 300), 0.0))


@pytest.mark.parametrize('rate', [0.1, 0.5])
def test_rows_and_columns_are_as_full_as_if_elements_were_independent(rate):
  """The sums of n independent elements have variance n. With m sums, it is known to sqrt(2/m)."""
  x = standardized(draw(keys(4), (500, 500), rate), rate)
  for axis in (1, 2):
    variance = (x.sum(axis=axis, dtype=np.float64) ** 2).mean() / 500
    assert abs(variance - 1) < 5 * math.sqrt(2 / 2000)


@pytest.mark.parametrize('rate', [0.1, 0.5])
def test_neighbors_are_independent(rate):
  x = standardized(draw(keys(4), (500, 500), rate), rate)
  for rows, columns in [(0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (0, 128), (5, 16)]:
    a, b = x[:, rows:, columns:], x[:, : 500 - rows, : 500 - columns]
    assert abs((a * b).mean()) < 5 / math.sqrt(a.size), (rows, columns)


@pytest.mark.parametrize('rate', [0.1, 0.5])
def test_the_corners_of_rectangles_are_independent(rate):
  """Their XORs before the hash are not. The mean is over all rectangles of a mask.

  The sum over pairs of rows of the squared products of two rows has all rectangles twice, and the
  squares of single elements, which are taken off.
  """
  n = 1000
  x = standardized(draw(keys(1), (n, n), rate)[0], rate)
  products, squares = x @ x.T, (x * x) @ (x * x).T
  pairs = np.triu_indices(n, 1)
  total = (products[pairs].astype(np.float64) ** 2 - squares[pairs]).sum() / 2
  assert abs(total) < 5 * n * (n - 1) / 2  # the square root of the number of rectangles
  vector = np.ones(n, np.float32)
  for _ in range(50):
    vector = products @ vector
    vector /= np.linalg.norm(vector)
  # The singular values of a matrix of independent elements end at 2 sqrt(n).
  assert np.linalg.norm(x.T @ vector) < 2.05 * math.sqrt(n)


def test_examples_sites_and_steps_have_masks_of_their_own():
  """They are independent of each other, element by element."""
  ones = jnp.ones((4, 200, 300))

  @jax.jit
  def mask(step, block, site):
    step_key = jax.random.fold_in(jax.random.key(0), step)
    examples = jax.vmap(jax.random.fold_in, (None, 0))(step_key, jnp.arange(4))
    return Dropout(0.3, site)(ones, fold_in(examples, block)) != 0

  masks = [mask(*places) for places in itertools.product(range(2), range(2), range(3))]
  x = standardized(masks, 0.3).reshape(-1, 200 * 300)
  correlations = x @ x.T / x.shape[1]
  np.testing.assert_allclose(correlations, np.eye(len(x)), atol=6 / math.sqrt(x.shape[1]))


@pytest.mark.parametrize('shape', [(6, 10), (7,), (2, 3, 5)])
def test_a_mask_depends_on_its_key_alone(shape):
  whole = dropout_mask(keys(6), shape, 0.4)
  assert whole.shape == (6, *shape)
  order = np.array([4, 0, 5])
  assert np.array_equal(dropout_mask(keys(6)[order], shape, 0.4), whole[order])
  assert np.array_equal(draw(keys(6)[:1], shape, jnp.float32(0.4)), whole[:1])


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_kept_elements_are_rescaled_forward_and_backward(dtype):
  x = jnp.linspace(1, 2, 4 * 50 * 60).reshape(4, 50, 60).astype(dtype)
  apply = lambda x: Dropout(0.1, site=0)(x, keys(4))
  y, backward = jax.vjp(apply, x)
  kept = np.asarray(y != 0)
  assert y.dtype == dtype and 0.85 < kept.mean() < 0.95
  exact = np.where(kept, x.astype(np.float32) / np.float32(0.9), 0)
  y32 = np.asarray(y, np.float32)
  np.testing.assert_allclose(y32, exact, rtol=1e-6 if dtype == jnp.float32 else 2**-8)
  # The factor itself is not rounded to bfloat16, which would make the mean wrong by 2e-3.
  assert abs(y32.sum() / exact.sum() - 1) < 2e-4
  assert np.array_equal(backward(x)[0], y)


@pytest.mark.parametrize('layer', [Dropout(0.5, site=0), StochasticDepth(site=3)])
def test_the_backward_pass_keeps_keys_and_no_mask(layer):
  x = jnp.ones((4, 50, 60))
  more = () if isinstance(layer, Dropout) else (np.float32(0.5),)
  _, backward = jax.vjp(lambda x: layer(x, keys(4), *more), x)
  sizes = [leaf.size for leaf in jax.tree.leaves(backward)]
  assert sizes and max(sizes) <= 8, sizes


def integer_arrays(text):
  """Return the sizes of the integer and boolean arrays between the kernels of a program."""
  program = hlo.parse_program(text)
  return [
    math.prod(int(n) for n in array.dims.split(',') if n)
    for name in hlo.kernel_computations(program)
    for i in program.computations[name].values()
    for array in i.arrays
    if array.dtype.startswith(('s', 'u', 'pred'))
  ]


def test_the_mask_is_computed_where_it_is_applied():
  """No kernel reads or writes an array of integers or booleans that has the size of the mask."""
  x = jnp.ones((4, 50, 60))
  loss = lambda x, keys: jnp.sum(jnp.sin(Dropout(0.5, site=0)(x, keys)))
  text = jax.jit(jax.value_and_grad(loss)).lower(x, keys(4)).compile().as_text()
  sizes = integer_arrays(text)
  assert sizes and max(sizes) < x.size / 10
  mask = lambda x, keys: dropout_mask(keys, x.shape[1:], 0.5)
  assert max(integer_arrays(jax.jit(mask).lower(x, keys(4)).compile().as_text())) == x.size


@pytest.mark.parametrize('scan, remat', [(False, 'none'), (True, 'none'), (True, 'dots')])
def test_blocks_store_no_mask(scan, remat):
  b, l, d, mlp_dim = 8, 37, 32, 64
  block = MlpBlock(mlp_dim, 0.1, 'gelu', jnp.float32)
  x = jnp.ones((b, l, d))
  params = block.init(jax.random.key(0), x, None)

  def loss(params, x, keys):
    apply = lambda z, inputs: block.apply(inputs[0], z, fold_in(keys, inputs[1]))
    z = apply_blocks(apply, x, [(params, 0), (params, 1)], scan=scan, remat=remat)
    return jnp.sum(z**2)

  lowered = jax.jit(jax.grad(loss, (0, 1))).lower(params, x, keys(b))
  sizes = integer_arrays(lowered.compile().as_text())
  # Less than the mask of the narrower layer, and a scan stacks nothing of this size.
  assert sizes and max(sizes) < b * l * d / 2
