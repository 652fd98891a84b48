"""Masked patch prediction, drawn as images: patches, pixels, and what is filled in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import create_model
from vit_jax.figures import fill_in
from vit_jax.models import masked_patches as mpp

KEY = jax.random.key(3)


def images(side=16, size=6):
  return np.random.default_rng(0).integers(0, 256, (size, side, side, 3), dtype=np.uint8)


def test_patches_and_back():
  x = images()
  patches = fill_in.to_patches(x, 4)
  np.testing.assert_array_equal(patches[2, 5], x[2, 4:8, 4:8])
  np.testing.assert_array_equal(fill_in.from_patches(patches, (16, 16)), x)


@pytest.mark.parametrize('target, error', [('mean_color', 16), ('small_patch', 16), ('patch', 0)])
def test_predicting_the_targets_draws_the_image(target, error):
  """The error is at most half a step of 3 bits, in an image whose cells have one color each."""
  cells = images(4 if target == 'mean_color' else 16)
  x = cells.repeat(32 // cells.shape[1], 1).repeat(32 // cells.shape[1], 2)
  targets = np.asarray(mpp.make_targets(jnp.asarray(x), 8, target))
  predictions = targets if target == 'patch' else np.eye(512)[targets]
  drawn = fill_in.from_patches(fill_in.to_pixels(predictions, 8), (32, 32))
  assert np.abs(drawn.astype(int) - x).max() == pytest.approx(error, abs=0.5)


def test_only_corrupted_patches_are_filled_in():
  model = mpp.make_model(
    create_model(
      'ViT-Ti/4', num_classes=0, image_size=16, hidden_dim=16, mlp_dim=32, num_heads=2, num_layers=1
    ),
    'mean_color',
    0.5,
  )
  params = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))['params']
  params['patch_head']['bias'] = jnp.zeros(512).at[0o725].set(1.0)  # always this color
  x = images()
  seen, filled = (fill_in.to_patches(y, 4) for y in fill_in.fill_in(model, params, x, KEY))
  corrupted, source = map(
    np.asarray, mpp.corruption(jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(6)), 16, 0.5)
  )
  patches = fill_in.to_patches(x, 4)
  for b in range(6):
    for n in range(16):
      place = source[b, n]
      np.testing.assert_array_equal(seen[b, n], patches[b, place] if place >= 0 else 128)
      np.testing.assert_array_equal(
        filled[b, n],
        np.broadcast_to((7 * 32 + 16, 2 * 32 + 16, 5 * 32 + 16), (4, 4, 3))
        if corrupted[b, n]
        else patches[b, n],
      )
