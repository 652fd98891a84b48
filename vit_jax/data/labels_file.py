"""Read images whose labels are in a file, such as DIR/labels.csv with the images in DIR/train/.

The file has the columns 'image', a path such as 'train/a/1.jpg' from the folder of the file, and
'label', the name or the number of a class. An image with several labels has several rows. An image
without any has one row whose label is empty.
"""

from __future__ import annotations

import csv
import os

import numpy as np

from vit_jax.data.source import Example, Source
from vit_jax.data.splits import split_rows
from vit_jax.errors import InputError, reason
from vit_jax.files import user_path


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
      InputError: the file cannot be read, or there is no such split.
    """
    labels = _read_file(file)
    self._directory = os.path.dirname(user_path(file))
    names = sorted({name for found in labels.values() for name in found})
    numbers = [int(name) for name in names if name.isdecimal()]
    if len(numbers) == len(names):
      self.class_names, self.num_classes = None, max(numbers, default=-1) + 1
      classes = dict(zip(names, numbers))
    else:
      self.class_names, self.num_classes = names, len(names)
      classes = {name: i for i, name in enumerate(names)}
    self.multi_label = any(len(found) != 1 for found in labels.values())
    splits = _splits(labels)
    sizes = {name: len(images) for name, images in splits.items()}
    self._images = [splits[name][i] for name, rows in split_rows(split, sizes) for i in rows]
    self._labels = [[classes[name] for name in labels[image]] for image in self._images]

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


def _splits(labels: dict[str, dict[str, None]]) -> dict[str, list[str]]:
  """Return {split: its images}. Folders called training or Train are the split 'train'."""
  splits: dict[str, list[str]] = {}
  for image in labels:
    folder = image.split('/')[0]
    name = 'train' if folder.lower() in ('train', 'training') else folder
    splits.setdefault(name, []).append(image)
  return splits


def _read_file(path: str) -> dict[str, dict[str, None]]:
  """Return {image: its labels}, as the keys of a dictionary, which keeps their order."""
  labels: dict[str, dict[str, None]] = {}
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
        image, label = row['image'], row['label']
        if label is None:
          raise InputError(
            f'{path}, line {reader.line_num}: There is no label. Add it, or a comma if the image '
            'has none.'
          )
        if '/' not in image:
          raise InputError(
            f'{path}, line {reader.line_num}: The path {image!r} has no folder. It must begin with '
            'that of a split, as in train/1.jpg.'
          )
        found = labels.setdefault(os.path.normpath(image), {})
        if label.strip():
          found[label.strip()] = None
  except (OSError, UnicodeDecodeError, csv.Error) as e:
    raise InputError(
      f'Cannot read {path}: {reason(e)}. It must be a text in UTF-8, with values between commas.'
    ) from e
  return labels
