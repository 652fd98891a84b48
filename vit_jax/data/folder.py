"""A user's own images: DIR/{train,val}/<class>/*.jpg."""

from __future__ import annotations

import os
from typing import Any

from vit_jax.data import source
from vit_jax.errors import InputError

_EXTENSIONS = ('.jpg', '.jpeg', '.png', '.webp', '.bmp')


class FolderSource(source.Source):
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
    directory = os.path.expanduser(directory)
    names = _split_names(directory)
    self.class_names = _subdirectories(os.path.join(directory, 'train'))
    if not self.class_names:
      raise InputError(f'{os.path.join(directory, "train")} has no class folders: '
                       'put the images into train/<class>/')
    self.num_classes = len(self.class_names)
    wanted = names if split == 'all' else source.named_splits(split)
    files = {name: _list_images(os.path.join(directory, name), self.class_names)
             for name in names if name in wanted}
    shards = {name: [len(files.get(name, ()))] for name in names}
    self._files = [file for name, start, stop in source.split_ranges(split, shards)
                   for file in files[name][start:stop]]

  def __len__(self) -> int:
    return len(self._files)

  def __getitem__(self, index: int) -> dict[str, Any]:
    path, label = self._files[index]
    try:
      with open(path, 'rb') as f:
        return {'image': f.read(), 'label': label}
    except OSError as e:
      raise ValueError(f'the file cannot be read ({e.strerror})') from e

  def record_name(self, index: int) -> str:
    return self._files[index][0]


def available_splits(directory: str) -> dict[str, int]:
  """Returns {split: number of images} of a folder; raises InputError."""
  directory = os.path.expanduser(directory)
  return {name: len(FolderSource(directory, name)) for name in _split_names(directory)}


def _split_names(directory: str) -> list[str]:
  if not os.path.isdir(directory):
    raise InputError(f'there is no folder {directory}')
  names = _subdirectories(directory)
  if 'train' not in names:
    raise InputError(f'the folder {directory} has no subfolder train: images belong into '
                     'train/<class>/ and val/<class>/')
  return names


def _subdirectories(directory: str) -> list[str]:
  with os.scandir(directory) as entries:
    return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith('.'))


def _list_images(directory: str, class_names: list[str]) -> list[tuple[str, int]]:
  """Returns (path, label) of every image in directory/<class>/, sorted."""
  labels = {name: label for label, name in enumerate(class_names)}
  files = []
  for name in _subdirectories(directory):
    if name not in labels:
      raise InputError(f'{os.path.join(directory, name)} is a class that train does not have; '
                       f'train has {len(labels)} classes: {_abridge(class_names)}')
    with os.scandir(os.path.join(directory, name)) as entries:
      files.extend(sorted(
          (e.path, labels[name]) for e in entries
          if e.name.lower().endswith(_EXTENSIONS) and not e.name.startswith('.')))
  if not files:
    raise InputError(f'{directory} has no images: put {", ".join(_EXTENSIONS)} files into '
                     f'{directory}/<class>/')
  return files


def _abridge(names: list[str]) -> str:
  return ', '.join(names[:5]) + (', ...' if len(names) > 5 else '')
