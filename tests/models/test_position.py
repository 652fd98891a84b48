"""Position embeddings (paper D.4)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import create_model
from vit_jax.models.dot_product_attention import relative_logits
from vit_jax.models.position import PLACES, POSITIONS, sincos2d
from vit_jax.pretrained.load import abstract_params

IMAGES = np.random.default_rng(0).uniform(-1, 1, (3, 16, 24, 3)).astype(np.float32)


def tiny(**overrides):
  """Return a model of two blocks over a grid of 2 x 3 patches."""
  return create_model(
    'ViT-Ti/8',
    **{
      **dict(
        num_classes=5, image_size=(16, 24), hidden_dim=32, mlp_dim=48, num_heads=2, num_layers=2
      ),
      **overrides,
    },
  )


def draw(model, seed=0):
  """Draw parameters without zeros, so that every one of them matters."""
  leaves, tree = jax.tree.flatten(abstract_params(model))
  rng = np.random.default_rng(seed)
  return jax.tree.unflatten(tree, [rng.normal(0, 0.3, x.shape).astype(np.float32) for x in leaves])


def apply(model, params, images=IMAGES, **kwargs):
  return jax.jit(functools.partial(model.apply, **kwargs))({'params': params}, images)


def test_sincos2d():
  table = sincos2d((3, 5), 8)
  assert table.shape == (15, 8)
  np.testing.assert_array_equal(table[0], [0, 0, 1, 1, 0, 0, 1, 1])
  y, x = 2, 4  # the last row, at frequencies 1 and 1e-4
  want = [
    np.sin(x),
    np.sin(x * 1e-4),
    np.cos(x),
    np.cos(x * 1e-4),
    np.sin(y),
    np.sin(y * 1e-4),
    np.cos(y),
    np.cos(y * 1e-4),
  ]
  np.testing.assert_allclose(table[14], want, atol=1e-6)
  table = sincos2d((6, 6), 64).reshape(6, 6, 64)  # products depend only on the offset
  np.testing.assert_allclose(
    np.sum(table[0, 0] * table[1, 3]), np.sum(table[4, 2] * table[5, 5]), rtol=1e-5
  )


def test_relative_logits_use_the_embedding_of_each_offset():
  rng = np.random.default_rng(0)
  q, table = rng.normal(size=(2, 3, 5, 4)), rng.normal(size=(9, 3, 4))
  want = np.empty((2, 3, 5, 5))
  for l in range(5):
    for m in range(5):
      want[:, :, l, m] = np.einsum('bhk,hk->bh', q[:, :, l], table[m - l + 4])
  got = jax.jit(relative_logits)(q.astype(np.float32), table.astype(np.float32))
  np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(
  'kind, at, added',
  [
    ('none', 'stem', 0),
    ('sincos2d', 'every', 0),
    ('learned', 'stem', 7 * 32),
    ('learned', 'shared', 7 * 32),
    ('learned', 'every', 2 * 7 * 32),
    ('learned2d', 'stem', (2 + 3) * 16),
    ('learned2d', 'every', 2 * (2 + 3) * 16),
    ('relative', 'stem', 2 * 13 * 32),
    ('relative', 'shared', 13 * 32),
  ],
)
def test_parameters_added(kind, at, added):
  count = lambda model: sum(x.size for x in jax.tree.leaves(abstract_params(model)))
  without = count(tiny(pos_embedding='none'))
  assert count(tiny(pos_embedding=kind, pos_embedding_at=at)) == without + added


def copy_to_blocks(params, source, name):
  """Move the encoder's one embedding `source` into each block, under `name`."""
  encoder = dict(params['Transformer'])
  table = encoder.pop(source)
  for i in range(2):
    block = dict(encoder[f'encoderblock_{i}'])
    encoder[f'encoderblock_{i}'] = {**block, name: table}
  return {**params, 'Transformer': encoder}


@pytest.mark.parametrize('kind', ['learned', 'learned2d', 'relative'])
def test_shared_is_every_with_equal_embeddings(kind):
  shared = tiny(pos_embedding=kind, pos_embedding_at='shared')
  params = draw(shared)
  name = 'relative_position' if kind == 'relative' else 'posembed_input'
  every = copy_to_blocks(params, name, name)
  got = apply(tiny(pos_embedding=kind, pos_embedding_at='every'), every)
  np.testing.assert_allclose(got, apply(shared, params), atol=1e-5)


def test_once_is_every_with_zeros_after_the_first():
  once = tiny()
  params = draw(once)
  every = copy_to_blocks(params, 'posembed_input', 'posembed_input')
  zeros = jax.tree.map(jnp.zeros_like, every['Transformer']['encoderblock_1']['posembed_input'])
  every['Transformer']['encoderblock_1']['posembed_input'] = zeros
  got = apply(tiny(pos_embedding_at='every'), every)
  np.testing.assert_allclose(got, apply(once, params), atol=1e-5)


@pytest.mark.parametrize('kind', ['learned2d', 'sincos2d'])
def test_two_dimensional_kinds_are_a_learned_one_of_that_form(kind):
  model = tiny(pos_embedding=kind)
  params = draw(model)
  if kind == 'learned2d':
    rows, columns = (params['Transformer']['posembed_input'][k] for k in ('rows', 'columns'))
    table = np.array([[0] * 32] + [[*rows[y], *columns[x]] for y in range(2) for x in range(3)])
  else:
    table = np.concatenate([np.zeros((1, 32)), sincos2d((2, 3), 32)])
  as_learned = {
    **params,
    'Transformer': {**params['Transformer'], 'posembed_input': {'pos_embedding': table[None]}},
  }
  np.testing.assert_allclose(apply(tiny(), as_learned), apply(model, params), atol=1e-5)


@pytest.mark.parametrize('kind, knows', [('none', False), ('sincos2d', True), ('relative', True)])
def test_only_a_position_embedding_knows_the_order(kind, knows):
  model = tiny(pos_embedding=kind, head='gap')
  params = draw(model)
  patches = IMAGES.reshape(3, 2, 8, 3, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(3, 6, 8, 8, 3)
  patches = patches[:, [3, 1, 5, 0, 2, 4]].reshape(3, 2, 3, 8, 8, 3)
  moved = patches.transpose(0, 1, 3, 2, 4, 5).reshape(IMAGES.shape)
  difference = np.abs(apply(model, params) - apply(model, params, moved)).max()
  assert difference > 1e-3 if knows else difference < 1e-5


@pytest.mark.parametrize('kind', POSITIONS)
@pytest.mark.parametrize('at', PLACES)
def test_every_position_embedding_is_learned(kind, at):
  model = tiny(pos_embedding=kind, pos_embedding_at=at, head='gap')
  loss = lambda p: jnp.std(model.apply({'params': p}, IMAGES))
  grads = jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(draw(model)))
  tables = [g for path, g in grads if 'position' in str(path) or 'posembed' in str(path)]
  assert bool(tables) == (kind in ('learned', 'learned2d', 'relative'))
  assert all(np.abs(g).max() > 1e-6 for g in tables)
