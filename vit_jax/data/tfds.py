"""Datasets that TFDS has prepared, in either file format, by random access.

TensorFlow is never imported: TFDS is only asked where the records of a split lie.
"""

from __future__ import annotations

import os
import resource
import threading
from typing import Any

import numpy as np

from vit_jax.data import prepared, tfrecord
from vit_jax.data.labels import Labels, supervised_labels
from vit_jax.data.source import Source
from vit_jax.data.splits import split_ranges
from vit_jax.data.subset import Concatenation
from vit_jax.errors import InputError, last_line

_MAX_OPEN_FILES = 65536


class TfdsSource(Source):
  """A split of a data set that TFDS has prepared as TFRecord or ArrayRecord."""

  def __init__(self, directory: str, split: str, labels: Labels | None = None):
    """Opens `split` of the data set in `directory` (.../name/version); raises InputError.

    Without `labels` they are the data set's own, see `supervised_labels`.
    """
    info = prepared.read_info(directory)
    self._format = info.file_format.value
    if self._format not in ('tfrecord', 'array_record'):
      raise InputError(
        f'{directory} is stored as {self._format}: prepare the data set again as '
        'array_record or tfrecord'
      )
    self._labels = labels or supervised_labels(info)
    self.num_classes = self._labels.num_classes
    self.class_names = self._labels.class_names
    self.multi_label = self._labels.multi_label
    # The ranges themselves are not needed here, but their checks are.
    split_ranges(split, {name: s.shard_lengths for name, s in info.splits.items()})
    parts = info.splits[split].file_instructions
    self._parts = [(os.fspath(p.filename), p.skip, p.examples_in_shard) for p in parts]
    self._files = Concatenation(p.take for p in parts)
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
    return len(self._files)

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
      raise ValueError(f'the record is damaged ({last_line(e)})') from e
    for label in labels:
      if not 0 <= label < self.num_classes:
        raise InputError(
          f'{self.record_name(index)} has the label {label}, not one in '
          f'[0, {self.num_classes}): is this split unlabelled?'
        )
    if self.multi_label:
      label = np.zeros(self.num_classes, np.uint8)
      label[labels] = 1
    return {'image': image, 'label': label}

  def _locate(self, index: int) -> tuple[int, int]:
    part, offset = self._files.locate(index)
    return part, offset + self._parts[part][1]

  def _open(self, path: str, _: int, num_records: int):
    with self._locks[path]:
      if path not in self._readers:
        try:
          reader = _open_reader(path, self._format)
        except (OSError, ValueError, RuntimeError) as e:
          raise InputError(f'{path} cannot be read: {last_line(e)}') from e
        if reader.num_records() != num_records:
          raise InputError(
            f'{path} holds {reader.num_records()} records instead of '
            f'{num_records}: prepare the data set again'
          )
        self._readers[path] = reader
      return self._readers[path]


class _ArrayRecordReader:
  """One ArrayRecord file, read record by record."""

  def __init__(self, path: str):
    from array_record.python import array_record_module

    self._reader = array_record_module.ArrayRecordReader(
      path, options='readahead_buffer_size:0', file_reader_buffer_size=32768
    )
    if not self._reader.ok():
      self._reader.close()  # only this raises what went wrong when opening

  def num_records(self) -> int:
    return self._reader.num_records()

  def read(self, index: int) -> bytes:
    return self._reader.read([index])[0]


def _open_reader(path: str, file_format: str):
  if file_format == 'array_record':
    return _ArrayRecordReader(path)
  return tfrecord.TFRecordReader(path)


def _allow_open_files() -> None:
  """Raises the soft limit of open files: each shard stays open, ImageNet has 1,024."""
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  wanted = _MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_OPEN_FILES)
  if soft != resource.RLIM_INFINITY and soft < wanted:
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
