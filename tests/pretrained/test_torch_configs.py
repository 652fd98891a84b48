import json

import numpy as np
import pytest

from tests.helpers.paths import FILES
from vit_jax.errors import InputError
from vit_jax.pretrained.formats import read_checkpoint, write_arrays
from vit_jax.pretrained.torch_configs import hf_config, hf_preprocessor, timm_config

DATA = FILES


@pytest.mark.parametrize('name', ['hf_tiny', 'dinov2_tiny'])
def test_the_config_for_transformers_says_the_same(tmp_path, name):
  arrays, metadata = read_checkpoint(DATA / name)
  write_arrays(arrays, tmp_path, 'hf', metadata=metadata)
  old, new = (json.loads((d / 'config.json').read_text()) for d in (DATA / name, tmp_path))
  # Fields without a default in transformers, or with another default.
  explicit = {
    'architectures',
    'hidden_act',
    'hidden_size',
    'id2label',
    'image_size',
    'layer_norm_eps',
    'intermediate_size',
    'mlp_ratio',
    'model_type',
    'num_attention_heads',
    'patch_size',
    'num_hidden_layers',
    'num_register_tokens',
    'qkv_bias',
  }
  assert {k: new[k] for k in old if k in explicit} == {k: old[k] for k in old if k in explicit}
  assert new.keys() <= old.keys()


def test_the_config_for_timm_says_the_same(tmp_path):
  """Compare with fields for which timm 1.0.31 gave our logits to 5e-6, for every model here.

  The call was create_model('local-dir:DIR', pretrained=True).
  """
  for name in ('timm_registers', 'timm_map'):
    arrays, metadata = read_checkpoint(DATA / name)
    write_arrays(arrays, tmp_path / name, 'timm', metadata=metadata)
    old, new = (json.loads((d / name / 'config.json').read_text()) for d in (DATA, tmp_path))
    args, more = new['model_args'], old['model_args']
    for k in set(more) - {'init_values', 'in_chans', 'num_classes'}:
      assert args[k] == more[k], k
    assert (args.get('init_values') is None) == (more.get('init_values') is None)
    assert new['num_classes'] == old['num_classes'] and new['architecture'].startswith('vit_')
    assert args['act_layer'] == ('gelu_tanh' if name == 'timm_map' else 'gelu')


def test_a_preprocessor_has_the_size_and_normalization_of_the_model():
  arrays, metadata = read_checkpoint(DATA / 'hf_tiny')
  preprocessor = hf_preprocessor(hf_config(arrays, metadata), metadata)
  assert preprocessor['size'] == {'height': 32, 'width': 32}
  assert preprocessor['image_mean'] == preprocessor['image_std'] == [0.5, 0.5, 0.5]
  metadata = metadata._replace(image_mean=(0.1, 0.2, 0.3), image_std=(1.0, 1.0, 1.0))
  preprocessor = hf_preprocessor({'image_size': [8, 16]}, metadata)
  assert preprocessor['size'] == {'height': 8, 'width': 16}
  assert preprocessor['image_mean'] == (0.1, 0.2, 0.3)


def test_models_that_a_config_cannot_describe():
  arrays, metadata = read_checkpoint(DATA / 'hf_tiny')
  with pytest.raises(InputError, match="^Unknown activation 'relu'. .*Available: gelu, gelu_tanh"):
    hf_config(arrays, metadata._replace(activation='relu'))
  with pytest.raises(InputError, match='^timm has pre_norm=True only together with patch_bias=Fa'):
    norm = {'Transformer/pre_norm/scale': np.ones(32), 'Transformer/pre_norm/bias': np.ones(32)}
    timm_config(arrays | norm, metadata._replace(norm_eps=1e-6), False)
  with pytest.raises(InputError, match='^No model of transformers has registers without LayerSc'):
    headless = {name: x for name, x in arrays.items() if not name.startswith('head/')}
    hf_config(headless | {'registers': np.zeros((1, 2, 32))}, metadata)
