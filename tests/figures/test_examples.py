"""Predictions of example images."""

import jax
import numpy as np

from vit_jax import create_model, predict
from vit_jax.data.open_source import open_source
from vit_jax.data.preprocess import make_eval_preprocess
from vit_jax.evaluation.accuracy import is_correct
from vit_jax.figures.examples import Examples, Predictor, Sample
from vit_jax.parallel.mesh import MeshPartitioner
from vit_jax.pretrained.load import abstract_params


def test_predictions_are_those_of_predict(digits_dir):
  """Batches over 8 devices, the last one padded, give the predictions of single images."""
  model = create_model(
    'ViT-Ti/8', num_classes=12, image_size=16, hidden_dim=16, mlp_dim=16, num_heads=2, num_layers=1
  )
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), abstract_params(model)
  )
  source = open_source('digits', 'test', digits_dir)
  partitioner = MeshPartitioner(16)
  preprocess = make_eval_preprocess('bit', 16)
  predictor = Predictor(model, Sample(source, preprocess, count=20), partitioner, 'softmax')
  examples = predictor(partitioner.put(params))
  rows = np.linspace(0, len(source) - 1, 20).round().astype(int)
  assert examples.labels.tolist() == [source[int(i)]['label'] for i in rows]
  expected = [
    p[0]
    for p in predict(
      model, params, [source[int(i)]['image'] for i in rows], class_names=predictor.names, top_k=1
    )
  ]
  assert examples.predicted.tolist() == [p.label for p in expected]
  np.testing.assert_allclose(examples.probability, [p.probability for p in expected], rtol=1e-4)
  assert predictor.names == [str(i) for i in range(10)] + ['class 10', 'class 11']
  assert examples.correct.tolist() == (examples.labels == examples.predicted).tolist()


def test_captions():
  images = np.zeros((3, 2, 2, 3), np.uint8)

  def examples(labels, predicted):
    labels, predicted = np.array(labels), np.array(predicted)
    correct = np.asarray(is_correct(predicted, labels))
    return Examples(images, labels, predicted, np.ones(3), correct)

  several = examples([[1, 0, 1], [0, 1, 0], [0, 0, 0]], [2, 0, 1])
  assert several.captions(['a', 'b', 'c']) == [('a, c', 'c'), ('b', 'a'), ('nothing', 'b')]
  assert several.correct.tolist() == [True, False, False]
  single = examples([0, 1, 1], [0, 1, 2])
  assert single.captions(['a', 'b', 'c']) == [('a', 'a'), ('b', 'b'), ('b', 'c')]
  assert single.take(~single.correct).predicted.tolist() == [2]
