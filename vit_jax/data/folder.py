"""A user's own images: DIR/{train,val}/<class>/*.jpg."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from vit_jax.data.source import Source
from vit_jax.data.splits import named_splits, split_ranges
from vit_jax.data.subset import Concatenation
from vit_jax.errors import InputError

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.webp')


class FolderSource(Source):
  """Images in one directory per class, in the order of their names.

  The classes are those of train, sorted by name, whichever split is read. EXIF orientation
  applies.
  """

  apply_exif = True

  def __init__(self, directory: str, split: str):
    """Lists the files of `split` (TFDS notation over the subdirectories of `directory`).

    Raises:
      InputError: no train, no classes or no images, or a class that train does not have.
    """
    names = split_names(directory)
    directory = os.path.expanduser(directory)
    self.class_names = _subdirectories(os.path.join(directory, 'train'))
    if not self.class_names:
      raise InputError(
        f'{os.path.join(directory, "train")} has no class folders: '
        'put the images into train/<class>/'
      )
    self.num_classes = len(self.class_names)
    wanted = names if split == 'all' else named_splits(split)
    classes = {
      name: _list_classes(os.path.join(directory, name), self.class_names)
      for name in names
      if name in wanted
    }
    shards = {name: [sum(len(files) for _, _, files in classes.get(name, ()))] for name in names}
    self._parts = [
      part
      for name, start, stop in split_ranges(split, shards)
      for part in _slice(classes[name], start, stop)
    ]
    self._files = Concatenation(len(files) for _, _, files in self._parts)

  def __len__(self) -> int:
    return len(self._files)

  def __getitem__(self, index: int) -> dict[str, Any]:
    path, label = self._locate(index)
    try:
      with open(path, 'rb') as f:
        return {'image': f.read(), 'label': label}
    except OSError as e:
      raise ValueError(f'the file cannot be read ({e.strerror})') from e

  def label(self, index: int) -> int:
    return self._locate(index)[1]

  def record_name(self, index: int) -> str:
    return self._locate(index)[0]

  def _locate(self, index: int) -> tuple[str, int]:
    part, offset = self._files.locate(index)
    directory, label, files = self._parts[part]
    return os.path.join(directory, os.fsdecode(files[offset])), label


def split_names(directory: str) -> list[str]:
  """Returns the names of the subdirectories, 'train' among them; raises InputError."""
  directory = os.path.expanduser(directory)
  if not os.path.isdir(directory):
    raise InputError(f'there is no folder {directory}')
  names = _subdirectories(directory)
  if 'train' not in names:
    raise InputError(
      f'the folder {directory} has no subfolder train: images belong into '
      'train/<class>/ and val/<class>/'
    )
  return names


def _subdirectories(directory: str) -> list[str]:
  with os.scandir(directory) as entries:
    return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith('.'))


def _list_classes(directory: str, class_names: list[str]) -> list[tuple[str, int, np.ndarray]]:
  """Returns (directory, label, file names) of each class in `directory`, all sorted.

  The names are an array of bytes: 14 million of ImageNet-21k's as str would take 1 GB.
  """
  labels = {name: label for label, name in enumerate(class_names)}
  classes = []
  for name in _subdirectories(directory):
    path = os.path.join(directory, name)
    if name not in labels:
      raise InputError(
        f'{path} is a class that train does not have; train has {len(labels)} '
        f'classes: {", ".join(class_names[:5])}{", ..." * (len(labels) > 5)}'
      )
    with os.scandir(path) as entries:
      files = sorted(
        os.fsencode(e.name)
        for e in entries
        if not e.name.startswith('.') and e.name.lower().endswith(EXTENSIONS)
      )
    if files:
      classes.append((path, labels[name], np.array(files)))
  if not classes:
    raise InputError(
      f'{directory} has no images: put {", ".join(EXTENSIONS)} files into {directory}/<class>/'
    )
  return classes


def sample(size: int, start: int, stop: int) -> np.ndarray:
  """Returns which images of a split a slice takes: (stop - start,) int, ascending.

  As in a data set that TFDS has prepared, `start` and `stop` count in a fixed random order of all
  `size` files. The files themselves lie by class, so that the last 10 % would be other classes.
  """
  # RandomState, unlike Generator, promises the same permutation in every NumPy version.
  return np.sort(np.random.RandomState(0).permutation(size)[start:stop])


def _slice(
  classes: list[tuple[str, int, np.ndarray]], start: int, stop: int
) -> list[tuple[str, int, np.ndarray]]:
  """Returns the classes with only the files of a slice."""
  ends = np.cumsum([len(files) for _, _, files in classes])
  if (start, stop) == (0, ends[-1]):
    return classes
  chosen = sample(ends[-1], start, stop)
  parts = []
  for (directory, label, files), end in zip(classes, ends):
    begin = end - len(files)
    part = files[chosen[slice(*np.searchsorted(chosen, (begin, end)))] - begin]
    if len(part):
      parts.append((directory, label, part))
  return parts
