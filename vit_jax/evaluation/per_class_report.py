"""Report an evaluation: totals, every class, calibration and confusions."""

from __future__ import annotations

from collections.abc import Iterable
import csv
import io
import json
import pathlib
from typing import Any

import numpy as np

from vit_jax.evaluation import scores
from vit_jax.evaluation.confusion_plot import draw_confusions
from vit_jax.evaluation.predictions import TOP, Predictions
from vit_jax.files import printable, replacing

_BINS = 15  # bins of the calibration error, as in arXiv 1706.04599
_LISTED = 5  # number of classes and of confusions in the table

Report = dict[str, Any]


def make_report(predictions: Predictions, names: list[str], num_classes: int) -> Report:
  """Return all scores in a form that JSON can hold.

  A score that is not defined is None, and `notes` explains why.

  Args:
    predictions: predictions for all images.
    names: names of all classes of the model.
    num_classes: number of classes of the dataset, at most as many as the model has.
  """
  p = predictions
  one_label = p.label >= 0
  images, correct = scores.per_class(p.class_label, p.class_correct, num_classes)
  accuracies = correct[images > 0] / images[images > 0]
  confusions = scores.confusions(p.label[one_label], p.prediction[one_label])
  return {
    'images': len(p.label),
    'correct': int(p.correct.sum()),
    'accuracy': float(p.correct.mean()),
    'top5_accuracy': float(p.top5.mean()) if len(names) > TOP else None,
    'mean_class_accuracy': float(accuracies.mean()),
    'loss': None if p.loss is None else float(p.loss.mean(dtype=np.float64)),
    'calibration_error': scores.calibration_error(p.confidence, p.correct, _BINS),
    'notes': _notes(p, len(names)),
    'calibration_bins': _calibration_rows(p),
    'classes': _class_rows(images, correct, names),
    'confusions': _confusion_rows(confusions, names),
  }


def _notes(predictions: Predictions, model_classes: int) -> list[str]:
  notes = []
  if model_classes <= TOP:
    notes.append(f'There is no top-5 accuracy: the model has {model_classes} classes.')
  if predictions.loss is None:
    notes.append(
      'There is no loss: softmax cross-entropy is not defined for images with several labels.'
    )
  one_label = np.count_nonzero(predictions.label >= 0)
  if one_label < len(predictions.label):
    notes.append(
      'A prediction for an image with several labels is correct if it is one of them. Such an '
      'image counts in the class of each label. The confusions are those of the '
      f'{one_label:,} images with one label.'
    )
  return notes


def _calibration_rows(predictions: Predictions) -> list[dict[str, Any]]:
  bins = scores.confidence_bins(predictions.confidence, predictions.correct, _BINS)
  return [
    {'above': i / _BINS, 'images': int(images), 'confidence': float(conf), 'accuracy': float(acc)}
    for i, (images, conf, acc) in enumerate(zip(*bins))
  ]


def _class_rows(images: np.ndarray, correct: np.ndarray, names: list[str]) -> list[dict[str, Any]]:
  return [
    {
      'class': i,
      'name': names[i],
      'images': total,
      'correct': right,
      'accuracy': right / total if total else None,
    }
    for i, (total, right) in enumerate(zip(images.tolist(), correct.tolist()))
  ]


def _confusion_rows(confusions: scores.Confusions, names: list[str]) -> list[dict[str, Any]]:
  return [
    {'class': i, 'name': names[i], 'prediction': j, 'predicted_name': names[j], 'images': images}
    for i, j, images in zip(*(x.tolist() for x in confusions))
  ]


def as_table(report: Report) -> str:
  """Return a summary of the report as text, with accuracies and calibration error in percent."""
  r = report
  rows = [('accuracy', f'{_percent(r["accuracy"])}   {r["correct"]:,} of {r["images"]:,} images')]
  if r['top5_accuracy'] is not None:
    rows.append(('top-5 accuracy', _percent(r['top5_accuracy'])))
  rows.append(('mean over classes', _percent(r['mean_class_accuracy'])))
  if r['loss'] is not None:
    rows.append((f'loss ({r["loss_kind"]})', f'{r["loss"]:8.4f}'))
  rows.append(('calibration error', _percent(r['calibration_error'])))
  lines = [f'{r["checkpoint"]} on {r["dataset"]}, {r["split"]}:']
  lines += [f'  {name:<20}{value}' for name, value in rows]
  if worst := _worst_classes(r['classes']):
    lines.append('worst classes:')
    lines += [
      f'  {_percent(c["accuracy"])} of {c["images"]:>6,} images   {printable(c["name"])}'
      for c in worst
    ]
  if r['confusions']:
    lines.append('most frequent confusions:')
    lines += [
      f'  {c["images"]:8,} x {printable(c["name"])}, taken for {printable(c["predicted_name"])}'
      for c in r['confusions'][:_LISTED]
    ]
  notes = []
  if r['averaged']:
    notes.append('The parameters are the average over the steps of the run.')
  if r['skipped']:
    notes.append(f'Left out {_images(r["skipped"])} without a label.')
  if r['bad_records']:
    notes.append(f'Left out {_images(len(r["bad_records"]))} that cannot be decoded.')
  return '\n'.join(lines + [f'note: {note}' for note in notes + r['notes']])


def _images(count: int) -> str:
  return f'{count:,} image{"" if count == 1 else "s"}'


def _percent(share: float) -> str:
  return f'{100 * share:8.2f} %'


def _worst_classes(classes: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
  """Return the classes with the lowest accuracy. Among equals, the largest class is first."""
  imperfect = [c for c in classes if c['correct'] < c['images']]
  return sorted(imperfect, key=lambda c: (c['accuracy'], -c['images']))[:_LISTED]


def write(directory: pathlib.Path, report: Report, predictions: Predictions) -> None:
  """Write evaluation.json, per_class.csv and confusion.png, each of them atomically."""
  with replacing(directory / 'evaluation.json') as path:
    path.write_text(json.dumps(report, indent=1) + '\n')
  text = io.StringIO()
  columns = ['class', 'name', 'images', 'correct', 'accuracy']
  table = csv.DictWriter(text, columns, lineterminator='\n')
  table.writeheader()
  table.writerows(report['classes'])
  with replacing(directory / 'per_class.csv') as path:
    path.write_text(text.getvalue(), encoding='utf-8', errors='backslashreplace')
  one_label = predictions.label >= 0
  with replacing(directory / 'confusion.png') as path:
    draw_confusions(
      path,
      predictions.label[one_label],
      predictions.prediction[one_label],
      names=[c['name'] for c in report['classes']],
      title=f'{report["dataset"]}, {report["split"]}: accuracy {100 * report["accuracy"]:.2f} %',
    )
