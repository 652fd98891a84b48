import json
import shutil

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.paths import FILES
from tests.helpers.tiny_models import mini, tiny
from vit_jax import create_model, load_params, save_params
from vit_jax.errors import InputError
from vit_jax.models.masked_patches import make_model
from vit_jax.pretrained.load import abstract_params, load_initial_params, load_model

DATA = FILES


@pytest.mark.parametrize(
  'file, model',
  [
    ('dialect2_tok.npz', mini(mlp_dim=128, num_layers=1)),
    ('dialect2_gap.npz', mini(mlp_dim=128, num_layers=1, head='gap')),
    ('dialect2_gap_scan.npz', mini(mlp_dim=128, num_layers=3, head='gap')),
    ('dialect2_map.npz', mini(mlp_dim=128, num_layers=1, head='map')),
    ('timm_tiny', mini(mlp_dim=128, activation='gelu')),
    ('timm_tiny/model.safetensors', mini(mlp_dim=128, activation='gelu')),
    ('timm_registers', tiny(registers=2, layer_scale=1.0, activation='gelu')),
    ('timm_map', tiny(head='map')),
    ('hf_tiny', mini(num_heads=4, num_layers=3, activation='gelu', norm_eps=1e-12)),
    ('dinov2_tiny', tiny(registers=3, layer_scale=1.0, activation='gelu', num_classes=0)),
  ],
  ids=lambda x: x if isinstance(x, str) else '',
)
def test_logits_equal_those_of_the_program_that_wrote_the_file(file, model, warnings):
  """Compare with logits from the libraries that saved the files, with random parameters.

  dinov2_tiny is a Dinov2WithRegistersModel of transformers 5.23 (its pooled output), and timm_* are
  VisionTransformers of timm 1.0.31.
  """
  params = load_params(DATA / file, model)
  io = np.load(
    (DATA / file).parent / 'io.npz'
    if file.endswith('.safetensors')
    else DATA / file / 'io.npz'
    if (DATA / file).is_dir()
    else DATA / file.replace('.npz', '.io.npz')
  )
  images = io['image'] if 'image' in io else io['image_nchw'].transpose(0, 2, 3, 1)
  logits = jax.jit(model.apply)({'params': params}, images)
  np.testing.assert_allclose(logits, io['logits'], rtol=0, atol=2e-5)
  assert warnings() == (
    [
      '%s: Dropped embeddings.mask_token, which only masked pretraining uses.'
      % (DATA / file / 'model.safetensors')
    ]
    if file == 'dinov2_tiny'
    else []
  )


def test_both_spellings_give_the_same_tree():
  old, new = (load_params(DATA / f, mini()) for f in ('vit_token.npz', 'vit_token.linen.npz'))
  assert set(old['Transformer']['encoderblock_1']) == {
    'LayerNorm_0',
    'LayerNorm_1',
    'MlpBlock_0',
    'MultiHeadDotProductAttention_0',
  }
  np.testing.assert_equal(old, new)


def test_what_a_config_json_says_against_the_model_is_named(warnings):
  load_params(DATA / 'hf_tiny', mini(num_heads=2, num_layers=3))
  for said, words in zip(
    warnings(),
    (
      "records activation='gelu', but the model has 'gelu_tanh', so its outputs will differ.",
      'records norm_eps=1e-12, but the model has 1e-06, so',
      'records num_heads=4, but the model has 2, so',
    ),
  ):
    assert words in said and 'To follow the file, use create_model(..., ' in said
  assert len(warnings()) == 3


@pytest.mark.parametrize('file', ['vit_token', 'vit_gap', 'vit_pre_logits', 'dialect2_map'])
def test_a_file_alone_gives_the_reference_logits(file):
  io = np.load(DATA / f'{file}.io.npz')
  model, params, class_names = load_model(DATA / f'{file}.npz')
  np.testing.assert_allclose(model.apply({'params': params}, io['image']), io['logits'], atol=2e-5)
  np.testing.assert_equal(params, load_params(DATA / f'{file}.npz', model))
  assert class_names is None


def test_another_normalization_of_pixels_becomes_part_of_the_model(tmp_path):
  mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
  shutil.copytree(DATA / 'timm_tiny', tmp_path / 'deit')
  config = json.loads((tmp_path / 'deit' / 'config.json').read_text())
  config['pretrained_cfg'] = {'mean': mean.tolist(), 'std': std.tolist()}
  (tmp_path / 'deit' / 'config.json').write_text(json.dumps(config))
  pixels = np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype(np.float32)
  model, params, _ = load_model(DATA / 'timm_tiny')
  want = model.apply({'params': params}, (pixels - mean) / std)
  model, params, _ = load_model(tmp_path / 'deit')
  np.testing.assert_allclose(model.apply({'params': params}, 2 * pixels - 1), want, atol=2e-5)
  assert np.abs(want).max() > 0.1


def test_training_starts_from_the_model_that_load_model_loads(tmp_path, caplog):
  """The patch embedding absorbs the normalization of the file. Remedies are flags."""
  shutil.copytree(DATA / 'timm_tiny', tmp_path / 'deit')
  config = json.loads((tmp_path / 'deit' / 'config.json').read_text())
  config['pretrained_cfg'] = {'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225]}
  (tmp_path / 'deit' / 'config.json').write_text(json.dumps(config))
  model, params, _ = load_model(tmp_path / 'deit')
  np.testing.assert_equal(load_initial_params(tmp_path / 'deit', model), params)
  assert not caplog.messages
  load_initial_params(tmp_path / 'deit', model.clone(activation='gelu_tanh'))
  assert caplog.messages == [
    f"{tmp_path}/deit records activation='gelu', but the model has 'gelu_tanh', so its outputs "
    'will differ. To follow the file, pass --config.activation=gelu.'
  ]
  words = (
    f'{tmp_path}/deit does not fit the model. Choose the model that the file was written for: '
    '--config.model=ViT-Ti/8 --config.hidden_dim=32 --config.mlp_dim=128 --config.num_heads=2 '
    '--config.num_layers=2 --config.activation=gelu. Differences: missing Transformer/'
    'pre_norm/bias (32,); missing Transformer/pre_norm/scale (32,).'
  )
  with pytest.raises(InputError) as e:
    load_initial_params(tmp_path / 'deit', model.clone(pre_norm=True))
  assert str(e.value) == words


def test_an_activation_that_a_file_does_not_record(tmp_path, caplog):
  """No published npz file has a LayerNorm before the first block, so CLIP's are other programs'."""
  model = mini(num_classes=3, image_size=16, pre_norm=True)
  params = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))['params']
  save_params(params, tmp_path / 'clip.npz')
  assumed = (
    f"{tmp_path}/clip.npz does not record its activation, so activation='gelu_tanh' is assumed. "
    'But it has a LayerNorm before the first block, and such models often have another activation: '
    "OpenAI's CLIP has 'quick_gelu', DINOv2 and others have 'gelu'. To choose 'gelu', "
  )
  load_model(tmp_path / 'clip.npz')
  assert caplog.messages == [
    assumed + "give activation='gelu' to load_model, or --override=activation=gelu to a command."
  ]
  caplog.clear()
  load_params(tmp_path / 'clip.npz', model)
  load_initial_params(tmp_path / 'clip.npz', model)
  assert caplog.messages == [
    assumed + "use create_model(..., activation='gelu').",
    assumed + 'pass --config.activation=gelu.',
  ]
  caplog.clear()
  load_model(tmp_path / 'clip.npz', activation='gelu_tanh')
  load_params(tmp_path / 'clip.npz', model.clone(activation='quick_gelu'))
  load_model(DATA / 'vit_token.npz')
  save_params(params, tmp_path / 'clip', model=model)
  load_model(tmp_path / 'clip')  # an Orbax directory records it
  assert not caplog.messages


def test_a_new_head_has_no_class_names(tmp_path):
  _, params, _ = load_model(DATA / 'vit_token.npz')
  save_params(params, tmp_path / 'run', class_names=[f'kind {i}' for i in range(10)])
  loaded = load_model(tmp_path / 'run')
  assert loaded.model.usage.class_names == tuple(loaded.class_names)
  other = load_model(tmp_path / 'run', num_classes=3)
  assert other.class_names is None and other.model.usage.class_names is None


def test_overrides(caplog):
  model, params, _ = load_model(DATA / 'vit_token.npz', image_size=64, dtype='bfloat16')
  assert model.image_size == (64, 64) and model.dtype == jnp.bfloat16
  np.testing.assert_equal(params, load_params(DATA / 'vit_token.npz', model))
  assert 'Resized the position embedding from 4x4 patches to a grid of 8x8 patches.' in caplog.text
  with pytest.raises(InputError, match='vit_token.npz does not fit the model. .*encoderblock_10'):
    load_model(DATA / 'vit_token.npz', 'ViT-Ti/8')
  with pytest.raises(
    InputError, match="^Unknown ViT-[^ ]* field 'registres'. Did you mean 'registers'[?] "
  ):
    load_model(DATA / 'vit_token.npz', registres=4)


@pytest.mark.parametrize(
  'model',
  [
    tiny(num_layers=12),
    tiny(num_layers=3, pos_embedding_at='every', head='map', stochastic_depth=0.1),
    tiny(num_layers=0),
    make_model(tiny(num_classes=0), 'mean_color', 0.5),
    create_model('BiT-R50x1', num_classes=2, image_size=32),
  ],
  ids=['many blocks', 'positions in blocks', 'no blocks', 'masked patches', 'ResNet'],
)
def test_the_shapes_of_parameters_are_those_that_flax_makes(model):
  images = jax.ShapeDtypeStruct((1, *model.image_size, 3), jnp.float32)
  expected = jax.eval_shape(model.init, jax.random.key(0), images)['params']
  shapes = abstract_params(model)
  assert list(traverse_util.flatten_dict(shapes, sep='/').items()) == list(
    traverse_util.flatten_dict(expected, sep='/').items()
  )
