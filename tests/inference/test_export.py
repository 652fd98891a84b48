"""An exported program computes what the model computes, and does not need vit_jax."""

import importlib.util
import json
import subprocess
import sys

from flax.traverse_util import flatten_dict
import jax
from jax import export as jax_export
import numpy as np
import pytest

from tests.helpers.exported import expected, random_images
from vit_jax import create_model, load_params
from vit_jax.errors import InputError
from vit_jax.inference import export
from vit_jax.inference.export import export_onnx, export_stablehlo, load_exported
from vit_jax.models import layers, placement
from vit_jax.pretrained.load import abstract_params

SIZES = dict(hidden_dim=32, mlp_dim=64, num_heads=2, num_layers=2)
KINDS = {
  'token': ('ViT-Ti/8', dict(SIZES, representation_size=16, dropout=0.5)),
  'gap': ('ViT-Ti/8', dict(SIZES, head='gap', activation='gelu', pos_embedding='learned2d')),
  'map': ('ViT-Ti/8', dict(SIZES, head='map', activation='quick_gelu', pos_embedding='sincos2d')),
  'registers': ('ViT-Ti/8', dict(SIZES, registers=3, layer_scale=1.0, pre_norm=True)),
  'relative': ('ViT-Ti/8', dict(SIZES, pos_embedding='relative', pos_embedding_at='shared')),
  'axial': ('ViT-Ti/8', dict(SIZES, attention='axial', head='gap')),
  'hybrid': ('R+ViT-Ti/16', SIZES),
  'BiT': ('BiT-R50x1', {}),
}


def random_params(model, seed=0):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda a: rng.standard_normal(a.shape, np.float32) / 5 + (a.ndim == 1), abstract_params(model)
  )


def tiny(kind='token', image_size=(32, 64), **overrides):
  name, more = KINDS[kind]
  model = create_model(name, num_classes=7, image_size=image_size, **{**more, **overrides})
  return model, random_params(model)


@pytest.mark.parametrize('loss, weights', [('softmax', 'inside'), ('sigmoid', 'beside')])
def test_equals_the_model_for_any_batch(loss, weights, tmp_path):
  model, params = tiny()
  export_stablehlo(model, params, tmp_path / 'a' / 'vit', loss=loss, weights=weights)
  call = load_exported(tmp_path / 'a' / 'vit')
  for n in 1, 3, 8:
    images = random_images(model, n, n)
    result = np.asarray(call(images))
    assert result.dtype == np.float32 and result.shape == (n, 7)
    np.testing.assert_array_equal(
      result, expected(model, params, images, loss, closed=weights == 'inside')
    )
    if loss == 'softmax':
      np.testing.assert_allclose(result.sum(axis=1), 1, rtol=1e-6)
  assert np.ptp(result, axis=0).max() > 0.01  # the images matter


@pytest.mark.parametrize('weights', ['inside', 'beside'])
def test_jax_alone_runs_it(weights, tmp_path):
  model, params = tiny()
  export_stablehlo(model, params, tmp_path / 'vit', weights=weights)
  images = random_images(model, 5)
  np.save(tmp_path / 'images.npy', images)
  code = f"""
import sys
import jax
from jax import export
import numpy as np
program = export.deserialize(open('vit', 'rb').read())
weights = [dict(np.load('vit.npz'))] if {weights == 'beside'} else []
np.save('result.npy', jax.jit(program.call)(*weights, np.load('images.npy')))
assert not any(name.split('.')[0] in ('vit_jax', 'flax') for name in sys.modules)
"""
  subprocess.run([sys.executable, '-c', code], cwd=tmp_path, check=True, timeout=120)
  np.testing.assert_array_equal(
    np.load(tmp_path / 'result.npy'), expected(model, params, images, closed=weights == 'inside')
  )


@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_of_model(kind, tmp_path):
  model, params = tiny(kind)
  export_stablehlo(model, params, tmp_path / 'vit', weights='beside')
  images = random_images(model, 2)
  np.testing.assert_array_equal(
    load_exported(tmp_path / 'vit')(images), expected(model, params, images, closed=False)
  )


def test_one_program_for_all_platforms(tmp_path):
  model, params = tiny()
  export_stablehlo(model, params, tmp_path / 'vit', weights='beside')
  program = jax_export.deserialize((tmp_path / 'vit').read_bytes())
  assert program.platforms == ('cpu', 'cuda', 'tpu')
  assert str(program.in_avals[-1]) == 'uint8[b,32,64,3]'
  assert [str(a) for a in program.out_avals] == ['float32[b,7]']
  names = {
    tuple(k.key for k in path)[0]
    for path, _ in jax.tree.leaves_with_path(
      jax.tree.unflatten(program.in_tree, program.in_avals)[0][0]
    )
  }
  assert 'Transformer/encoderblock_1/MlpBlock_0/Dense_0/kernel' in names
  text = program.mlir_module()
  assert 'threefry' not in text and 'rng' not in text  # dropout=.5 in training
  np.testing.assert_equal(load_params(tmp_path / 'vit.npz', model), params)
  export_stablehlo(model, params, tmp_path / 'tpu', platforms=['tpu'])
  with pytest.raises(ValueError, match='platforms.*tpu.*but it is used on.*cpu'):
    load_exported(tmp_path / 'tpu')(random_images(model, 1))


@pytest.mark.parametrize('implementation', [None, 'cudnn'])
def test_a_program_does_not_depend_on_the_machine_that_exports_it(
  tmp_path, monkeypatch, implementation
):
  """On a GPU, the model itself would call cuDNN, which other platforms do not have."""
  monkeypatch.setattr(layers, 'suitable_implementation', lambda *args: 'by_head')
  monkeypatch.setattr(placement, 'target_platform', lambda: 'gpu')
  programs = {}
  for name, chosen in (('left open', implementation), ('plain', 'plain')):
    model, params = tiny(dtype='bfloat16', attention_implementation=chosen)
    export_stablehlo(model, params, tmp_path / name)
    programs[name] = jax_export.deserialize((tmp_path / name).read_bytes()).mlir_module()
  assert programs['left open'] == programs['plain']
  assert 'LayoutConstraint' not in programs['plain']


def test_misfits_are_refused(tmp_path, monkeypatch):
  model, params = tiny()
  bare = create_model('ViT-Ti/8', num_classes=0, image_size=32, **SIZES)
  for function in export_stablehlo, export_onnx:
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: name)
    with pytest.raises(InputError, match='^The model predicts no classes: it has no head'):
      function(bare, random_params(bare), tmp_path / 'vit')
    with pytest.raises(InputError, match="^Unknown loss 'hinge'. Available: softmax, sigmoid.$"):
      function(model, params, tmp_path / 'vit', loss='hinge')
    with pytest.raises(InputError, match='^There are 2 class names, but the model has 7 classes.$'):
      function(model, params, tmp_path / 'vit', class_names=['a', 'b'])
    with (
      monkeypatch.context() as patch,
      pytest.raises(InputError, match='Use weights=beside to write them'),
    ):
      patch.setattr(export, '_MAX_INSIDE', 50_000)
      function(model, params, tmp_path / 'vit')
  with pytest.raises(
    InputError, match='^ONNX needs dtype=float32, but the model computes in bfloat16.$'
  ):
    export_onnx(*tiny(dtype='bfloat16'), tmp_path / 'vit')
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(InputError, match=r"pip install 'vit_jax\[onnx\]'"):
    export_onnx(model, params, tmp_path / 'vit')
  assert not list(tmp_path.iterdir())


def test_a_directory_is_not_called_a_damaged_program(tmp_path):
  with pytest.raises(InputError) as error:
    load_exported(tmp_path)
  assert str(error.value) == (
    f'Cannot read {tmp_path}: Is a directory. Check its permissions and its disk.'
  )


def test_damaged_files_are_named(tmp_path):
  with pytest.raises(InputError, match='none: no such file. Check the path.$'):
    load_exported(tmp_path / 'none')
  export_stablehlo(*tiny(), tmp_path / 'vit')
  whole = (tmp_path / 'vit').read_bytes()
  for content in b'', b'a web page, not a program', whole[: len(whole) // 2]:
    (tmp_path / 'bad').write_bytes(content)
    with pytest.raises(InputError, match='bad is not a readable StableHLO program'):
      load_exported(tmp_path / 'bad')


@pytest.mark.parametrize(
  'kind, weights',
  [(kind, 'inside') for kind in KINDS if kind != 'BiT']
  + [('token', 'beside'), pytest.param('BiT', 'inside', marks=pytest.mark.slow)],
)
def test_onnx_equals_the_model_for_any_batch(kind, weights, tmp_path):
  pytest.importorskip('jax2onnx', reason="the extra 'onnx' is not installed")
  runtime = pytest.importorskip('onnxruntime')
  model, params = tiny(kind)
  export_onnx(model, params, tmp_path / 'vit.onnx', weights=weights)
  session = runtime.InferenceSession(tmp_path / 'vit.onnx', providers=['CPUExecutionProvider'])
  (given,), (made,) = session.get_inputs(), session.get_outputs()
  assert (given.name, given.type, given.shape) == ('images', 'tensor(uint8)', ['b', 32, 64, 3])
  assert (made.name, made.type, made.shape) == ('probabilities', 'tensor(float)', ['b', 7])
  for n in 1, 3, 8:
    images = random_images(model, n)
    np.testing.assert_allclose(
      session.run(None, {'images': images})[0], expected(model, params, images), atol=1e-5
    )
  with pytest.raises(InputError, match='cannot convert this model: its probabilities are off by'):
    export._verify_onnx(tmp_path / 'vit.onnx', model, 'sigmoid', flatten_dict(params, sep='/'))
  metadata = json.loads((tmp_path / 'vit.onnx.json').read_text())
  assert metadata['weights'] == (None if weights == 'inside' else 'vit.onnx.data')
  assert (tmp_path / 'vit.onnx.data').exists() == (weights == 'beside')
