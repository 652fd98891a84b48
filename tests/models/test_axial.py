"""Axial attention (paper D.6)."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.test_position import IMAGES, apply, draw, tiny
from vit_jax.models.axial import join_lines, split_lines
from vit_jax.models.layers import BlockConfig
from vit_jax.models.vit import EncoderBlock


@pytest.mark.parametrize('axis', ['row', 'column'])
def test_lines_are_the_rows_or_columns_of_the_grid(axis):
  grid = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)  # (B, H, W, D)
  want = grid if axis == 'row' else grid.transpose(0, 2, 1, 3)
  x = grid.reshape(2, 12, 5)
  lines = split_lines(x, (3, 4), axis)
  np.testing.assert_array_equal(lines, np.concatenate(want))
  np.testing.assert_array_equal(join_lines(lines, (3, 4), axis), x)


def test_an_axial_block_attends_along_rows_then_along_columns():
  model = tiny(attention='axial', head='gap', pos_embedding='none', num_layers=1, num_classes=0)
  params = draw(model)
  block = EncoderBlock(BlockConfig(num_heads=2, mlp_dim=48, grid=(2, 3)))
  inner = params['Transformer']['encoderblock_0']
  run = lambda name, x: block.apply({'params': inner[name]}, x)
  embedding = params['embedding']
  patches = IMAGES.reshape(3, 2, 8, 3, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(3, 2, 3, -1)
  x = patches @ embedding['kernel'].reshape(-1, 32) + embedding['bias']
  x = jnp.stack([run('row', x[:, y]) for y in range(2)], axis=1)
  x = jnp.stack([run('column', x[:, :, c]) for c in range(3)], axis=2)
  want = nn.LayerNorm(epsilon=1e-6).apply({'params': params['Transformer']['encoder_norm']}, x)
  np.testing.assert_allclose(apply(model, params), want.mean(axis=(1, 2)), atol=1e-5)


def test_axial_dropout_is_a_function_of_the_example():
  model = tiny(attention='axial', pos_embedding='relative', head='gap', dropout=0.2)
  params = draw(model)
  run = functools.partial(apply, model, params, train=True, rngs={'dropout': jax.random.key(0)})
  whole = run()
  np.testing.assert_allclose(run(IMAGES[1:], examples=np.arange(1, 3)), whole[1:], atol=2e-5)
  assert np.abs(whole - apply(model, params)).max() > 1e-3
