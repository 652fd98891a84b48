import re

import pytest

from vit_jax import create_model
from vit_jax.errors import InputError
from vit_jax.models.freeze import trainable_filter
from vit_jax.pretrained.fingerprint import named_leaves
from vit_jax.pretrained.load import abstract_params

SIZES = dict(hidden_dim=16, mlp_dim=32, num_heads=2, num_layers=3)


def trained(model, last_blocks):
  """Return the parts of the model that hold a trained parameter."""
  names = filter(trainable_filter(model, last_blocks), named_leaves(abstract_params(model))[0])
  return {re.match('(Transformer/)?[^/]+', name)[0] for name in names}


def test_the_last_blocks_and_everything_above_them():
  model = create_model(
    'ViT-Ti/4', num_classes=5, image_size=8, head='map', representation_size=8, **SIZES
  )
  above = {'head', 'pre_logits', 'MAPHead_0', 'Transformer/encoder_norm'}
  block = lambda *numbers: {f'Transformer/encoderblock_{i}' for i in numbers}
  assert trained(model, 0) == {'head'}
  assert trained(model, 1) == above | block(2)
  assert trained(model, 2) == above | block(1, 2)
  assert trained(model, 3) == above | block(0, 1, 2)


def test_a_model_with_too_few_blocks():
  vit = create_model('ViT-Ti/4', num_classes=5, image_size=8, **SIZES)
  message = 'trained_blocks=4 does not fit a model with 3 Transformer blocks. Use at most 3.'
  with pytest.raises(InputError, match=re.escape(message)):
    trainable_filter(vit, 4)
  bit = create_model('BiT-R50x1', num_classes=5, image_size=32)
  message = (
    'trained_blocks=1 does not fit a model with 0 Transformer blocks. '
    'Use 0 for the head alone or None for everything.'
  )
  with pytest.raises(InputError, match=re.escape(message)):
    trainable_filter(bit, 1)
  names = filter(trainable_filter(bit, 0), named_leaves(abstract_params(bit))[0])
  assert list(names) == ['resnet/head/conv2d/bias', 'resnet/head/conv2d/kernel']
