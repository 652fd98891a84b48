"""Read tar files in the WebDataset format by random access.

The files in the tars are indexed once (see `tar_index`). So a run shuffles across all shards,
resumes exactly, and evaluates each image once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
import os

import numpy as np

from vit_jax.data import storage
from vit_jax.data.ranges import RangeFile
from vit_jax.data.shard_pattern import find_shards
from vit_jax.data.source import Example, Source
from vit_jax.data.splits import split_rows
from vit_jax.data.tar_index import TarIndex
from vit_jax.data.tar_index_file import INDEX_FILE, read_indices
from vit_jax.errors import InputError
from vit_jax.files import allow_open_files, is_remote

_NAME_FILES = ('class_names.txt', 'classnames.txt')  # the names of the classes, one a line
_HEADER = 512  # bytes of the header in front of each file in a tar
_SIZE = slice(124, 136)  # of the header: the size of the file, in octal digits


class WebDatasetSource(Source):
  """The samples of a split, shard by shard in the order of the pattern.

  A slice such as 'train[90%:]' is a random sample of the split, the same one every time, because
  nothing says that the shards are shuffled. EXIF orientation applies.
  """

  apply_exif = True

  def __init__(self, pattern: str, split: str):
    """Find and index the shards.

    Args:
      pattern: the shards of all splits (see `find_shards`).
      split: in TFDS notation.

    Raises:
      InputError: there are no shards or no such split, a shard is damaged, the split has no labels,
        or a label is not among the class names.
    """
    splits = find_shards(pattern)
    self._paths = [path for paths in splits.values() for path in paths]
    indices = read_indices(self._paths)
    self.multi_label = any(index.several.any() for index in indices)
    self.class_names, self._labels = _read_labels(self._paths, indices)
    self.num_classes = len(self.class_names or ()) or int(self._labels.max(initial=-1)) + 1
    rows = _select(split, splits, [len(index.keys) for index in indices])
    num_labels = np.concatenate([index.num_labels for index in indices])
    shards = np.repeat(np.arange(len(indices), dtype=np.int32), [len(i.keys) for i in indices])
    self._first_label = (np.cumsum(num_labels.clip(0)) - num_labels.clip(0))[rows]
    self._num_labels = num_labels[rows]
    self._shards = shards[rows]
    self._keys, self._offsets, self._lengths = (
      np.concatenate([getattr(index, field) for index in indices])[rows]
      for field in ('keys', 'offsets', 'lengths')
    )
    if (self._num_labels < 0).all():
      raise InputError(
        f'The split {split} of {pattern} has no labels. Every image needs a .cls or .json file '
        'with its label. Choose another split.'
      )
    self._files = [RangeFile(path) for path in self._paths]
    self.is_remote = any(file.is_remote for file in self._files)
    allow_open_files()

  def __len__(self) -> int:
    return len(self._keys)

  def __getitem__(self, index: int) -> Example:
    return self.start(index)()

  def start(self, index: int) -> Callable[[], Example]:
    """Start to read an example, in the background if its shard is remote."""
    self._check(index)
    offset, length = int(self._offsets[index]), int(self._lengths[index])
    file = self._files[self._shards[index]]
    wait = file.start(offset - _HEADER, _HEADER + length) if length >= 0 else None
    return functools.partial(self._finish, index, wait)

  def _finish(self, index: int, wait: Callable[[], bytes] | None) -> Example:
    """Return an example. Check that the tar still has a file of this size at this place."""
    label = self.label(index)
    if wait is None:
      raise ValueError('the sample has a label, but no image')
    path = self._paths[self._shards[index]]
    try:
      data = wait()
    except InputError:
      raise
    except OSError as e:
      raise InputError(f'Cannot read {path}: {e.strerror}. Check its permissions and disk.') from e
    except ValueError:  # the tar is shorter now
      data = b''
    if _file_size(data) != self._lengths[index]:
      raise InputError(
        f'{path} has changed since it was indexed. Delete the index ({INDEX_FILE} beside it, or in '
        'records/ in the cache of vit_jax), which is then made again.'
      )
    return {'image': data[_HEADER:], 'label': label}

  def label(self, index: int) -> int | np.ndarray:
    """Return the label, without reading the image."""
    self._check(index)
    first, count = int(self._first_label[index]), int(self._num_labels[index])
    if count < 0:
      raise ValueError('the sample has no label')
    if not self.multi_label:
      return int(self._labels[first])
    multi_hot = np.zeros(self.num_classes, np.uint8)
    multi_hot[self._labels[first : first + count]] = 1
    return multi_hot

  def location(self, index: int) -> str:
    """Return the path of the shard and the name of the sample, such as 'a/train-007.tar/n01_32'."""
    self._check(index)
    key = self._keys[index].decode('utf-8', 'surrogateescape')
    return f'{self._paths[self._shards[index]]}/{key}'

  def _check(self, index: int) -> None:
    if not 0 <= index < len(self):
      raise IndexError(f'Index {index} is out of range for {len(self)} examples.')


def _file_size(header: bytes) -> int | None:
  """Return the size of a file in bytes, as its header in a tar says, or None if it is no header."""
  try:
    return int(header[_SIZE].strip(b' \0'), 8)
  except ValueError:
    return None


def split_names(pattern: str) -> list[str]:
  """Return the names of the splits. Raise InputError if there are no shards."""
  return list(find_shards(pattern))


def _select(split: str, splits: dict[str, list[str]], lengths: list[int]) -> np.ndarray:
  """Return the samples that a split expression selects, as (n,) int64 among those of all shards.

  Args:
    split: in TFDS notation.
    splits: {split: its shards}.
    lengths: number of samples in each shard, of all splits one after another.
  """
  ends = np.cumsum([len(paths) for paths in splits.values()])
  parts = np.split(np.array(lengths), ends[:-1])
  sizes = {name: int(part.sum()) for name, part in zip(splits, parts)}
  begins = dict(zip(splits, np.cumsum([0, *sizes.values()])))
  try:
    return np.concatenate([begins[name] + rows for name, rows in split_rows(split, sizes)])
  except InputError as e:
    if 'train' in splits:
      raise
    raise InputError(f'{e} In a shell, put quotes around a pattern with braces.') from e.__cause__


def _read_labels(
  paths: Sequence[str], indices: Sequence[TarIndex]
) -> tuple[list[str] | None, np.ndarray]:
  """Return the names of the classes, or None, and the classes of all samples: (m,) int64."""
  file, names = _read_names(paths)
  used = sorted({_text(name) for index in indices for name in index.names.tolist()})
  if used and any(len(index.labels) and not len(index.names) for index in indices):
    raise InputError(
      f'Some shards beside {paths[0]} have numbers as labels, and others have names. Make them '
      'again, with labels of one kind.'
    )
  names = names if names is not None else used or None
  classes = {name: i for i, name in enumerate(names or ())}
  labels = []
  for path, index in zip(paths, indices):
    part = index.labels
    if used:
      table = [classes.get(_text(name), -1) for name in index.names.tolist()]
      part = np.array(table, np.int64)[part]
    wrong = (part < 0) | (part >= len(names)) if names is not None else np.zeros(0, bool)
    if wrong.any():
      label = index.labels[wrong][0]
      text = _text(bytes(index.names[label])) if used else label
      raise InputError(
        f'{path} holds the label {text}, which is not among the {len(names or ())} classes in '
        f'{file}. Correct that file, or remove it.'
      )
    labels.append(part)
  return names, np.concatenate(labels)


def _text(name: bytes) -> str:
  return name.decode('utf-8', 'replace')


def _read_names(paths: Sequence[str]) -> tuple[str, list[str] | None]:
  """Return the file with the names of the classes, and the names, or None if there is no file.

  It is beside the shards, or one folder above them.
  """
  folders = dict.fromkeys(map(os.path.dirname, paths))
  folders |= dict.fromkeys(
    os.path.dirname(folder if is_remote(folder) else os.path.abspath(folder)) for folder in folders
  )
  for file in (os.path.join(folder, name) for folder in folders for name in _NAME_FILES):
    content = storage.read(file)
    if content is None:
      continue
    try:
      return file, content.decode().splitlines()
    except UnicodeDecodeError as e:
      raise InputError(f'{file} is not a text in UTF-8: {e}. Write it again.') from e
  return '', None
