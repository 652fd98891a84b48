import json
import shutil
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.helpers.paths import FILES
from vit_jax import create_model, load_params, save_params
from vit_jax.pretrained.architecture import infer_model
from vit_jax.pretrained.formats import read_arrays, read_checkpoint, write_arrays
from vit_jax.pretrained.load import abstract_params

DATA = FILES
HF = DATA / 'hf_tiny' / 'model.safetensors'
TIMM = DATA / 'timm_tiny' / 'model.safetensors'
POSITIONS = 'Transformer/posembed_input/pos_embedding'


def infer(arrays, metadata):
  name, overrides = infer_model(arrays, metadata)
  return create_model(name, **overrides)


def copy(source, directory, change=lambda tensors: tensors, config=True):
  """Write the changed tensors of a reference, with or without its config.json."""
  directory.mkdir(exist_ok=True)
  save_file(change(load_file(source)), directory / 'model.safetensors', metadata={'format': 'pt'})
  if config:
    shutil.copy(source.with_name('config.json'), directory)
  return directory


@pytest.mark.parametrize(
  'name, kind',
  [
    ('timm_tiny', 'timm'),
    ('timm_registers', 'timm'),
    ('timm_map', 'timm'),
    ('hf_tiny', 'hf'),
    ('dinov2_tiny', 'hf'),
  ],
)
def test_what_these_libraries_wrote_is_written_as_it_was(tmp_path, name, kind):
  arrays, metadata = read_checkpoint(DATA / name)
  if name == 'hf_tiny':
    write_arrays(arrays, tmp_path / 'x', 'hf', metadata=metadata)  # timm has no such norm_eps
  else:
    write_arrays(arrays, tmp_path / 'timm', 'timm', metadata=metadata)  # via the other formats
    write_arrays(read_arrays(tmp_path / 'timm'), tmp_path / 'x.npz')
    write_arrays(read_arrays(tmp_path / 'x.npz'), tmp_path / 'orbax')
    write_arrays(read_arrays(tmp_path / 'orbax'), tmp_path / 'x', kind, metadata=metadata)
  old, new = (load_file(d / 'model.safetensors') for d in (DATA / name, tmp_path / 'x'))
  if name == 'dinov2_tiny':  # dropped, because only masked pretraining uses it
    old['embeddings.mask_token'] = np.zeros((1, 16), np.float32)
  assert old.keys() == new.keys()
  for key in old:
    assert old[key].shape == new[key].shape and old[key].tobytes() == new[key].tobytes()


def test_a_single_file_keeps_its_config(tmp_path):
  arrays, metadata = read_checkpoint(DATA / 'hf_tiny')
  write_arrays(arrays, tmp_path / 'a.safetensors', 'hf', metadata=metadata)
  assert [p.name for p in tmp_path.iterdir()] == ['a.safetensors']
  again = read_checkpoint(tmp_path / 'a.safetensors')
  np.testing.assert_equal(again.arrays, arrays)
  assert again.metadata == metadata


@pytest.mark.parametrize(
  'change',
  [
    lambda t: {k.removeprefix('vit.'): v for k, v in t.items()},
    lambda t: {
      k.replace('encoder.layer.', 'layers.')
      .replace('attention.attention.', 'attention.')
      .replace('query', 'q_proj')
      .replace('key', 'k_proj')
      .replace('value', 'v_proj')
      .replace('attention.output.dense', 'attention.o_proj')
      .replace('intermediate.dense', 'mlp.fc1')
      .replace('output.dense', 'mlp.fc2'): v
      for k, v in t.items()
    },
    lambda t: {k.replace('vit.', 'deit.'): v for k, v in t.items()},
  ],
  ids=['no prefix', 'state_dict of transformers 5', 'another prefix'],
)
def test_other_names_of_hugging_face(tmp_path, change):
  directory = copy(HF, tmp_path / 'x', change)
  assert load_file(directory / 'model.safetensors').keys() != load_file(HF).keys()
  np.testing.assert_equal(read_arrays(directory), read_arrays(HF))


def test_split_projections_and_old_pre_logits_of_timm(tmp_path):
  def change(tensors):
    for i in range(2):
      for kind in ('weight', 'bias'):
        parts = np.split(tensors.pop(f'blocks.{i}.attn.qkv.{kind}'), 3)
        tensors |= {f'blocks.{i}.attn.{x}_proj.{kind}': p for x, p in zip('qkv', parts)}
    return tensors | {'pre_logits.fc.weight': np.eye(32, 32, 3, np.float32)}

  read = read_arrays(copy(TIMM, tmp_path / 'x', change))
  np.testing.assert_array_equal(read.pop('pre_logits/kernel'), np.eye(32, 32, -3))
  np.testing.assert_equal(read, read_arrays(TIMM))


def test_shards(tmp_path):
  tensors = load_file(HF)
  names = {k: f'model-0000{1 + i % 3}-of-00003.safetensors' for i, k in enumerate(tensors)}
  for file in set(names.values()):
    save_file({k: v for k, v in tensors.items() if names[k] == file}, tmp_path / file)
  index = tmp_path / 'model.safetensors.index.json'
  index.write_text(json.dumps({'weight_map': names}))
  shutil.copy(DATA / 'hf_tiny' / 'config.json', tmp_path)
  for path in (tmp_path, index):
    np.testing.assert_equal(read_arrays(path), read_arrays(HF))
  (tmp_path / 'model-00002-of-00003.safetensors').unlink()
  with pytest.raises(
    ValueError,
    match='Cannot read .*model-00002-of-00003.safetensors: no such file. Check the path.',
  ):
    read_arrays(tmp_path)
  index.write_text('{"weight_map": {"a": "../../etc/passwd"}}')
  with pytest.raises(ValueError, match='Cannot read .*index.json as an index of safetensors files'):
    read_arrays(tmp_path)


@pytest.mark.parametrize('dtype', [np.float16, jnp.bfloat16])
def test_half_precision_becomes_float32(tmp_path, dtype):
  half = lambda tensors: {k: v.astype(dtype) for k, v in tensors.items()}
  read = read_arrays(copy(TIMM, tmp_path / 'x', half))
  exact = read_arrays(TIMM)
  for name, x in read.items():
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, exact[name].astype(dtype).astype(np.float32))


def test_heads_come_from_the_model_the_config_or_the_width(tmp_path):
  name = 'Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel'
  assert read_arrays(TIMM)[name].shape == (32, 2, 16)
  assert read_arrays(TIMM, num_heads=4)[name].shape == (32, 4, 8)
  directory = copy(TIMM, tmp_path / 'x', config=False)
  with pytest.raises(
    ValueError, match='and no usual number is known for width 32. Give num_heads, or'
  ):
    read_arrays(directory)
  with pytest.raises(
    ValueError, match=r'shape \(32, 32\) does not fit 5 attention heads. Give another'
  ):
    read_arrays(directory, num_heads=5)
  model = create_model(
    'ViT-Ti/8', hidden_dim=32, mlp_dim=128, num_heads=2, num_layers=2, num_classes=10, image_size=32
  )
  np.testing.assert_equal(load_params(directory, model), load_params(TIMM, model))
  wide = create_model('ViT-Ti/8', num_layers=1, num_classes=2, image_size=8)
  save_params(
    jax.tree.map(lambda x: np.ones(x.shape, x.dtype), abstract_params(wide)),
    tmp_path / 'wide',
    'timm',
  )
  bare = copy(tmp_path / 'wide' / 'model.safetensors', tmp_path / 'bare', config=False)
  assert read_arrays(bare)[name].shape == (192, 3, 64)


@pytest.mark.parametrize(
  'source, old, new, words',
  [
    (
      TIMM,
      'norm.weight',
      'fc_norm.weight',
      r'cannot build its model: it has a LayerNorm after pooling \(fc_norm\)',
    ),
    (TIMM, 'head.bias', 'dist_token', 'distillation token'),
    (HF, 'classifier.bias', 'vit.embeddings.distillation_token', 'distillation token'),
    (TIMM, 'norm.bias', 'blocks.0.attn.q_norm.weight', 'it normalizes queries and keys'),
    (HF, 'classifier.bias', 'vit.encoder.layer.0.mlp.weights_in.weight', 'SwiGLU'),
    (
      HF,
      'vit.embeddings.patch_embeddings.projection.weight',
      'conv1.weight',
      'vit.embeddings.patch_embeddings.projection.weight is missing. Download it again.',
    ),
    (TIMM, 'head.bias', 'decoder.0.bias', r'Differences: missing head/bias \(10,\)\.$'),
    (TIMM, 'norm.bias', 'rope.periods', 'it has rotary position embeddings: rope.periods'),
    (TIMM, 'norm.bias', 'patch_embed.backbone.stem.conv.weight', 'it is a hybrid, which only npz'),
  ],
)
def test_files_of_other_models_say_why(tmp_path, source, old, new, words):
  change = lambda tensors: {new if k.endswith(old) else k: v for k, v in tensors.items()}
  directory = copy(source, tmp_path / 'x', change)
  model = create_model(
    'ViT-Ti/8', hidden_dim=32, mlp_dim=128, num_heads=2, num_layers=2, num_classes=10, image_size=32
  )
  with pytest.raises(ValueError, match=f'x.*{words}'):
    load_params(directory, model)


def test_safetensors_of_something_else(tmp_path):
  save_file({'bert.weight': np.zeros(3, np.float32)}, tmp_path / 'a.safetensors')
  with pytest.raises(ValueError, match="neither timm's nor Hugging Face's names .*bert.weight"):
    read_arrays(tmp_path / 'a.safetensors')


@pytest.mark.parametrize('source, kind', [(TIMM, 'timm'), (HF, 'hf')])
def test_another_normalization_of_the_pixels_is_named_and_kept(tmp_path, source, kind, caplog):
  mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
  config = json.loads(source.with_name('config.json').read_text())
  preprocessor = {'image_mean': mean, 'image_std': std}
  if kind == 'timm':
    config['pretrained_cfg'] = {'mean': mean, 'std': std}
    preprocessor = {}
  directory = copy(source, tmp_path / 'x')
  (directory / 'config.json').write_text(json.dumps(config))
  (directory / 'preprocessor_config.json').write_text(json.dumps(preprocessor))
  arrays, metadata = read_checkpoint(directory)
  for format in (kind, 'orbax'):
    write_arrays(arrays, tmp_path / format, format, metadata=metadata)
    kept = read_checkpoint(tmp_path / format).metadata
    assert (kept.image_mean, kept.image_std) == (mean, std)
  load_params(tmp_path / kind, infer(arrays, metadata))
  assert [r.getMessage() for r in caplog.records] == [
    f'{tmp_path / kind} expects images normalized as (x - mean) / std with x in [0, 1], '
    f'mean {mean} and std {std}. Normalize your images in the same way, or use '
    'load_model, which adapts the model to images in [-1, 1].'
  ]


@pytest.mark.parametrize('damage', ['empty', 'html', 'truncated', 'grown', 'header', 'length'])
def test_damaged_files_are_named(tmp_path, damage):
  good = TIMM.read_bytes()
  length = struct.unpack('<Q', good[:8])[0]
  middle = length // 2
  (tmp_path / 'bad.safetensors').write_bytes(
    {
      'empty': b'',
      'html': b'<!DOCTYPE html>',
      'truncated': good[:-100],
      'grown': good + b'1',
      'header': good[:middle] + bytes([good[middle] ^ 64]) + good[middle + 1 :],
      'length': bytes([good[0] ^ 1]) + good[1:],
    }[damage]
  )
  with pytest.raises(
    ValueError, match='Cannot read .*bad.safetensors as a safetensors file: .*. Download it again.'
  ):
    read_arrays(tmp_path / 'bad.safetensors')


@pytest.mark.parametrize(
  'text', ['', '[]', '{"num_attention_heads": "two"}', '{"id2label": {"a": "b"}}']
)
def test_damaged_configs_are_named(tmp_path, text):
  directory = copy(HF, tmp_path / 'x')
  (directory / 'config.json').write_text(text)
  with pytest.raises(
    ValueError,
    match='Cannot read the config of a model in .*x/config.json .*. Download the file again.',
  ):
    read_arrays(directory)
