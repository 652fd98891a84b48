"""Read images whose labels are in a file, such as DIR/labels.csv with the images in DIR/train/.

The file has the columns 'image', a path such as 'train/a/1.jpg' from the folder of the file, and
'label', the name or the number of a class. An image with several labels has several rows. An image
without any has one row whose label is empty or a negative number. The file is on a local disk.
"""

from __future__ import annotations

import csv
import os
import re
from typing import Any

import numpy as np

from vit_jax.data.source import Example, Source
from vit_jax.data.splits import split_rows
from vit_jax.errors import InputError, reason, remedy
from vit_jax.files import is_remote, user_path

_Label = int | str  # a class, or the name of a class


class LabelsFileSource(Source):
  """The images of a split, in the order of the file.

  The first folder in the path of an image is its split. A slice such as 'train[90%:]' is a random
  sample of the split, the same one every time. EXIF orientation applies.
  """

  apply_exif = True

  def __init__(self, file: str, split: str):
    """Read the file.

    Args:
      file: its path.
      split: in TFDS notation.

    Raises:
      InputError: the file cannot be read, some labels are numbers and others names, or there is no
        such split.
    """
    labels = _read_file(file)
    self._directory = os.path.dirname(user_path(file))
    found = {label for several in labels.values() for label in several}
    names = sorted(label for label in found if isinstance(label, str))
    if names and len(names) != len(found):
      raise InputError(
        f'Some labels in {file} are numbers, and others are names such as {names[0]!r}. Write all '
        'of them as numbers, or all as names.'
      )
    classes: dict[_Label, int] = {name: i for i, name in enumerate(names)}
    numbers = [label for label in found if isinstance(label, int)]
    self.class_names = names or None
    self.num_classes = len(names) or max(numbers, default=-1) + 1
    self.multi_label = any(len(several) != 1 for several in labels.values())
    splits = _splits(labels)
    sizes = {name: len(images) for name, images in splits.items()}
    self._images = [splits[name][i] for name, rows in split_rows(split, sizes) for i in rows]
    self._labels = [
      [label if isinstance(label, int) else classes[label] for label in labels[image]]
      for image in self._images
    ]

  def __len__(self) -> int:
    return len(self._images)

  def __getitem__(self, index: int) -> Example:
    try:
      with open(self.location(index), 'rb') as f:
        return {'image': f.read(), 'label': self.label(index)}
    except OSError as e:
      raise ValueError(f'the file cannot be read ({e.strerror})') from e

  def label(self, index: int) -> int | np.ndarray:
    """Return the label, without reading the image."""
    self._check(index)
    if not self.multi_label:
      return self._labels[index][0]
    multi_hot = np.zeros(self.num_classes, np.uint8)
    multi_hot[self._labels[index]] = 1
    return multi_hot

  def location(self, index: int) -> str:
    """Return the path of the image."""
    self._check(index)
    return os.path.join(self._directory, self._images[index])

  def _check(self, index: int) -> None:
    if not 0 <= index < len(self):
      raise IndexError(f'Index {index} is out of range for {len(self)} examples.')


def split_names(file: str) -> list[str]:
  """Return the names of the splits. Raise InputError if the file cannot be read."""
  return list(_splits(_read_file(file)))


def _splits(labels: dict[str, dict[_Label, None]]) -> dict[str, list[str]]:
  """Return {split: its images}. Folders called training or Train are the split 'train'."""
  splits: dict[str, list[str]] = {}
  for image in labels:
    folder = image.split('/')[0]
    name = 'train' if folder.lower() in ('train', 'training') else folder
    splits.setdefault(name, []).append(image)
  return splits


def _read_file(path: str) -> dict[str, dict[_Label, None]]:
  """Return {image: its labels}, as the keys of a dictionary, which keeps their order."""
  if is_remote(path):
    raise InputError(
      f'{path} is a remote address, but images with labels in a .csv file must be on a local disk. '
      'Download them, or mount the bucket.'
    )
  labels: dict[str, dict[_Label, None]] = {}
  try:
    with open(user_path(path), encoding='utf-8-sig', newline='') as f:
      reader = csv.DictReader(f)
      columns = reader.fieldnames or ()
      if not {'image', 'label'} <= set(columns):
        raise InputError(
          f'{path} has the columns {", ".join(columns) or "(none)"}. It needs the columns image '
          'and label.'
        )
      for row in reader:
        if problem := _find_problem(row):
          raise InputError(f'{path}, line {reader.line_num}: {problem}')
        found = labels.setdefault(os.path.normpath(row['image']), {})
        if (label := _parse_label(row['label'])) is not None:
          found[label] = None
  except FileNotFoundError as e:
    raise InputError(f'There is no file {path}. Check the path.') from e
  except (OSError, UnicodeDecodeError, csv.Error) as e:
    raise InputError(
      f'Cannot read {path}: {reason(e)}. '
      + remedy(e, 'It must be a text in UTF-8, with values between commas.')
    ) from e
  return labels


def _find_problem(row: dict[str | None, Any]) -> str | None:
  """Return what is wrong with a row and what to do about it, or None."""
  image = row['image']
  if not image:
    return 'There is no image. Add its path, such as train/1.jpg.'
  if row['label'] is None:
    return 'There is no label. Add it, or a comma if the image has none.'
  if None in row:
    return 'There are more values than columns. Put quotes around a value that has a comma.'
  path = os.path.normpath(image)
  if os.path.isabs(path) or path.split('/')[0] == '..':
    return (
      f'The path {image!r} leads out of the folder of the file. It must be relative to that '
      'folder, as in train/1.jpg.'
    )
  if '/' not in path:
    return (
      f'The path {image!r} has no folder. It must begin with that of a split, as in train/1.jpg.'
    )
  return None


def _parse_label(text: str) -> _Label | None:
  """Return a class, the name of a class, or None for an empty label and for negative numbers."""
  text = text.strip()
  if not re.fullmatch(r'-?\d+', text):
    return text or None
  return int(text) if int(text) >= 0 else None
