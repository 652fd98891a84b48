"""List every image of an evaluation: its path, label, prediction and probability."""

from __future__ import annotations

from collections.abc import Sequence
import csv
import importlib.util
import io
import pathlib
from typing import Any

import numpy as np

from vit_jax.data.source import Source
from vit_jax.errors import InputError
from vit_jax.evaluation.predictions import Predictions
from vit_jax.files import local_path, replacing

COLUMNS: tuple[str, ...] = ('path', 'label', 'prediction', 'probability', 'correct')
Rows = list[dict[str, Any]]


def check_format(path: str) -> pathlib.Path:
  """Return the local path of a table.

  Raises:
    InputError: its name does not end in .csv or .parquet, or .parquet needs a package.
  """
  suffix = pathlib.PurePath(path).suffix
  if suffix not in ('.csv', '.parquet'):
    raise InputError(f'Cannot write {path}: a table of images ends in .csv or .parquet.')
  if suffix == '.parquet' and importlib.util.find_spec('pyarrow') is None:
    raise InputError(f'Cannot write {path}: run `pip install pyarrow`, or write a .csv file.')
  return local_path(path)


def image_rows(predictions: Predictions, source: Source, names: Sequence[str]) -> Rows:
  """Return a row for each image of the source, in its order.

  An image that was left out, because it is damaged or has no label, has only its path. The labels
  of an image with several are separated by '; '.

  Args:
    predictions: as `predict_source` returns them.
    source: the images.
    names: names of all classes.
  """
  p = predictions
  assert p.example is not None, 'predict_all records the images'
  rows: Rows = [
    dict.fromkeys(COLUMNS) | {'path': _text(source.location(i))} for i in range(len(source))
  ]
  for i, label, prediction, probability, correct in zip(
    p.example.tolist(),
    p.label.tolist(),
    p.prediction.tolist(),
    p.confidence.tolist(),
    p.correct.tolist(),
    strict=True,
  ):
    labels: list[int] = [label] if label >= 0 else np.flatnonzero(source.label(i)).tolist()
    rows[i] |= {
      'label': '; '.join(_text(names[k]) for k in labels),
      'prediction': _text(names[int(prediction)]),
      'probability': probability,
      'correct': correct,
    }
  return rows


def write_images(path: pathlib.Path, rows: Rows) -> None:
  """Write the rows of `image_rows` as a .csv or .parquet file. It replaces an earlier one.

  Raises:
    InputError: the file cannot be written.
  """
  with replacing(path) as temporary:
    if path.suffix == '.parquet':
      import pyarrow as pa
      from pyarrow import parquet

      types = (pa.string(), pa.string(), pa.string(), pa.float32(), pa.bool_())
      table = pa.Table.from_pylist(rows, pa.schema(list(zip(COLUMNS, types))))
      parquet.write_table(table, temporary)
    else:
      text = io.StringIO()
      table = csv.DictWriter(text, COLUMNS, lineterminator='\n')
      table.writeheader()
      table.writerows(rows)
      temporary.write_text(text.getvalue(), encoding='utf-8')


def _text(name: str) -> str:
  """Return a name that UTF-8 can hold. The name of a file may have any bytes."""
  return name.encode('utf-8', 'backslashreplace').decode()
