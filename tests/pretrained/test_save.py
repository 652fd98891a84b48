import json

import jax
import numpy as np
import pytest

from tests.helpers.tiny_models import TINY, assert_same_bits, random_params, tiny
from vit_jax import create_model, load_params, save_params
from vit_jax.pretrained.formats import read_checkpoint
from vit_jax.pretrained.load import abstract_params

MODELS = {
  'token': tiny(),
  'gap': tiny(head='gap'),
  'map': tiny(head='map'),
  'pre_logits': tiny(representation_size=8),
  'backbone': tiny(num_classes=0),
  'pooler': tiny(num_classes=0, representation_size=16),
  'no qkv bias': tiny(qkv_bias=False),
  'dinov2': tiny(num_classes=0, layer_scale=1.0),
  'clip': tiny(pre_norm=True, patch_bias=False),
  'registers': tiny(num_classes=0, layer_scale=1.0, registers=2),
  'gap registers': tiny(head='gap', registers=2),
  'layer scale': tiny(layer_scale=1.0),
  'not square': tiny(image_size=(8, 12)),
  'no positions': tiny(pos_embedding='none'),
  'learned2d': tiny(pos_embedding='learned2d'),
  'relative': tiny(pos_embedding='relative'),
  'hybrid': create_model('R+ViT-Ti/16', image_size=32, num_classes=5, **TINY),
}


CANNOT = {
  'timm': ['pre_logits', 'pooler', 'learned2d', 'relative', 'hybrid'],
  'hf': [
    'gap',
    'map',
    'pre_logits',
    'clip',
    'gap registers',
    'layer scale',
    'no positions',
    'learned2d',
    'relative',
    'hybrid',
  ],
}


@pytest.mark.parametrize(
  'kind, format',
  [
    *((kind, format) for kind in MODELS for format in ('npz', 'timm', 'hf')),
    ('token', 'orbax'),
    ('hybrid', 'orbax'),
  ],
)
def test_what_is_saved_is_read_back_to_the_bit_or_refused(tmp_path, kind, format):
  model, path = MODELS[kind], tmp_path / ('x.npz' if format == 'npz' else 'x')
  params = random_params(model)
  if kind in CANNOT.get(format, []):
    with pytest.raises(ValueError, match='timm|transformers|PyTorch|Hugging Face'):
      save_params(params, path, format, model=model)
    assert not path.exists()
    return
  save_params(params, path, format, model=model)
  loaded = load_params(path, model)
  assert jax.tree.structure(loaded) == jax.tree.structure(params)
  assert_same_bits(loaded, params)


def test_what_has_the_same_parameters_but_another_meaning_is_refused(tmp_path):
  for overrides, words in (
    (dict(pos_embedding='sincos2d'), 'timm can hold .* but not .sincos2d'),
    (
      dict(pos_embedding_at='shared'),
      "Neither timm nor transformers has pos_embedding_at='shared'. Write npz",
    ),
  ):
    model = tiny(**overrides)
    with pytest.raises(ValueError, match=words):
      save_params(random_params(model), tmp_path / 'x', 'timm', model=model)
  with pytest.raises(ValueError, match='have no position embedding. .* Give the model'):
    save_params(random_params(tiny(pos_embedding='none')), tmp_path / 'x', 'timm')


def test_a_save_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
  path = tmp_path / 'a.npz'
  save_params({'cls': np.zeros((1, 1, 4), np.float32)}, path)
  before = path.read_bytes()
  monkeypatch.setattr(np, 'savez', lambda f, **arrays: (f.write(b'half'), 1 / 0))
  with pytest.raises(ZeroDivisionError):
    save_params({'cls': np.ones((1, 1, 4), np.float32)}, path)
  assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ['a.npz']


@pytest.mark.parametrize(
  'path, format, words',
  [
    ('a.safetensors', None, 'Cannot choose the names in .*. Give the format: timm or hf.'),
    ('a', 'onnx', "Unknown format 'onnx'. Available: npz, timm, hf, orbax."),
    (
      'gs://bucket/a.npz',
      None,
      'Cannot write to gs://bucket/a.npz: it is a remote address. Write to a local path and',
    ),
    (
      'file/a.npz',
      None,
      'Cannot write .*file/a.npz: (File exists|Not a directory). Choose another path.',
    ),
    ('full', 'orbax', 'already exists and is not a directory of parameters.'),
  ],
)
def test_where_nothing_can_be_written_it_says_why(tmp_path, path, format, words):
  (tmp_path / 'file').write_text('')
  (tmp_path / 'full' / 'checkpoints').mkdir(parents=True)
  path = path if '://' in path else tmp_path / path
  with pytest.raises(ValueError, match=words):
    save_params({'cls': np.zeros((1, 1, 4), np.float32)}, path, format)
  assert (tmp_path / 'full' / 'checkpoints').is_dir()


def test_the_model_tells_what_parameters_do_not(tmp_path):
  model = create_model(
    'ViT-Ti/4',
    hidden_dim=16,
    mlp_dim=24,
    num_heads=2,
    num_layers=1,
    num_classes=3,
    image_size=(8, 12),
    activation='quick_gelu',
    norm_eps=1e-5,
  )
  params = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), abstract_params(model))
  save_params(params, tmp_path / 'hf', 'hf', model=model, class_names=['a', 'b', 'c'])
  config = json.loads((tmp_path / 'hf' / 'config.json').read_text())
  assert (
    config['hidden_act'],
    config['layer_norm_eps'],
    config['image_size'],
    config['id2label'],
  ) == ('quick_gelu', 1e-5, [8, 12], {'0': 'a', '1': 'b', '2': 'c'})
  save_params(params, tmp_path / 'timm', 'timm', model=model)
  args = json.loads((tmp_path / 'timm' / 'config.json').read_text())['model_args']
  assert (args['act_layer'], args['img_size'], args['mlp_ratio']) == ('quick_gelu', [8, 12], 1.5)
  metadata = read_checkpoint(tmp_path / 'timm').metadata
  assert (metadata.activation, metadata.norm_eps, metadata.image_size) == (
    'quick_gelu',
    1e-5,
    (8, 12),
  )
  with pytest.raises(
    ValueError, match='The 6 positions do not make a square grid. Give the model, or'
  ):
    save_params(params, tmp_path / 'x', 'timm')
  with pytest.raises(
    ValueError, match='timm has no config for norm_eps=1e-12, only for 1e-6 and 1e-5. Write hf'
  ):
    save_params(params, tmp_path / 'x', 'timm', model=model.clone(norm_eps=1e-12))
