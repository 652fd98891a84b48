"""The activations kept for the backward pass agree with arithmetic."""

import jax
import jax.numpy as jnp
import pytest

from vit_jax import create_model
from vit_jax.cost.activations import activation_bytes
from vit_jax.training.objectives import supervised


def kept(**overrides):
  model = create_model(
    'ViT-Ti/8',
    num_classes=7,
    image_size=16,
    hidden_dim=16,
    mlp_dim=64,
    num_heads=2,
    **dict(num_layers=2) | overrides,
  )
  params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))['params']
  return activation_bytes(supervised(model), params, model.image_size, 7)


def test_activations_by_hand():
  """With full remat, a block keeps only its input."""
  one, two = (kept(remat='full', num_layers=n) for n in (1, 2))
  assert two - one == 5 * 16 * 4  # tokens, channels, bytes of float32


def test_remat_keeps_less_and_half_the_bytes_are_kept_in_bfloat16():
  none, dots, full = (kept(remat=x) for x in ('none', 'dots', 'full'))
  assert full < dots < none
  assert (
    kept(remat='full', dtype='bfloat16', num_layers=3)
    - kept(remat='full', dtype='bfloat16', num_layers=2)
    == 5 * 16 * 2
  )


def test_scan_keeps_about_what_unrolled_blocks_keep():
  assert kept(scan=True) == pytest.approx(kept(), rel=0.1)
