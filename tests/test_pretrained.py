import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import load_params
from vit_jax.models.variants import Variant
from vit_jax.models.vit import VisionTransformer

DATA = pathlib.Path(__file__).parent / 'data'


def mini(**overrides):
  return VisionTransformer(Variant(32, 64, 2, 2), 8, (32, 32), 10, **overrides)


def test_both_spellings_give_the_same_tree():
  old, new = (load_params(DATA / f, mini()) for f in ('vit_token.npz', 'vit_token.linen.npz'))
  assert set(old['Transformer']['encoderblock_1']) == {
      'LayerNorm_0', 'LayerNorm_1', 'MlpBlock_0', 'MultiHeadDotProductAttention_0'}
  np.testing.assert_equal(old, new)


def test_every_misfit_is_listed_at_once():
  with pytest.raises(ValueError) as e:
    load_params(DATA / 'vit_pre_logits.npz', mini(head='gap'))
  for words in ('vit_pre_logits.npz', 'extra cls (1, 1, 32)', 'extra pre_logits/kernel (32, 48)',
                'head/kernel is (48, 10), the model has (32, 10)',
                'pos_embedding is (1, 17, 32), the model has (1, 16, 32)'):
    assert words in str(e.value)
  with pytest.raises(ValueError, match=r'missing pre_logits/bias \(32,\)'):
    load_params(DATA / 'vit_token.npz', mini(representation_size=32))


@pytest.mark.parametrize('content', [b'', b'<html>not found</html>', 'truncated', 'flipped',
                                     'pickle', 'no archive'])
def test_damaged_files_are_named(tmp_path, content):
  path = tmp_path / 'bad.npz'
  good = (DATA / 'vit_token.npz').read_bytes()
  if content == 'truncated':
    content = good[:len(good) // 2]
  elif content == 'flipped':
    content = bytearray(good)
    content[len(good) // 3] ^= 16
  elif content == 'pickle':
    np.savez(path, cls=np.array([{}], dtype=object))
    content = path.read_bytes()
  elif content == 'no archive':
    with open(path, 'wb') as f:
      np.save(f, np.zeros(3))
    content = path.read_bytes()
  path.write_bytes(content)
  with pytest.raises(ValueError, match='bad.npz is not a readable npz file'):
    load_params(path, mini())
  with pytest.raises(ValueError, match='none.npz: no such file'):
    load_params(tmp_path / 'none.npz', mini())
