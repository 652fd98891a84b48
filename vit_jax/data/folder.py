"""Read images from a folder: DIR/{train,val}/<class>/*.jpg, also in folders below <class>."""

from __future__ import annotations

from collections.abc import Callable
import logging
import os
from typing import NamedTuple

import numpy as np

from vit_jax.data import remote
from vit_jax.data.file_tree import FileTree, LocalTree, how_to_list_again, open_tree
from vit_jax.data.image_files import ImageFiles, count, join_reasons
from vit_jax.data.prefixes import PREFIXES
from vit_jax.data.source import Example, Source
from vit_jax.data.splits import named_splits, sample, split_ranges
from vit_jax.data.subset import Concatenation
from vit_jax.errors import InputError, shortlist
from vit_jax.files import Missing, is_remote, user_path

log = logging.getLogger('vit_jax')
_TRAIN = ('train', 'training')  # names of the folder with the training images, in any case


class _ClassFolder(NamedTuple):
  directory: str
  label: int
  # (n,) bytes, relative paths, sorted. As str, ImageNet-21k's 14 million would take 1 GB.
  files: np.ndarray


class FolderSource(Source):
  """Images in one directory per class, in the order of their names.

  In every split, the classes are those of train, sorted by name. EXIF orientation applies. One line
  in the log says how many files of each split are left out, and why.

  Attributes:
    empty_classes: classes without an image in train, if the split includes train.
    newly_listed: number of images, in the whole splits, that earlier versions left out.
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
    tree = open_tree(directory := _plain(directory))
    folders = _split_folders(directory, tree)
    names = list(folders)
    train = folders['train']
    self._directory, self.is_remote = directory, is_remote(directory)
    self.class_names = _subdirectories(train, tree)
    if not self.class_names:
      raise InputError(f'{train} has no class folders. Put the images into train/<class>/.')
    self.num_classes = len(self.class_names)
    wanted = names if split == 'all' else named_splits(split)
    listings = {name: ImageFiles(tree) for name in names if name in wanted}
    classes = {
      name: _list_classes(folders[name], self.class_names, images, tree)
      for name, images in listings.items()
    }
    self.newly_listed = sum(images.newly_listed for images in listings.values())
    found = {c.label for c in classes.get('train', ())}
    self.empty_classes = [
      name
      for label, name in enumerate(self.class_names)
      if 'train' in classes and label not in found
    ]
    shards = {name: [sum(len(c.files) for c in classes.get(name, ()))] for name in names}
    self._classes = [
      part
      for name, start, stop in split_ranges(split, shards)
      for part in _slice(classes[name], start, stop)
    ]
    self._files = Concatenation(len(c.files) for c in self._classes)

  def __len__(self) -> int:
    return len(self._files)

  def start(self, index: int) -> Callable[[], Example]:
    """Start to read an image, in the background if the folder is remote."""
    if not self.is_remote:
      return super().start(index)
    wait = remote.start_reading(self.location(index))
    return lambda: self._finish(index, wait)

  def _finish(self, index: int, wait: Callable[[], bytes]) -> Example:
    try:
      return {'image': wait(), 'label': self.label(index)}
    except Missing as e:
      remedy = how_to_list_again(self._directory)
      raise ValueError(f'the file cannot be read (no such file). {remedy}') from e

  def __getitem__(self, index: int) -> Example:
    if self.is_remote:
      return self.start(index)()
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
  """Return True if `dataset` is a path: an address, or /, ./, ../, ~ first, or it has train/."""
  if is_remote(dataset):
    return not dataset.startswith(PREFIXES)
  return (
    dataset.startswith(('/', './', '../', '~')) or _find_train(dataset, LocalTree()) is not None
  )


def _plain(directory: str) -> str:
  """Replace ~. Other paths stay as the user wrote them, because messages repeat them."""
  if is_remote(directory):
    return directory.rstrip('/')
  return os.fspath(user_path(directory)) if directory.startswith('~') else directory


def split_names(directory: str) -> list[str]:
  """Return the names of the splits of a folder.

  The training split is called train, even if its folder is called training or Train.

  Raises:
    InputError: the folder does not exist, or has no subfolder train.
  """
  return list(_split_folders(_plain(directory), open_tree(_plain(directory))))


def _split_folders(directory: str, tree: FileTree) -> dict[str, str]:
  """Return {name of a split: its folder}, sorted by name. Raise InputError like `split_names`."""
  if not tree.is_directory(directory):
    raise InputError(f'There is no folder {directory}. Check the path.')
  train = _find_train(directory, tree)
  if train is None:
    raise InputError(
      f'The folder {directory} has no subfolder train. Put the images into train/<class>/ and '
      'val/<class>/.'
    )
  folders = {name: os.path.join(directory, name) for name in _subdirectories(directory, tree)}
  folders['train'] = folders.pop(train)
  return dict(sorted(folders.items()))


def _find_train(directory: str, tree: FileTree) -> str | None:
  """Return the name of the subfolder with the training images, or None if there is none."""
  if tree.is_directory(os.path.join(directory, 'train')):
    return 'train'
  names = _subdirectories(directory, tree) if tree.is_directory(directory) else []
  return next((name for known in _TRAIN for name in names if name.lower() == known), None)


def _subdirectories(directory: str, tree: FileTree) -> list[str]:
  return sorted(
    e.name for e in tree.entries(directory) if e.is_directory and not e.name.startswith('.')
  )


def _list_classes(
  directory: str, class_names: list[str], images: ImageFiles, tree: FileTree
) -> list[_ClassFolder]:
  """Return the class folders in `directory` that have images, sorted by name. `images` counts."""
  labels = {name: label for label, name in enumerate(class_names)}
  classes = []
  for name in _subdirectories(directory, tree):
    path = os.path.join(directory, name)
    if name not in labels:
      raise InputError(
        f'{path} is a class that train does not have. Train has {len(labels)} classes: '
        f'{", ".join(class_names[:5])}{", ..." * (len(labels) > 5)}. Add the class to train, or '
        'remove it here.'
      )
    if files := images.list(path):
      classes.append(_ClassFolder(path, labels[name], np.array(files)))
  _report_left_out(directory, images, tree)
  if not classes:
    raise InputError(
      f'{directory} has no images. Put .jpg, .png or other image files into {directory}/<class>/.'
    )
  found = {c.label for c in classes}
  _report_empty(directory, [name for name in class_names if labels[name] not in found])
  return classes


def _report_left_out(directory: str, images: ImageFiles, tree: FileTree) -> None:
  """Say how many files of a split are left out, and why."""
  names = [(e.name, e.is_directory) for e in tree.entries(directory)]
  images.hidden += sum(name.startswith('.') for name, _ in names)
  loose = [name for name, is_dir in names if not is_dir and not name.startswith('.')]
  reasons = images.left_out()
  if loose:
    reasons.append(
      f'{count(len(loose), "file")} outside of the class folders ({shortlist(sorted(loose), 2)})'
    )
  if reasons:
    log.warning('%s: Left out %s.', directory, join_reasons(reasons))


def _report_empty(directory: str, names: list[str]) -> None:
  """Say which classes have no images in a split. Outside of train, that is not unusual."""
  if names:
    classes = '1 class' if len(names) == 1 else f'{len(names):,} classes'
    message = f'{directory}: There are no images of {classes}: {shortlist(names, 5)}.'
    is_train = os.path.basename(directory).lower() in _TRAIN
    log.log(logging.WARNING if is_train else logging.INFO, '%s', message)


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
