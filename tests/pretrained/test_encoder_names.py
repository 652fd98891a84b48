"""The encoder is found and read in files that hold more than one model, or wrap it."""

import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.helpers.paths import FILES
from vit_jax.errors import InputError
from vit_jax.pretrained.encoder_names import describe, find_encoder, is_beside
from vit_jax.pretrained.formats import read_arrays, write_arrays
from vit_jax.pretrained.load import load_model

TIMM, HF = FILES / 'timm_tiny', FILES / 'hf_tiny'
EXTRA = np.ones((3, 3), np.float32)


def write(directory, tensors, config=TIMM / 'config.json'):
  directory.mkdir(exist_ok=True)
  tensors = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
  save_file(tensors, directory / 'model.safetensors', metadata={'format': 'pt'})
  shutil.copy(config, directory)
  return directory


def tensors_of(source):
  return load_file(source / 'model.safetensors')


def headless(tensors):
  return {k: v for k, v in tensors.items() if not k.startswith(('head.', 'classifier.'))}


def prefixed(prefix, tensors):
  return {prefix + k: v for k, v in tensors.items()}


def zeros(tensors):
  return {k: 0 * v for k, v in tensors.items()}


MAE = dict.fromkeys(
  ['decoder_embed.weight', 'decoder_blocks.0.attn.qkv.weight', 'decoder_pos_embed', 'mask_token'],
  EXTRA,
)
PARTS = 'Read only {} and left out arrays that it does not use: {}.'


@pytest.mark.parametrize(
  'make, head, note',
  [
    (
      lambda t: t | MAE,
      True,
      PARTS.format(
        'the encoder',
        'decoder_blocks (1 array); decoder_embed (1 array); decoder_pos_embed (1 array); '
        'mask_token (1 array)',
      ),
    ),
    (
      lambda t: headless(t) | {'head.mlp.0.weight': EXTRA, 'head.last_layer.weight_g': EXTRA},
      False,
      PARTS.format('the encoder', 'head (2 arrays)'),
    ),
    (
      lambda t: (
        prefixed('student.backbone.', zeros(headless(t)))
        | prefixed('teacher.backbone.', headless(t))
        | {'teacher.dino_head.mlp.0.weight': EXTRA}
      ),
      False,
      PARTS.format(
        'the encoder teacher.backbone.*', 'student (30 arrays); teacher.dino_head (1 array)'
      ),
    ),
    (
      lambda t: (
        prefixed('module.momentum_encoder.', zeros(headless(t)))
        | prefixed('module.base_encoder.', headless(t))
        | {'module.base_encoder.head.0.weight': EXTRA, 'module.predictor.0.weight': EXTRA}
      ),
      False,
      PARTS.format(
        'the encoder module.base_encoder.*',
        'module.base_encoder.head (1 array); module.momentum_encoder (30 arrays); '
        'module.predictor (1 array)',
      ),
    ),
    (
      lambda t: (
        prefixed('encoder.', zeros(headless(t)))
        | prefixed('target_encoder.', headless(t))
        | {'predictor.predictor_blocks.0.attn.qkv.weight': EXTRA}
      ),
      False,
      PARTS.format('the encoder target_encoder.*', 'encoder (30 arrays); predictor (1 array)'),
    ),
    (
      lambda t: (
        prefixed('visual.trunk.', t) | {'text.token_embedding.weight': EXTRA, 'logit_scale': EXTRA}
      ),
      True,
      PARTS.format('the encoder visual.trunk.*', 'logit_scale (1 array); text (1 array)'),
    ),
    (lambda t: prefixed('module.', t), True, None),
    (lambda t: prefixed('_orig_mod.module.', t), True, None),
    (lambda t: prefixed('encoder.', headless(t)) | {'head.bias': t['head.bias']} | {
      'head.weight': t['head.weight']}, True, None),
    (lambda t: {re.sub(r'blocks\.(\d+)', r'blocks.\1.\1', k): v for k, v in t.items()}, True, None),
    (lambda t: {re.sub(r'blocks\.(\d+)', r'blocks.\1.0', k): v for k, v in t.items()}, True, None),
    (lambda t: {re.sub(r'blocks\.(\d+)', r'blocks.0.\1', k): v for k, v in t.items()}, True, None),
  ],
  ids=[
    'MAE', 'DINO head', 'DINOv2 training', 'MoCo', 'I-JEPA', 'CLIP', 'module', 'compiled',
    'outer head', 'chunks of one', 'chunks numbered again', 'one chunk',
  ],
)  # fmt: skip
def test_the_encoder_is_read_and_the_rest_is_named(tmp_path, make, head, note, warnings):
  expected = read_arrays(TIMM)
  if not head:
    expected = {k: v for k, v in expected.items() if not k.startswith('head/')}
  directory = write(tmp_path / 'x', make(tensors_of(TIMM)))
  np.testing.assert_equal(read_arrays(directory), expected)
  assert warnings() == ([f'{directory}/model.safetensors: {note}'] if note else [])


@pytest.mark.parametrize('prefix', ['module.', 'model.', '_orig_mod.module.'])
def test_a_wrapper_around_a_classifier_of_hugging_face(tmp_path, prefix, warnings):
  directory = write(tmp_path / 'x', prefixed(prefix, tensors_of(HF)), HF / 'config.json')
  np.testing.assert_equal(read_arrays(directory), read_arrays(HF))
  assert warnings() == []


def test_the_masked_autoencoder_of_hugging_face(tmp_path, warnings):
  tensors = headless(tensors_of(HF)) | {'decoder.mask_token': EXTRA, 'decoder.decoder_norm': EXTRA}
  directory = write(tmp_path / 'x', tensors, HF / 'config.json')
  expected = {k: v for k, v in read_arrays(HF).items() if not k.startswith('head/')}
  np.testing.assert_equal(read_arrays(directory), expected)
  assert warnings() == [
    f'{directory}/model.safetensors: ' + PARTS.format('the encoder vit.*', 'decoder (2 arrays)')
  ]


def test_registers_under_the_name_that_dinov2_gives_them(tmp_path, warnings):
  source = FILES / 'timm_registers'
  tensors = tensors_of(source)
  tensors['register_tokens'] = tensors.pop('reg_token')
  directory = write(tmp_path / 'x', tensors, source / 'config.json')
  np.testing.assert_equal(read_arrays(directory), read_arrays(source))
  assert warnings() == []


def test_a_decoder_in_an_npz_file(tmp_path, warnings):
  arrays = read_arrays(TIMM)
  write_arrays(
    arrays | {'decoder/norm/scale': EXTRA[0], 'mask_token': EXTRA[0]}, tmp_path / 'x.npz'
  )
  np.testing.assert_equal(read_arrays(tmp_path / 'x.npz'), arrays)
  assert warnings() == [
    f'{tmp_path}/x.npz: ' + PARTS.format('the encoder', 'decoder (1 array); mask_token (1 array)')
  ]


def test_two_encoders_that_nothing_tells_apart(tmp_path):
  tensors = tensors_of(TIMM)
  directory = write(tmp_path / 'x', prefixed('a.', tensors) | prefixed('b.', tensors))
  with pytest.raises(InputError) as e:
    read_arrays(directory)
  assert str(e.value) == (
    f'Cannot load {directory}/model.safetensors: It holds 2 encoders, and their names do not say '
    'which one to read: a.*; b.*. Keep the arrays of one of them.'
  )


@pytest.mark.parametrize(
  'change, words',
  [
    (
      {'blocks.0.attn.strange': EXTRA},
      'Cannot load {0}: create_model has no model with exactly these arrays. Differences from '
      'ViT-Ti/8: extra blocks.0.attn.strange (3, 3).',
    ),
    (
      {'patch_embed.proj.weight': np.ones((32, 1, 8, 8), np.float32)},
      'Cannot load {0}: The number of channels of its images is 1, but create_model only makes '
      'models for RGB images.',
    ),
    (
      {'patch_embed.proj.weight': np.ones((32, 3, 8, 4), np.float32)},
      'Cannot load {0}: Its patches are 8x4 pixels, but create_model only makes square patches.',
    ),
    (
      {'patch_embed.proj.weight': np.ones((32, 3, 2, 8, 8), np.float32)},
      'Cannot load {0}/model.safetensors: patch_embed.proj.weight has the shape (32, 3, 2, 8, 8), '
      'but the patch embedding must be a convolution of images, (width, colors, height, width). '
      'Give a model of images whose patches a convolution embeds.',
    ),
    (
      {'head.weight': np.ones((10, 64), np.float32)},
      'Cannot load {0}: Its head takes 64 features, but the encoder gives 32. The classifiers of '
      "Hugging Face's DINOv2 also take the mean of the patches, for which create_model has no "
      'head.',
    ),
  ],
  ids=['inside a block', 'gray', 'oblong patches', 'video', 'head'],
)
def test_a_model_that_cannot_be_built_is_refused_for_the_right_reason(tmp_path, change, words):
  directory = write(tmp_path / 'x', tensors_of(TIMM) | change)
  with pytest.raises(InputError) as e:
    load_model(directory)
  assert str(e.value) == words.format(directory)


def test_names():
  names = ['a.patch_embed.proj.weight', 'a.norm.bias', 'norm.bias', 'head.bias', 'c.head.bias']
  encoder = find_encoder(names)
  assert (encoder.kind, encoder.prefix) == ('timm', 'a.')
  assert encoder.names == {
    'a.patch_embed.proj.weight': 'a.patch_embed.proj.weight',
    'a.norm.bias': 'a.norm.bias',
    'head.bias': 'a.head.bias',
  }
  assert encoder.left_out == ['norm.bias', 'c.head.bias']
  assert describe(encoder.left_out, encoder.prefix) == 'c (1 array); norm (1 array)'
  assert find_encoder(['bert.weight']) is None
  assert is_beside('decoder.0.bias') and not is_beside('blocks.0.norm1.bias')
