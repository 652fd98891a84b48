import logging

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.helpers.paths import FILES
from vit_jax import create_model, load_params, save_params
from vit_jax.pretrained.formats import read_arrays, read_class_names, write_arrays
from vit_jax.pretrained.load import abstract_params

DATA = FILES
TINY = dict(hidden_dim=16, mlp_dim=32, num_heads=2, num_layers=2)


def mini(**overrides):
  return create_model(
    'ViT-Ti/8',
    **dict(image_size=32, num_classes=10, hidden_dim=32, mlp_dim=64, num_heads=2, num_layers=2)
    | overrides,
  )


def tiny(**overrides):
  return create_model('ViT-Ti/4', **dict(TINY, image_size=16, num_classes=5) | overrides)


def random_params(model):
  shapes, tree = jax.tree.flatten(abstract_params(model))
  rng = np.random.default_rng(0)
  return jax.tree.unflatten(tree, [rng.normal(size=s.shape).astype(np.float32) for s in shapes])


def assert_same_bits(a, b):
  jax.tree.map(
    lambda x, y: np.testing.assert_array_equal(
      np.asarray(x).view(np.uint32), np.asarray(y).view(np.uint32)
    ),
    a,
    b,
  )


@pytest.fixture
def warnings(caplog):
  caplog.set_level(logging.WARNING, 'vit_jax')
  return lambda: [r.getMessage() for r in caplog.records if r.name == 'vit_jax']


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
  """dinov2_tiny is a Dinov2WithRegistersModel of transformers 5.23 (its pooled output), timm_*
  are VisionTransformers of timm 1.0.31, saved by these libraries with random parameters."""
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


def test_every_misfit_is_listed_at_once():
  with pytest.raises(ValueError) as e:
    load_params(DATA / 'vit_pre_logits.npz', mini(head='gap'))
  for words in (
    'vit_pre_logits.npz',
    'extra cls (1, 1, 32)',
    'extra pre_logits/kernel (32, 48)',
    'head/kernel is (48, 10), the model has (32, 10)',
    'pos_embedding is (1, 17, 32), the model has (1, 16, 32)',
  ):
    assert words in str(e.value)
  with pytest.raises(ValueError, match=r'missing pre_logits/bias \(32,\)'):
    load_params(DATA / 'vit_token.npz', mini(representation_size=32))


def test_a_long_list_of_misfits_is_cut_with_a_count():
  with pytest.raises(
    ValueError, match=r'Differences: missing Transformer/encoderblock_2/.* and 22 more.$'
  ) as e:
    load_params(DATA / 'vit_token.npz', mini(num_layers=4))
  assert str(e.value).count('missing') == 10


@pytest.mark.parametrize(
  'file, model', [('vit_gap.npz', mini()), ('dialect2_gap.npz', mini(mlp_dim=128, num_layers=1))]
)
def test_a_token_model_refuses_the_file_of_a_gap_model(file, model):
  with pytest.raises(ValueError, match=r'missing cls \(1, 1, 32\)'):
    load_params(DATA / file, model)


def test_another_number_of_classes_gets_a_new_head_and_says_so(warnings):
  params = load_params(DATA / 'vit_token.npz', mini(num_classes=3, head_bias_init=-2.0))
  head, old = params.pop('head'), load_params(DATA / 'vit_token.npz', mini())
  assert not head['kernel'].any() and head['kernel'].shape == (32, 3)
  assert head['bias'].tolist() == [-2, -2, -2]
  del old['head']
  assert_same_bits(params, old)
  assert warnings() == [
    f'{DATA / "vit_token.npz"}: Replaced the head of 10 classes with a new head of 3 classes, '
    'initialized to zero.'
  ]


def test_a_new_head_can_be_asked_for(warnings):
  """As many classes need not be the same ones; both layers of a pretraining head go."""
  head = load_params(DATA / 'vit_token.npz', mini(), new_head=True)['head']
  assert head['kernel'].shape == (32, 10) and not head['kernel'].any()
  params = load_params(DATA / 'vit_pre_logits.npz', mini(), new_head=True)
  assert 'pre_logits' not in params and not params['head']['kernel'].any()
  assert 'Replaced the head of 10 classes with a new head of 10 classes, init' in warnings()[0]
  assert warnings()[1].endswith('zero. Dropped the pre_logits layer.')


def test_pre_logits_go_with_the_head_and_only_then(warnings):
  params = load_params(DATA / 'vit_pre_logits.npz', mini(num_classes=3))
  assert 'pre_logits' not in params and params['head']['kernel'].shape == (32, 3)
  assert warnings()[0].endswith('initialized to zero. Dropped the pre_logits layer.')
  with pytest.raises(ValueError, match='extra pre_logits/bias'):
    load_params(DATA / 'vit_pre_logits.npz', mini())
  kept = load_params(DATA / 'vit_pre_logits.npz', mini(num_classes=3, representation_size=48))
  assert kept['pre_logits']['kernel'].shape == (32, 48)
  assert kept['head']['kernel'].shape == (48, 3)


def test_a_model_without_a_head_drops_the_files(warnings):
  model = mini(num_classes=0)
  params = load_params(DATA / 'vit_token.npz', model)
  assert 'head' not in params
  assert warnings() == [f'{DATA / "vit_token.npz"}: Dropped the head of 10 classes.']
  reference = np.load(DATA / 'vit_token.io.npz')
  np.testing.assert_allclose(
    model.apply({'params': params}, reference['image']),
    reference['tap:pre_logits'],
    rtol=0,
    atol=2e-5,
  )


def test_a_backbone_gets_a_fresh_head(warnings):
  model = tiny(registers=3, layer_scale=1.0, activation='gelu', num_classes=4)
  params = load_params(DATA / 'dinov2_tiny', model)
  assert not params['head']['kernel'].any() and params['head']['kernel'].shape == (16, 4)
  assert warnings()[-1] == (
    f'{DATA / "dinov2_tiny"}: Added a new head of 4 classes, initialized to zero.'
  )


def test_the_head_of_a_bit_resnet_is_swapped_too():
  arrays = read_arrays(DATA / 'bit_v2.npz')
  assert arrays['resnet/head/conv2d/kernel'].shape == (1, 1, 256, 10)
  from vit_jax.pretrained.fit import fit
  from vit_jax.pretrained.metadata import Metadata

  want = {
    k: jax.ShapeDtypeStruct((*v.shape[:-1], 3) if 'head' in k else v.shape, v.dtype)
    for k, v in arrays.items()
  }
  fitted = fit(arrays, want, None, Metadata(), 'bit_v2.npz')
  assert not fitted['resnet/head/conv2d/kernel'].any()
  assert fitted['resnet/head/conv2d/kernel'].shape == (1, 1, 256, 3)


def test_positions_are_resized_to_another_grid_and_say_so(warnings):
  from vit_jax.pretrained.posembed import resize_posembed

  file = DATA / 'vit_token.npz'
  params = load_params(file, mini(image_size=(48, 64)))
  positions = params['Transformer']['posembed_input']['pos_embedding']
  old = read_arrays(file)['Transformer/posembed_input/pos_embedding']
  np.testing.assert_array_equal(positions, resize_posembed(old, (6, 8)))
  assert warnings() == [
    f'{file}: Resized the position embedding from 4x4 patches to a grid of 6x8 patches.'
  ]


@pytest.mark.parametrize(
  'overrides, name',
  [(dict(pos_embedding='learned2d'), 'rows'), (dict(pos_embedding_at='every'), 'pos_embedding')],
)
def test_other_learned_positions_are_resized_too(tmp_path, warnings, overrides, name):
  params = random_params(tiny(**overrides))
  save_params(params, tmp_path / 'a.npz')
  new = load_params(tmp_path / 'a.npz', tiny(image_size=(28, 16), **overrides))
  module = new['Transformer']
  module = module if name == 'rows' else module['encoderblock_1']
  shape = {'rows': (7, 8), 'pos_embedding': (1, 29, 16)}[name]
  assert module['posembed_input'][name].shape == shape
  assert warnings()[-1].endswith('to a grid of 7x4 patches.')


def test_a_recorded_image_size_tells_grids_of_one_length_apart(tmp_path, warnings):
  wide, high = tiny(image_size=(8, 32)), tiny(image_size=(32, 8))
  params = random_params(wide)
  save_params(params, tmp_path / 'told', 'timm', model=wide)
  new = load_params(tmp_path / 'told', high)['Transformer']['posembed_input']['pos_embedding']
  assert not np.array_equal(new, params['Transformer']['posembed_input']['pos_embedding'])
  assert 'from 2x8 patches to a grid of 8x2 patches.' in warnings()[-1]
  assert_same_bits(load_params(tmp_path / 'told', wide), params)
  save_params(params, tmp_path / 'untold.npz')
  assert_same_bits(load_params(tmp_path / 'untold.npz', high), params)
  assert warnings()[-1].endswith('Assumed that its 16 positions are a grid of 8x2.')


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
    ('a.safetensors', None, 'Cannot choose the names in .*. Give the format timm or hf.'),
    ('a', 'onnx', "Unknown format 'onnx'. Available: npz, timm, hf, orbax."),
    (
      'gs://bucket/a.npz',
      None,
      'Cannot write to gs://bucket/a.npz: it is an address. Write to a local path and',
    ),
    (
      'file/a.npz',
      None,
      'Cannot write .*file/a.npz: (File exists|Not a directory). Choose another path.',
    ),
    ('full', 'orbax', 'already exists, and is not a directory of parameters.'),
  ],
)
def test_where_nothing_can_be_written_it_says_why(tmp_path, path, format, words):
  (tmp_path / 'file').write_text('')
  (tmp_path / 'full' / 'checkpoints').mkdir(parents=True)
  path = path if '://' in path else tmp_path / path
  with pytest.raises(ValueError, match=words):
    save_params({'cls': np.zeros((1, 1, 4), np.float32)}, path, format)
  assert (tmp_path / 'full' / 'checkpoints').is_dir()


def test_class_names_are_kept_and_placeholders_are_not(tmp_path):
  params = random_params(tiny())
  for format in ('timm', 'hf', 'orbax'):
    save_params(params, tmp_path / format, format, class_names=list('abcde'))
    assert read_class_names(tmp_path / format) == list('abcde')
  save_params(params, tmp_path / 'none', 'hf')
  assert read_class_names(tmp_path / 'none') is None  # transformers wants LABEL_0, ... there
  assert read_class_names(DATA / 'hf_tiny') is read_class_names(DATA / 'vit_token.npz') is None
  with pytest.raises(ValueError, match='There are 2 class names, but the head has 5 outputs.'):
    save_params(params, tmp_path / 'two', 'hf', class_names=['a', 'b'])


@pytest.mark.parametrize(
  'content, words',
  [
    (b'', 'as a checkpoint: it is empty. Download it again.'),
    (b'<html>not found</html>', 'as a checkpoint: it is a web page. Download it again.'),
    (b'\x80\x04K\x01.', 'is a pickle of PyTorch, .* Convert it to safetensors.'),
    (b'hello, world, hello', 'is not a checkpoint of a known format. Give an npz file, a safe'),
  ],
)
def test_what_is_no_checkpoint_is_told_apart(tmp_path, content, words):
  path = tmp_path / 'bad.ckpt'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=f'bad.ckpt.*{words}'):
    load_params(path, mini())


def test_missing_files_and_empty_directories_are_named(tmp_path):
  for name in ('none.npz', 'none', 'none.safetensors'):
    with pytest.raises(ValueError, match=f'Cannot read .*{name}: no such file. Check the path.'):
      load_params(tmp_path / name, mini())
  with pytest.raises(
    ValueError, match='has no checkpoint. It needs model.safetensors, or what a training run or'
  ):
    load_params(tmp_path, mini())
  (tmp_path / 'pytorch_model.bin').write_bytes(b'')
  with pytest.raises(
    ValueError, match='pytorch_model.bin is a pickle of .* Convert it to safetensors.'
  ):
    load_params(tmp_path, mini())


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_damage(tmp_path, value):
  arrays = read_arrays(DATA / 'vit_token.npz')
  write_arrays(arrays, tmp_path / 'a.safetensors', 'timm')
  tensors = load_file(tmp_path / 'a.safetensors')
  arrays['embedding/kernel'][1, 2, 0, 3] = tensors['norm.bias'][3] = value
  np.savez(tmp_path / 'a.npz', **arrays)
  save_file(tensors, tmp_path / 'a.safetensors')
  for name, where in (('a.npz', 'embedding/kernel'), ('a.safetensors', 'encoder_norm/bias')):
    with pytest.raises(ValueError, match=f'{name} is damaged: not finite in .*{where}'):
      load_params(tmp_path / name, mini())
  with pytest.raises(
    ValueError, match='Cannot write .*b.npz: the parameters are not finite in embedding/kernel.'
  ):
    write_arrays(arrays, tmp_path / 'b.npz')
  assert not (tmp_path / 'b.npz').exists()
