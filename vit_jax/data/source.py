"""Examples by random access: a TFDS data set (either file format) or a user's own folder.

TensorFlow is never imported: TFDS is only asked where the records of a split lie.
"""

from __future__ import annotations

import abc
import bisect
import itertools
import os
import re
import resource
import threading
from typing import Any

import numpy as np

from vit_jax.data import prepared
from vit_jax.data.labels import Labels, supervised_labels
from vit_jax.errors import InputError

_MAX_OPEN_FILES = 65536


class Source(abc.ABC):
  """Labelled images by index.

  Attributes:
    num_classes: labels lie in [0, num_classes).
    class_names: their names, or None.
    multi_label: whether an image may have several labels, or none.
    apply_exif: whether images should be turned as their EXIF orientation says.
  """

  num_classes: int
  class_names: list[str] | None
  multi_label = False
  apply_exif = False

  @abc.abstractmethod
  def __len__(self) -> int:
    """Returns the number of records."""

  @abc.abstractmethod
  def __getitem__(self, index: int) -> dict[str, Any]:
    """Returns {'image': encoded bytes, 'label': int}; safe to call from many threads.

    If multi_label, the label is multi-hot: (num_classes,) uint8, 1 for each class there is.

    Raises:
      ValueError: this record is damaged (says how; `record_name` says which).
      InputError: something that skipping the record would not cure.
    """

  def label(self, index: int) -> int | np.ndarray:
    """Returns the label alone, without reading the image where that can be; raises as indexing."""
    return self[index]['label']

  @abc.abstractmethod
  def record_name(self, index: int) -> str:
    """Returns where the record lies: the image's path, or file and position in it."""


def open_source(dataset: str, split: str, data_dir: str | None = None) -> Source:
  """Opens a data set for reading.

  Args:
    dataset: a TFDS name ('cifar10', 'eurosat/rgb', 'imagenet2012:5.1.0'), 'digits' (embedded:
      written under data_dir on first use), a task of VTAB-1k ('vtab/clevr_count', see
      `vit_jax.data.vtab`), or the path of a folder that holds {train,val}/<class>/*.jpg (see
      `is_folder`).
    split: in TFDS notation: 'train', 'test[:16]', 'train[:98%]', 'train+validation'.
    data_dir: where TFDS data sets lie; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.

  Raises:
    InputError: no such data set or split, or the data set is not prepared.
  """
  if is_folder(dataset):
    from vit_jax.data import folder  # it imports Source from here
    return folder.FolderSource(dataset, split)
  if dataset.startswith('vtab/'):
    from vit_jax.data import vtab
    return vtab.open_task(dataset.removeprefix('vtab/'), split, data_dir)
  return TfdsSource(prepared.find(dataset, data_dir), split)


def split_names(dataset: str, data_dir: str | None = None) -> list[str]:
  """Returns the names of the splits there are; raises InputError like `open_source`."""
  if is_folder(dataset):
    from vit_jax.data import folder
    return folder.split_names(dataset)
  if dataset.startswith('vtab/'):
    from vit_jax.data import vtab
    return list(vtab.find_task(dataset.removeprefix('vtab/')).splits)
  return list(prepared.read_info(prepared.find(dataset, data_dir)).splits)


def is_folder(dataset: str) -> bool:
  """Whether `dataset` means a folder: it starts with /, ./, ../ or ~, or has a train/ inside."""
  return (dataset.startswith(('/', './', '../', '~'))
          or os.path.isdir(os.path.join(dataset, 'train')))


def named_splits(split: str) -> set[str]:
  """Returns the names in a split expression: 'train[:9]+test' -> {'train', 'test'}."""
  return set(re.findall(r'(?:^|\+)\s*([\w-]+)', split))


def split_ranges(split: str, shards: dict[str, list[int]]) -> list[tuple[str, int, int]]:
  """Returns the (name, start, stop) that a split in TFDS notation stands for.

  Args:
    split: such as 'train[:98%]+validation'.
    shards: for each split there is, the number of examples in each of its files.

  Raises:
    InputError: bad notation, an unknown split, a slice out of bounds, or no examples.
  """
  import tensorflow_datasets as tfds
  infos = {name: tfds.core.SplitInfo(name=name, shard_lengths=lengths, num_bytes=0)
           for name, lengths in shards.items()}
  unknown = sorted(named_splits(split) - set(shards) - {'all'})
  if unknown:
    raise InputError(f'there is no split {", ".join(unknown)!r}; the splits are '
                     f'{", ".join(shards)}')
  try:
    ranges = [(r.splitname, r.from_ or 0, infos[r.splitname].num_examples if r.to is None else r.to)
              for r in tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)]
  except (ValueError, AssertionError) as e:
    raise InputError(f'bad split {split!r}: {_last_line(e)}') from e
  if not any(start < stop for _, start, stop in ranges):
    raise InputError(f'the split {split!r} holds no examples')
  return ranges


class TfdsSource(Source):
  """A split of a data set that TFDS has prepared as TFRecord or ArrayRecord."""

  def __init__(self, directory: str, split: str, labels: Labels | None = None):
    """Opens `split` of the data set in `directory` (.../name/version); raises InputError.

    Without `labels` they are the data set's own, see `supervised_labels`.
    """
    info = prepared.read_info(directory)
    self._format = info.file_format.value
    if self._format not in ('tfrecord', 'array_record'):
      raise InputError(f'{directory} is stored as {self._format}: prepare the data set again as '
                       'array_record or tfrecord')
    self._labels = labels or supervised_labels(info)
    self.num_classes = self._labels.num_classes
    self.class_names = self._labels.class_names
    self.multi_label = self._labels.multi_label
    # The ranges themselves are not needed here, but their checks are.
    split_ranges(split, {name: s.shard_lengths for name, s in info.splits.items()})
    parts = info.splits[split].file_instructions
    self._parts = [(os.fspath(p.filename), p.skip, p.examples_in_shard) for p in parts]
    self._ends = list(itertools.accumulate(p.take for p in parts))
    for path, _, _ in self._parts:
      if not os.path.exists(path):
        raise InputError(f'the data set lacks its file {path}: prepare it again')
    _allow_open_files()
    self._open_nothing()

  def _open_nothing(self) -> None:
    self._readers = {}  # path -> reader; filled when a file is first touched
    self._locks = {path: threading.Lock() for path, _, _ in self._parts}

  def __getstate__(self) -> dict[str, Any]:
    return {k: v for k, v in self.__dict__.items() if k not in ('_readers', '_locks')}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    self._open_nothing()

  def __len__(self) -> int:
    return self._ends[-1]

  def record_name(self, index: int) -> str:
    part, position = self._locate(index)
    return f'{self._parts[part][0]}, record {position}'

  def __getitem__(self, index: int) -> dict[str, Any]:
    from google.protobuf import message
    from tensorflow_datasets.proto import tf_example_pb2
    part, position = self._locate(index)
    reader = self._readers.get(self._parts[part][0]) or self._open(*self._parts[part])
    try:
      feature = tf_example_pb2.Example.FromString(reader.read(position)).features.feature
      image = feature[self._labels.image_key].bytes_list.value[0]
      labels = self._labels.read(feature)
    except InputError as e:
      raise InputError(f'{self.record_name(index)}: {e}') from e
    except (IndexError, OSError, RuntimeError, ValueError, message.DecodeError) as e:
      raise ValueError(f'the record is damaged ({_last_line(e)})') from e
    for label in labels:
      if not 0 <= label < self.num_classes:
        raise InputError(f'{self.record_name(index)} has the label {label}, not one in '
                         f'[0, {self.num_classes}): is this split unlabelled?')
    if self.multi_label:
      label = np.zeros(self.num_classes, np.uint8)
      label[labels] = 1
    return {'image': image, 'label': label}

  def _locate(self, index: int) -> tuple[int, int]:
    if not 0 <= index < len(self):
      raise IndexError(f'record {index} of {len(self)}')
    part = bisect.bisect_right(self._ends, index)
    start = self._ends[part - 1] if part else 0
    return part, index - start + self._parts[part][1]

  def _open(self, path: str, _: int, num_records: int):
    with self._locks[path]:
      if path not in self._readers:
        try:
          reader = _open_reader(path, self._format)
        except (OSError, ValueError, RuntimeError) as e:
          raise InputError(f'{path} cannot be read: {_last_line(e)}') from e
        if reader.num_records() != num_records:
          raise InputError(f'{path} holds {reader.num_records()} records instead of '
                           f'{num_records}: prepare the data set again')
        self._readers[path] = reader
      return self._readers[path]


class _ArrayRecordReader:
  """One ArrayRecord file, read record by record."""

  def __init__(self, path: str):
    from array_record.python import array_record_module
    self._reader = array_record_module.ArrayRecordReader(
        path, options='readahead_buffer_size:0', file_reader_buffer_size=32768)
    if not self._reader.ok():
      self._reader.close()  # only this raises what went wrong when opening

  def num_records(self) -> int:
    return self._reader.num_records()

  def read(self, index: int) -> bytes:
    return self._reader.read([index])[0]


def _open_reader(path: str, file_format: str):
  if file_format == 'array_record':
    return _ArrayRecordReader(path)
  from vit_jax.data import tfrecord
  return tfrecord.TFRecordReader(path)


def _allow_open_files() -> None:
  """Raises the soft limit of open files: each shard stays open, ImageNet has 1,024."""
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  wanted = _MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_OPEN_FILES)
  if soft != resource.RLIM_INFINITY and soft < wanted:
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _last_line(error: Exception) -> str:
  lines = str(error).strip().splitlines()
  return lines[-1] if lines else type(error).__name__
