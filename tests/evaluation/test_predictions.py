"""Predictions are compared with labels image by image, whatever the batches."""

import jax
import numpy as np
import pytest

from vit_jax import create_model
from vit_jax.errors import InputError
from vit_jax.evaluation.losses import cross_entropy
from vit_jax.evaluation.predictions import make_predict_step, predict_all
from vit_jax.models.pixels import to_input


def result(batch, **changes):
  """Return the result of a step that predicts the first pixel of each image."""
  prediction = batch['image'][:, 0, 0, 0].astype(int)
  labels = batch['label']
  if labels.ndim == 1:
    correct = prediction == labels
  else:
    correct = labels[np.arange(len(labels)), prediction] > 0
  confidence = prediction / 10
  return dict(prediction=prediction, confidence=confidence, correct=correct, top5=correct) | changes


def batch(predictions, labels, mask):
  images = np.zeros((len(predictions), 2, 2, 3), np.uint8)
  images[:, 0, 0, 0] = predictions
  return {'image': images, 'label': np.array(labels), 'mask': np.array(mask, bool)}


def test_masked_rows_do_not_count():
  batches = [batch([1, 2, 3], [1, 0, 3], [1, 1, 0]), batch([4, 5, 6], [4, 5, 0], [1, 0, 0])]
  images = []
  predictions, skipped = predict_all(lambda _, b: result(b), None, batches, images.append)
  assert images == [2, 1] and skipped == 0
  assert predictions.label.tolist() == predictions.class_label.tolist() == [1, 0, 4]
  assert predictions.prediction.tolist() == [1, 2, 4]
  assert predictions.confidence.tolist() == [0.1, 0.2, 0.4]
  assert predictions.correct.tolist() == predictions.class_correct.tolist() == [True, False, True]
  assert predictions.loss is None
  assert predictions.example.tolist() == [0, 1, 3]  # the rows of the images in their split


def test_several_labels():
  labels = [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
  predictions, skipped = predict_all(
    lambda _, b: result(b, loss=np.arange(3.0)), None, [batch([2, 0, 0], labels, [1, 1, 1])]
  )
  assert skipped == 1  # the image without a label
  assert predictions.label.tolist() == [-1, 1]
  assert predictions.correct.tolist() == [True, False]
  assert predictions.loss.tolist() == [0, 2]
  assert predictions.class_label.tolist() == [0, 2, 1]
  assert predictions.class_correct.tolist() == [True, True, False]


def test_errors():
  masked = batch([1, 2], [1, 2], [0, 0])
  with pytest.raises(InputError, match='^Nothing to evaluate: none of the images has a label.$'):
    predict_all(lambda _, b: result(b), None, [masked])
  broken = np.array([0.5, np.nan])
  with pytest.raises(
    InputError, match='^The outputs of the model are not finite for 1 of 2 images'
  ):
    predict_all(lambda _, b: result(b, confidence=broken), None, [batch([1, 2], [1, 2], [1, 1])])


@pytest.mark.parametrize('loss', ['softmax', 'sigmoid'])
def test_the_step(loss):
  sizes = dict(hidden_dim=16, mlp_dim=32, num_heads=2, num_layers=1)
  model = create_model('ViT-Ti/8', num_classes=7, image_size=8, **sizes)
  rng = np.random.default_rng(0)
  params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 8, 8, 3)))['params']
  params['head']['kernel'] = rng.normal(size=(16, 7)).astype(np.float32)
  images = rng.integers(0, 256, (6, 8, 8, 3), np.uint8)
  logits = np.asarray(model.apply({'params': params}, to_input(images)))
  order = np.argsort(-logits, axis=1)
  labels = np.array([order[0, 0], order[1, 1], order[2, 4], order[3, 5], order[4, 0], order[5, 6]])
  step = jax.jit(make_predict_step(model, loss))
  results = step(params, {'image': images, 'label': labels})
  assert results['prediction'].tolist() == order[:, 0].tolist()
  assert results['correct'].tolist() == [True, False, False, False, True, False]
  assert results['top5'].tolist() == [True, True, True, False, True, False]
  top = logits.max(1)
  shares = {'softmax': 1 / np.exp(logits - top[:, None]).sum(1), 'sigmoid': 1 / (1 + np.exp(-top))}
  np.testing.assert_allclose(results['confidence'], shares[loss], rtol=1e-5)
  np.testing.assert_allclose(results['loss'], cross_entropy(logits, labels, kind=loss), rtol=1e-5)
  shuffled = rng.permutation(7)  # the model's classes in the order of a dataset
  same = make_predict_step(model, loss, order=shuffled)(
    params, {'image': images, 'label': np.argsort(shuffled)[labels]}
  )
  assert shuffled[same['prediction']].tolist() == results['prediction'].tolist()
  for name in ('confidence', 'correct', 'top5', 'loss'):
    np.testing.assert_allclose(same[name], results[name], rtol=1e-6)
  without = make_predict_step(model, loss, with_loss=False)
  assert 'loss' not in without(params, {'image': images, 'label': labels})
