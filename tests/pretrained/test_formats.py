import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.helpers.paths import FILES
from tests.helpers.tiny_models import mini, random_params, tiny
from vit_jax import load_params, save_params
from vit_jax.errors import InputError
from vit_jax.pretrained.formats import format_for, read_arrays, read_class_names, write_arrays

DATA = FILES


def test_class_names_are_kept_and_placeholders_are_not(tmp_path):
  params = random_params(tiny())
  for format in ('timm', 'hf', 'orbax'):
    save_params(params, tmp_path / format, format, class_names=list('abcde'))
    assert read_class_names(tmp_path / format) == list('abcde')
  save_params(params, tmp_path / 'none', 'hf')
  assert read_class_names(tmp_path / 'none') is None  # transformers needs LABEL_0, ...
  assert read_class_names(DATA / 'hf_tiny') is read_class_names(DATA / 'vit_token.npz') is None
  with pytest.raises(ValueError, match='There are 2 class names, but the head has 5 outputs.'):
    save_params(params, tmp_path / 'two', 'hf', class_names=['a', 'b'])


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_damage(tmp_path, value):
  arrays = read_arrays(DATA / 'vit_token.npz')
  write_arrays(arrays, tmp_path / 'a.safetensors', 'timm')
  tensors = load_file(tmp_path / 'a.safetensors')
  arrays['embedding/kernel'][1, 2, 0, 3] = tensors['norm.bias'][3] = value
  np.savez(tmp_path / 'a.npz', **arrays)
  save_file(tensors, tmp_path / 'a.safetensors')
  for name, where in (('a.npz', 'embedding/kernel'), ('a.safetensors', 'encoder_norm/bias')):
    with pytest.raises(
      ValueError, match=f'{name} is damaged: it has numbers that are not finite in .*{where}'
    ):
      load_params(tmp_path / name, mini())
  with pytest.raises(
    ValueError, match='Cannot write .*b.npz: the parameters are not finite in embedding/kernel.'
  ):
    write_arrays(arrays, tmp_path / 'b.npz')
  assert not (tmp_path / 'b.npz').exists()


@pytest.mark.parametrize(
  'path, format, expected',
  [
    ('a.npz', None, 'npz'),
    ('a', None, 'orbax'),
    ('a.b', None, 'orbax'),
    ('a.npz', 'hf', 'hf'),
    ('a.safetensors', 'timm', 'timm'),
  ],
)
def test_the_format_of_a_path(path, format, expected):
  assert format_for(path, format) == expected


def test_an_unknown_or_open_format():
  with pytest.raises(InputError, match="^Unknown format 'npy'. Did you mean 'npz'. Available: npz"):
    format_for('a', 'npy')
  with pytest.raises(InputError, match='^Cannot choose the names in a.safetensors: .*timm or hf.$'):
    format_for('a.safetensors', None)
