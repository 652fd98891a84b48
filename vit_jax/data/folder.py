"""Read images from a folder: DIR/{train,val}/<class>/*.jpg."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from vit_jax.data.source import Example, Source
from vit_jax.data.splits import named_splits, split_ranges
from vit_jax.data.subset import Concatenation
from vit_jax.errors import InputError
from vit_jax.files import user_path

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.webp')


class _ClassFolder(NamedTuple):
  directory: str
  label: int
  files: np.ndarray  # (n,) bytes, sorted. As str, ImageNet-21k's 14 million would take 1 GB.


class FolderSource(Source):
  """Images in one directory per class, in the order of their names.

  In every split, the classes are those of train, sorted by name. EXIF orientation applies.
  """

  apply_exif = True

  def __init__(self, directory: str, split: str):
    """List the files of a split.

    Args:
      directory: holds a subdirectory for each split.
      split: in TFDS notation.

    Raises:
      InputError: there is no train split, no class or no image, or the split has a class that
        train does not have.
    """
    names = split_names(directory)
    directory = _with_home(directory)
    train = os.path.join(directory, 'train')
    self.class_names = _subdirectories(train)
    if not self.class_names:
      raise InputError(f'{train} has no class folders. Put the images into train/<class>/.')
    self.num_classes = len(self.class_names)
    wanted = names if split == 'all' else named_splits(split)
    classes = {
      name: _list_classes(os.path.join(directory, name), self.class_names)
      for name in names
      if name in wanted
    }
    shards = {name: [sum(len(c.files) for c in classes.get(name, ()))] for name in names}
    self._classes = [
      part
      for name, start, stop in split_ranges(split, shards)
      for part in _slice(classes[name], start, stop)
    ]
    self._files = Concatenation(len(c.files) for c in self._classes)

  def __len__(self) -> int:
    return len(self._files)

  def __getitem__(self, index: int) -> Example:
    try:
      with open(self.location(index), 'rb') as f:
        return {'image': f.read(), 'label': self.label(index)}
    except OSError as e:
      raise ValueError(f'the file cannot be read ({e.strerror})') from e

  def label(self, index: int) -> int:
    """Return the label, without reading the image."""
    part, _ = self._files.locate(index)
    return self._classes[part].label

  def location(self, index: int) -> str:
    """Return the path of the image."""
    part, offset = self._files.locate(index)
    folder = self._classes[part]
    return os.path.join(folder.directory, os.fsdecode(folder.files[offset]))


def is_folder(dataset: str) -> bool:
  """Return True if `dataset` is a path: it starts with /, ./, ../ or ~, or contains train/."""
  return dataset.startswith(('/', './', '../', '~')) or os.path.isdir(
    os.path.join(dataset, 'train')
  )


def absolute_path(dataset: str) -> str:
  """Return the absolute path of a dataset that is a folder, and the name of any other dataset."""
  return str(user_path(dataset).absolute()) if is_folder(dataset) else dataset


def _with_home(directory: str) -> str:
  """Replace ~. Other paths stay as the user wrote them, because messages repeat them."""
  return os.fspath(user_path(directory)) if directory.startswith('~') else directory


def split_names(directory: str) -> list[str]:
  """Return the names of the splits of a folder.

  Raises:
    InputError: the folder does not exist, or has no subfolder train.
  """
  given, directory = directory, _with_home(directory)
  if not os.path.isdir(directory):
    raise InputError(f'There is no folder {given}. Check the path.')
  names = _subdirectories(directory)
  if 'train' not in names:
    raise InputError(
      f'The folder {directory} has no subfolder train. Put the images into train/<class>/ and '
      'val/<class>/.'
    )
  return names


def sample(size: int, start: int, stop: int) -> np.ndarray:
  """Return the images in the slice [start:stop] of a split, as (stop - start,) int, ascending.

  `start` and `stop` count in a fixed random order of all `size` files, as in a dataset that TFDS
  has shuffled. The files are sorted by class, so their last 10 % would lack most classes.
  """
  # RandomState, unlike Generator, promises the same permutation in every NumPy version.
  return np.sort(np.random.RandomState(0).permutation(size)[start:stop])


def _subdirectories(directory: str) -> list[str]:
  with os.scandir(directory) as entries:
    return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith('.'))


def _list_classes(directory: str, class_names: list[str]) -> list[_ClassFolder]:
  """Return the class folders in `directory` that have images, sorted by name."""
  labels = {name: label for label, name in enumerate(class_names)}
  classes = []
  for name in _subdirectories(directory):
    path = os.path.join(directory, name)
    if name not in labels:
      raise InputError(
        f'{path} is a class that train does not have. Train has {len(labels)} classes: '
        f'{", ".join(class_names[:5])}{", ..." * (len(labels) > 5)}. Add the class to train, or '
        'remove it here.'
      )
    with os.scandir(path) as entries:
      files = sorted(
        os.fsencode(e.name)
        for e in entries
        if not e.name.startswith('.') and e.name.lower().endswith(EXTENSIONS)
      )
    if files:
      classes.append(_ClassFolder(path, labels[name], np.array(files)))
  if not classes:
    raise InputError(
      f'{directory} has no images. Put {", ".join(EXTENSIONS)} files into {directory}/<class>/.'
    )
  return classes


def _slice(classes: list[_ClassFolder], start: int, stop: int) -> list[_ClassFolder]:
  """Return the class folders with only the files of a slice."""
  ends = np.cumsum([len(c.files) for c in classes])
  if (start, stop) == (0, ends[-1]):
    return classes
  chosen = sample(ends[-1], start, stop)
  parts = []
  for folder, end in zip(classes, ends):
    begin = end - len(folder.files)
    first, last = np.searchsorted(chosen, (begin, end))
    files = folder.files[chosen[first:last] - begin]
    if len(files):
      parts.append(folder._replace(files=files))
  return parts
