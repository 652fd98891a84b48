"""Dropout and stochastic depth: rates, dependence on the example, and nothing else changes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import create_model
from vit_jax.errors import InputError
from vit_jax.models.dropout import StochasticDepth
from vit_jax.models.sizes import Variant
from vit_jax.models.vit import VisionTransformer

RATE = 0.5
IMAGES = np.random.default_rng(0).uniform(-1, 1, (8, 16, 16, 3)).astype(np.float32)


def mini(num_layers=3, **overrides):
  return VisionTransformer(
    Variant(16, 32, 2, num_layers), 8, (16, 16), 5, **{'stochastic_depth': RATE, **overrides}
  )


@functools.cache
def params(**overrides):
  """Return random parameters. Biases and the head are not zero, so logits show every branch."""
  tree = jax.jit(mini(**overrides).init)(jax.random.key(0), IMAGES)['params']
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda x: x + rng.normal(0, 0.3, x.shape).astype(x.dtype), tree)


@pytest.mark.parametrize('rate', [0.0, 0.1, 0.7])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_branches_of_whole_examples_are_dropped_and_the_rest_rescaled(rate, dtype):
  n = 4000
  keys = jax.random.split(jax.random.key(0), n)
  branch = jnp.arange(1.0, 7.0).reshape(1, 2, 3).repeat(n, axis=0).astype(dtype)
  drop = lambda *inputs: StochasticDepth(3)(*inputs)
  for function in (drop, jax.jit(drop)):  # with the rate as a number and traced
    out = function(branch, keys, np.float32(rate))
    assert out.dtype == dtype
    kept = np.asarray(out[:, 0, 0] != 0)
    assert abs(1 - kept.mean() - rate) <= 4 * np.sqrt(rate * (1 - rate) / n)
    expected = np.where(kept[:, None, None], branch.astype(np.float32) / np.float32(1 - rate), 0)
    np.testing.assert_allclose(
      out.astype(np.float32), expected, rtol=1e-6 if dtype == jnp.float32 else 2**-8
    )
  other = StochasticDepth(4)(branch, keys, np.float32(rate))[:, 0, 0] != 0
  # Sites are independent of each other.
  assert abs((kept & other).mean() - (1 - rate) ** 2) < 4 * np.sqrt(0.25 / n)


def test_off_is_the_branch_itself():
  branch, keys = jnp.ones((2, 3, 4)), jax.random.split(jax.random.key(0), 2)
  assert StochasticDepth(3)(branch, None, np.float32(0.5)) is branch
  assert StochasticDepth(3)(branch, keys, None) is branch


def test_rates_rise_linearly_from_zero():
  """A block adds nothing if it drops both branches, so the rate shows in how often it does."""
  model, n = mini(num_layers=4), 2000
  tree = params(num_layers=4)
  apply = jax.jit(
    lambda x: model.apply(
      {'params': tree},
      x,
      train=True,
      rngs={'dropout': jax.random.key(0)},
      capture_intermediates=lambda m, _: (m.name or '').startswith('encoderblock_'),
      mutable='intermediates',
    )[1]
  )
  seen = apply(jnp.repeat(IMAGES[:1], n, axis=0))['intermediates']['Transformer']
  after = [np.asarray(seen[f'encoderblock_{i}']['__call__'][0][:, 0]) for i in range(4)]
  assert np.ptp(after[0], axis=0).max() < 1e-5  # equal images, and the first block drops none
  for i, rate in ((1, RATE / 3), (2, 2 * RATE / 3), (3, RATE)):
    unchanged = np.abs(after[i] - after[i - 1]).max(axis=1) < 1e-6
    assert abs(unchanged.mean() - rate**2) < 4 * np.sqrt(rate**2 * (1 - rate**2) / n), i


@pytest.mark.parametrize('overrides', [dict(dropout=0.2), dict(attention='axial', head='gap')])
def test_a_function_of_the_example_not_of_the_batch(overrides):
  model, tree = mini(**overrides), params(**overrides)
  image = jnp.asarray(IMAGES[:1])
  apply = jax.jit(
    lambda examples, seed=0: model.apply(
      {'params': tree},
      image.repeat(len(examples), axis=0),
      train=True,
      examples=examples,
      rngs={'dropout': jax.random.key(seed)},
    )
  )
  order = np.arange(8)
  whole = apply(order)
  halves = jnp.concatenate([apply(order[:4]), apply(order[4:])])
  np.testing.assert_allclose(halves, whole, atol=1e-5)
  np.testing.assert_allclose(apply(order[::-1]), whole[::-1], atol=1e-5)
  assert len(np.unique(np.round(whole, 4), axis=0)) > 4  # same image, other branches
  assert np.abs(whole - apply(order, 1)).max() > 1e-3


def value_and_grad(tree, **overrides):
  model = mini(**overrides)
  loss = lambda p: jnp.sum(
    model.apply({'params': p}, IMAGES, train=True, rngs={'dropout': jax.random.key(0)}) ** 2
  )
  return jax.jit(jax.value_and_grad(loss))(tree)


@functools.cache
def untransformed(**overrides):
  return value_and_grad(params(**overrides), **overrides)


@pytest.mark.parametrize(
  'overrides, transform',
  [
    (dict(dropout=0.2), dict(scan=True)),
    (dict(dropout=0.2), dict(remat='dots')),
    (dict(dropout=0.2), dict(scan=True, remat='full')),
    (dict(attention='axial', head='gap'), dict(scan=True)),
  ],
)
def test_scan_and_remat_change_nothing(overrides, transform):
  expected, expected_grads = untransformed(**overrides)
  got, grads = value_and_grad(params(**overrides), **overrides, **transform)
  np.testing.assert_allclose(got, expected, rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), grads, expected_grads
  )


def test_the_mean_over_draws_is_the_whole_model_where_it_is_linear():
  """If the last block adds a constant, dropping and rescaling do not change the mean."""
  model = mini(num_layers=2)
  tree = params(num_layers=2)
  zero = jax.tree.map(jnp.zeros_like, tree['Transformer']['encoderblock_1'])
  bias = zero['MlpBlock_0']['Dense_1'] | {'bias': jnp.arange(16.0)}
  zero = zero | {'MlpBlock_0': zero['MlpBlock_0'] | {'Dense_1': bias}}
  tree = tree | {'Transformer': tree['Transformer'] | {'encoderblock_1': zero}}

  @functools.partial(jax.jit, static_argnums=(0, 1))
  def output(n, train):
    out = model.apply(
      {'params': tree},
      jnp.repeat(IMAGES[:1], n, axis=0),
      train=train,
      rngs={'dropout': jax.random.key(0)},
      mutable='intermediates',
      capture_intermediates=lambda m, _: m.name == 'encoderblock_1',
    )
    return out[1]['intermediates']['Transformer']['encoderblock_1']['__call__'][0][:, 0]

  n = 2000
  trained, whole = np.asarray(output(n, True)), output(1, False)
  assert np.ptp(trained[:, -1]) == pytest.approx(15 / (1 - RATE), rel=1e-4)
  error = 4 * np.arange(16) * np.sqrt(RATE / (1 - RATE) / n)
  assert (np.abs(trained.mean(0) - whole[0]) <= error + 1e-4).all()


def test_evaluation_and_parameters_are_those_without():
  with_it, without = mini(), mini(stochastic_depth=0.0)
  shapes = lambda model: jax.eval_shape(model.init, jax.random.key(0), IMAGES)
  assert jax.tree.map(str, shapes(with_it)) == jax.tree.map(str, shapes(without))
  run = lambda model: jax.jit(model.apply)({'params': params()}, IMAGES)
  np.testing.assert_array_equal(run(with_it), run(without))


def test_nothing_is_drawn_or_computed_without():
  """train=True needs no key, and the program is that of train=False."""
  model = mini(stochastic_depth=0.0)
  text = lambda train: (
    jax.jit(functools.partial(model.apply, train=train))
    .lower({'params': params()}, IMAGES)
    .as_text()
  )
  assert text(True) == text(False)


@pytest.mark.parametrize('rate', [-0.1, 1.0, 1.5])
def test_a_rate_out_of_range_is_an_input_error(rate):
  with pytest.raises(InputError, match=rf'stochastic_depth must be in \[0, 1\), but it is {rate}.'):
    create_model('ViT-Ti/16', num_classes=3, stochastic_depth=rate)


def test_bit_has_none():
  create_model('BiT-R50x1', num_classes=3, stochastic_depth=0.0, layer_scale=0.0)
  with pytest.raises(InputError, match="Unknown BiT-R50x1 field 'stochastic_depth'. "):
    create_model('BiT-R50x1', num_classes=3, stochastic_depth=0.1)
