"""What the evaluate tool prints and writes of its predictions."""

from __future__ import annotations

import csv
import io
import json
import os
import pathlib
from typing import Any

import numpy as np

from vit_jax.errors import InputError
from vit_jax.evaluation import scores
from vit_jax.files import local_path, replacing

_BINS = 15  # of the calibration error, as in arXiv 1706.04599
_MOST_DRAWN = 30  # classes that have room in a picture
_DRAWN_OF_MORE = 20  # of more classes than that, so many are drawn
_LISTED = 5  # classes and confusions in the table
_LONGEST_NAME = 24  # characters beside the picture

Report = dict[str, Any]


def make_report(predictions: Any, names: list[str], num_classes: int) -> Report:
  """All measures, as JSON can hold them; None for what is not defined, which `notes` explains.

  Args:
    predictions: `tools.evaluate.Predictions`.
    names: of all classes of the model.
    num_classes: of the data set; at most as many.
  """
  p, notes = predictions, []
  images, right = scores.per_class(p.class_label, p.class_correct, num_classes)
  accuracies = right[images > 0] / images[images > 0]
  single = p.label >= 0
  found = scores.confusions(p.label[single], p.prediction[single])
  bins = scores.confidence_bins(p.confidence, p.correct, _BINS)
  if len(names) <= 5:
    notes.append(f'no top-5: the model has {len(names)} classes')
  if p.loss is None:
    notes.append('no loss: softmax cross-entropy is not defined for several labels')
  if not single.all():
    notes.append(
      'an image with several labels is right when it is taken for any of them, and '
      f'counts in the class of each; the confusions are of the {single.sum():,} images '
      'with one label'
    )
  return {
    'images': len(p.label),
    'correct': int(p.correct.sum()),
    'accuracy': float(p.correct.mean()),
    'top5_accuracy': float(p.top5.mean()) if len(names) > 5 else None,
    'mean_class_accuracy': float(accuracies.mean()),
    'loss': None if p.loss is None else float(p.loss.mean(dtype=np.float64)),
    'calibration_error': scores.calibration_error(p.confidence, p.correct, _BINS),
    'notes': notes,
    'calibration_bins': [
      {'above': i / _BINS, 'images': int(n), 'confidence': float(c), 'accuracy': float(a)}
      for i, (n, c, a) in enumerate(zip(*bins))
    ],
    'classes': [
      {
        'class': i,
        'name': names[i],
        'images': int(n),
        'correct': int(k),
        'accuracy': k / n if n else None,
      }
      for i, (n, k) in enumerate(zip(images.tolist(), right.tolist()))
    ],
    'confusions': [
      {'class': i, 'name': names[i], 'prediction': j, 'predicted_name': names[j], 'images': n}
      for i, j, n in zip(*(x.tolist() for x in found))
    ],
  }


def as_table(report: Report) -> str:
  """The report in short, accuracies and calibration error in per cent."""
  r = report
  percent = lambda x: f'{100 * x:8.2f} %'
  rows = [('accuracy', percent(r['accuracy']) + f'   {r["correct"]:,} of {r["images"]:,} images')]
  if r['top5_accuracy'] is not None:
    rows.append(('top-5 accuracy', percent(r['top5_accuracy'])))
  rows.append(('mean over classes', percent(r['mean_class_accuracy'])))
  if r['loss'] is not None:
    rows.append((f'loss ({r["loss_kind"]})', f'{r["loss"]:8.4f}'))
  rows.append(('calibration error', percent(r['calibration_error'])))
  lines = [f'{r["checkpoint"]} on {r["dataset"]}, {r["split"]}:']
  lines += [f'  {what:<20}{value}' for what, value in rows]
  # Of equally bad classes the largest first, then in order.
  worst = sorted(
    (c for c in r['classes'] if c['correct'] < c['images']),
    key=lambda c: (c['accuracy'], -c['images']),
  )[:_LISTED]
  if worst:
    lines += ['worst classes:'] + [
      f'  {percent(c["accuracy"])} of {c["images"]:>6,} images   {c["name"]}' for c in worst
    ]
  if r['confusions']:
    lines += ['most frequent confusions:'] + [
      f'  {c["images"]:8,} x {c["name"]}, taken for {c["predicted_name"]}'
      for c in r['confusions'][:_LISTED]
    ]
  if r['averaged']:
    lines.append('note: the parameters are the average that the run kept')
  if r['skipped']:
    lines.append(f'note: {r["skipped"]:,} images without a label were left out')
  if r['bad_records']:
    lines.append(f'note: {len(r["bad_records"]):,} damaged records were left out')
  return '\n'.join(lines + [f'note: {note}' for note in r['notes']])


def make_directory(path: str) -> pathlib.Path:
  """The directory to write to, made if it is not there; InputError when it cannot be written."""
  directory = local_path(path)
  try:
    directory.mkdir(parents=True, exist_ok=True)
  except OSError as e:
    raise InputError(f'cannot write {directory}: {e.strerror or e}') from e
  if not os.access(directory, os.W_OK):
    raise InputError(f'cannot write {directory}: it is read-only to you')
  return directory


def write(directory: pathlib.Path, report: Report, predictions: Any) -> None:
  """Writes evaluation.json, per_class.csv and confusion.png, each in one piece."""
  with replacing(directory / 'evaluation.json') as path:
    path.write_text(json.dumps(report, indent=1) + '\n')
  text = io.StringIO()
  table = csv.DictWriter(
    text, ['class', 'name', 'images', 'correct', 'accuracy'], lineterminator='\n'
  )
  table.writeheader()
  table.writerows(report['classes'])
  with replacing(directory / 'per_class.csv') as path:
    path.write_text(text.getvalue(), encoding='utf-8')
  with replacing(directory / 'confusion.png') as path:
    draw_confusions(path, report, predictions)


def draw_confusions(path: pathlib.Path, report: Report, predictions: Any) -> None:
  """Writes a PNG: for each class (row), in per cent, what its images were taken for (columns).

  Of more than 30 classes it shows the 20 with the most errors. Images with several labels are
  left out.
  """
  single = predictions.label >= 0
  labels, predicted = predictions.label[single], predictions.prediction[single]
  names = [c['name'] for c in report['classes']]
  classes = np.arange(len(names))
  if len(names) > _MOST_DRAWN:
    classes = scores.most_confused(scores.confusions(labels, predicted), len(names), _DRAWN_OF_MORE)
  counts = scores.confusion_matrix(labels, predicted, classes)
  shown = [_shorten(names[i]) for i in classes]
  title = f'{report["dataset"]}, {report["split"]}: accuracy {100 * report["accuracy"]:.2f} %'
  if len(classes) < len(names):
    title += f'\nthe {len(classes)} of {len(names):,} classes with the most errors'
  _draw(path, counts, shown, title)


def _shorten(name):
  return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + '…'


def _draw(path: pathlib.Path, counts: np.ndarray, names: list[str], title: str) -> None:
  """A heat map of counts (n, n + 1), each row as its share; the last column is 'others'."""
  from matplotlib.colors import PowerNorm
  from matplotlib.figure import Figure  # not pyplot, which would look for a display

  shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
  columns = names + ['(others)']
  if not counts[:, -1].any():
    shares, columns = shares[:, :-1], names
  side = 3 + 0.38 * max(len(columns), 8)  # inches
  figure = Figure((side + 1, side), dpi=110, layout='constrained')
  axes = figure.add_subplot()
  # Not linear: a class is mostly right, and its few per cent of errors are to be seen.
  image = axes.imshow(shares, cmap='Blues', norm=PowerNorm(0.5, 0, 1))
  axes.set_xticks(range(len(columns)), columns, rotation=90, parse_math=False)
  axes.set_yticks(range(len(names)), names, parse_math=False)
  axes.set_xlabel('predicted')
  axes.set_ylabel('label')
  axes.set_title(title, parse_math=False)
  for (row, column), share in np.ndenumerate(shares):
    if share >= 0.005:
      axes.text(
        column,
        row,
        f'{100 * share:.0f}',
        ha='center',
        va='center',
        fontsize=8,
        color='white' if share > 0.4 else 'black',
      )
  figure.colorbar(
    image, label="share of the label's images", format=lambda x, _: f'{x:.0%}', shrink=0.8
  )
  figure.savefig(path, format='png')
