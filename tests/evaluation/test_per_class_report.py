"""A report of five predictions, worked out by hand.

The test of tools.evaluate compares a larger one with plain loops.
"""

import json

import numpy as np
import pytest

from vit_jax.evaluation.per_class_report import as_table, make_report, write
from vit_jax.evaluation.predictions import Predictions

NAMES = ['ant', 'bee', 'cat', 'dog', 'elk', 'fox']
CONTEXT = dict(checkpoint='x.npz', dataset='d', split='test', loss_kind='softmax', averaged=True)
CONTEXT |= dict(skipped=2, bad_records=['a.png'])


@pytest.fixture
def predictions():
  label, prediction = np.array([0, 0, 1, 2, 2]), np.array([0, 5, 1, 1, 1])
  correct = label == prediction
  return Predictions(
    label=label,
    prediction=prediction,
    confidence=np.array([0.9, 0.5, 0.7, 0.6, 0.6]),
    correct=correct,
    top5=np.array([1, 1, 1, 0, 1], bool),
    loss=np.arange(5, dtype=np.float32),
    class_label=label,
    class_correct=correct,
  )


def test_scores(predictions):
  report = make_report(predictions, NAMES, num_classes=4)
  assert (report['images'], report['correct'], report['accuracy']) == (5, 2, 0.4)
  assert (report['top5_accuracy'], report['loss'], report['notes']) == (0.8, 2.0, [])
  assert report['mean_class_accuracy'] == pytest.approx((0.5 + 1 + 0) / 3)
  assert report['calibration_error'] == pytest.approx((0.1 + 0.5 + 0.3 + 1.2) / 5)
  assert report['classes'][3] == dict({'class': 3}, name='dog', images=0, correct=0, accuracy=None)
  assert [(c['name'], c['predicted_name'], c['images']) for c in report['confusions']] == [
    ('cat', 'bee', 2),
    ('ant', 'fox', 1),
  ]


def test_notes_say_why_a_score_is_missing(predictions):
  several = predictions._replace(
    label=np.array([0, -1, 1, 2, 2]), prediction=np.array([0, 4, 1, 1, 1]), loss=None
  )
  report = make_report(several, NAMES[:5], num_classes=4)
  assert report['top5_accuracy'] is None and report['loss'] is None
  assert report['notes'] == [
    'There is no top-5 accuracy: the model has 5 classes.',
    'There is no loss: softmax cross-entropy is not defined for images with several labels.',
    'A prediction for an image with several labels is correct if it is one of them. Such an image '
    'counts in the class of each label. The confusions are those of the 4 images with one label.',
  ]


def test_table(predictions):
  assert (
    as_table(CONTEXT | make_report(predictions, NAMES, num_classes=4))
    == """\
x.npz on d, test:
  accuracy               40.00 %   2 of 5 images
  top-5 accuracy         80.00 %
  mean over classes      50.00 %
  loss (softmax)        2.0000
  calibration error      42.00 %
worst classes:
      0.00 % of      2 images   cat
     50.00 % of      2 images   ant
most frequent confusions:
         2 x cat, taken for bee
         1 x ant, taken for fox
note: The parameters are the average over the steps of the run.
note: Left out 2 images without a label.
note: Left out 1 image that cannot be decoded."""
  )


def test_names_that_are_no_text(predictions, tmp_path):
  names = ['caf\udce9', 'a\nb', 'é', *NAMES[3:]]
  report = CONTEXT | make_report(predictions, names, num_classes=4)
  assert '        2 x é, taken for a\\nb\n         1 x caf\ufffd, taken for' in as_table(report)
  write(tmp_path, report, predictions)
  assert json.loads((tmp_path / 'evaluation.json').read_text()) == report
  assert '0,caf\\udce9,2,1,0.5\n' in (tmp_path / 'per_class.csv').read_text(encoding='utf-8')


def test_files(predictions, tmp_path):
  report = CONTEXT | make_report(predictions, NAMES, num_classes=4)
  write(tmp_path, report, predictions)
  assert json.loads((tmp_path / 'evaluation.json').read_text()) == report
  assert (tmp_path / 'per_class.csv').read_text().splitlines() == [
    'class,name,images,correct,accuracy',
    '0,ant,2,1,0.5',
    '1,bee,1,1,1.0',
    '2,cat,2,0,0.0',
    '3,dog,0,0,',
  ]
  assert (tmp_path / 'confusion.png').read_bytes().startswith(b'\x89PNG')
