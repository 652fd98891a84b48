import json

import pytest

from vit_jax.errors import InputError
from vit_jax.pretrained.config_json import read_config, read_preprocessor
from vit_jax.pretrained.metadata import EMPTY, Metadata


def read(**config):
  return read_config(json.dumps(config), 'config.json')


def test_hugging_face():
  assert read(
    hidden_act='gelu_new',
    layer_norm_eps=1e-12,
    num_attention_heads=6,
    image_size=[32, 48],
    id2label={'1': 'dog', '0': 'cat'},
  ) == Metadata(
    num_heads=6,
    activation='gelu_tanh',
    norm_eps=1e-12,
    image_size=(32, 48),
    class_names=['cat', 'dog'],
  )


def test_timm():
  assert read(
    architecture='vit_base_patch16_clip_quickgelu_224',
    global_pool='avg',
    model_args={'num_heads': 3, 'pos_embed': 'none'},
    pretrained_cfg={'input_size': [3, 24, 24], 'mean': [0, 0, 0], 'std': [1, 1, 1]},
    label_names=['a', 'b'],
  ) == Metadata(
    num_heads=3,
    activation='quick_gelu',
    norm_eps=1e-5,
    head='gap',
    pos_embedding='none',
    image_size=(24, 24),
    image_mean=(0.0, 0.0, 0.0),
    image_std=(1.0, 1.0, 1.0),
    class_names=['a', 'b'],
  )
  assert read(architecture='deit3_small')[:3] == (None, 'gelu', 1e-6)
  assert read(architecture='vit_base_patch16_siglip_224')[:3] == (None, None, None)


def test_nothing_and_placeholders():
  assert read() == EMPTY
  assert read(id2label={'0': 'LABEL_0', '1': 'LABEL_1'}).class_names is None


def test_a_preprocessor():
  text = json.dumps({'image_mean': [0.1, 0.2, 0.3], 'image_std': [1, 2, 3]})
  assert read_preprocessor(text, 'x') == Metadata(
    image_mean=(0.1, 0.2, 0.3), image_std=(1.0, 2.0, 3.0)
  )
  assert read_preprocessor('{"image_mean": [0.1, 0.2, 0.3]}', 'x') == EMPTY
  with pytest.raises(InputError, match='^Cannot read the config of a preprocessor in x .*again.$'):
    read_preprocessor('[]', 'x')
