"""Read datasets that TFDS has prepared as TFRecord or ArrayRecord, by random access.

TensorFlow is never imported. TFDS only says where the records of a split are stored.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
import os
import threading
from typing import Any, NamedTuple, Protocol

import numpy as np

from vit_jax.data import remote, tfds_directory
from vit_jax.data.labels import Labels, supervised_labels
from vit_jax.data.source import Example, Source
from vit_jax.data.splits import split_ranges
from vit_jax.data.subset import Concatenation
from vit_jax.data.tfrecord import RemoteTFRecordReader, TFRecordReader
from vit_jax.data.tfrecord_index import Lengths, record_lengths
from vit_jax.errors import InputError, last_line, remedy
from vit_jax.files import Missing, allow_open_files, is_remote


class _File(NamedTuple):
  """A file that holds records of a split, starting at record `first`."""

  path: str
  first: int
  num_records: int  # records in the whole file


class _Reader(Protocol):
  def num_records(self) -> int: ...

  def start(self, index: int, /) -> Callable[[], bytes]: ...


class TfdsSource(Source):
  """A split of a dataset that TFDS has prepared as TFRecord or ArrayRecord."""

  def __init__(self, directory: str, split: str, labels: Labels | None = None):
    """Open a split.

    Args:
      directory: the directory of the dataset, .../name/version.
      split: in TFDS notation.
      labels: how to read labels. Defaults to `supervised_labels` of the dataset.

    Raises:
      InputError: the dataset or the split cannot be read.
    """
    info = tfds_directory.read_info(directory)
    self._format = str(getattr(info.file_format, 'value', None))
    if self._format not in _READERS:
      raise InputError(
        f'{directory} is stored as {self._format}. Prepare the dataset again as array_record or '
        'tfrecord.'
      )
    self.is_remote = is_remote(directory)
    if self.is_remote and self._format != 'tfrecord':
      raise InputError(
        f'{directory} is stored as {self._format}, which can only be read from a file system. '
        'Mount the bucket (with gcsfuse or mountpoint-s3, for example) and set data_dir to the '
        'mount, or prepare the dataset again with --file_format=tfrecord.'
      )
    self._labels = labels or supervised_labels(info)
    self.num_classes = self._labels.num_classes
    self.class_names = self._labels.class_names
    self.multi_label = self._labels.multi_label
    split_ranges(
      split, {name: s.shard_lengths for name, s in info.splits.items()}
    )  # checks the split
    files = info.splits[split].file_instructions
    names = [os.path.basename(f.filename) for f in files]
    self._files = [
      _File(os.path.join(directory, name), f.skip, f.examples_in_shard)
      for name, f in zip(names, files)
    ]
    self._records = Concatenation(f.take for f in files)
    self._lengths: Lengths = {}  # of the records in remote files
    if self.is_remote:
      self._lengths = record_lengths(directory, _remote_sizes(directory, names))
    else:
      for file in self._files:
        if not os.path.exists(file.path):
          raise _missing_file(file.path)
      allow_open_files()
    self._reset_readers()

  def _reset_readers(self) -> None:
    self._readers: dict[str, _Reader] = {}  # by path; added when a file is first read
    self._locks = {file.path: threading.Lock() for file in self._files}

  def __getstate__(self) -> dict[str, Any]:
    return {k: v for k, v in vars(self).items() if k not in ('_readers', '_locks')}

  def __setstate__(self, state: dict[str, Any]) -> None:
    vars(self).update(state)
    self._reset_readers()

  def __len__(self) -> int:
    return len(self._records)

  def location(self, index: int) -> str:
    """Return the path of the file, and the number of the record in it."""
    file, record = self._locate(index)
    return f'{file.path}, record {record}'

  def __getitem__(self, index: int) -> Example:
    return self.start(index)()

  def start(self, index: int) -> Callable[[], Example]:
    """Start to read an example, in the background if the dataset is remote."""
    file, record = self._locate(index)
    reader = self._readers.get(file.path) or self._open(file)
    wait = reader.start(record)
    return lambda: self.parse(index, wait)

  def parse(self, index: int, wait: Callable[[], bytes]) -> Example:
    """Return an example. `wait` returns its record."""
    from google.protobuf import message
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()  # pyright: ignore[reportAttributeAccessIssue]
    try:
      example.ParseFromString(wait())
    except InputError:  # a remote file cannot be read
      raise
    except (OSError, RuntimeError, ValueError, message.DecodeError) as e:
      raise ValueError(f'the record is damaged ({last_line(e)})') from e
    try:
      features = example.features.feature
      image = features[self._labels.image_key].bytes_list.value[0]
      classes = self._labels.read(features)
    except InputError as e:
      raise InputError(f'{self.location(index)}: {e}') from e
    except (IndexError, ValueError) as e:
      raise ValueError(f'the record is damaged ({last_line(e)})') from e
    for label in classes:
      if not 0 <= label < self.num_classes:
        raise InputError(
          f'{self.location(index)} has the label {label}, which is not in [0, {self.num_classes}). '
          'If this split has no labels, choose another.'
        )
    if not self.multi_label:
      return {'image': image, 'label': classes[0]}
    multi_hot = np.zeros(self.num_classes, np.uint8)
    multi_hot[classes] = 1
    return {'image': image, 'label': multi_hot}

  def _locate(self, index: int) -> tuple[_File, int]:
    """Return the file of an example, and the number of its record in the file."""
    part, offset = self._records.locate(index)
    file = self._files[part]
    return file, file.first + offset

  def _open(self, file: _File) -> _Reader:
    with self._locks[file.path]:
      if file.path not in self._readers:
        try:
          reader = self._make_reader(file.path)
        except (OSError, ValueError, RuntimeError) as e:
          raise InputError(
            f'Cannot read {file.path}: {last_line(e).rstrip(".")}. '
            f'{remedy(e, "Prepare the dataset again.")}'
          ) from e
        if reader.num_records() != file.num_records:
          raise InputError(
            f'{file.path} holds {reader.num_records()} records instead of {file.num_records}. '
            'Prepare the dataset again.'
          )
        self._readers[file.path] = reader
      return self._readers[file.path]

  def _make_reader(self, path: str) -> _Reader:
    if self.is_remote:
      return RemoteTFRecordReader(path, self._lengths[os.path.basename(path)])
    return _READERS[self._format](path)


class _ArrayRecordReader:
  """An ArrayRecord file whose records are read one by one."""

  def __init__(self, path: str):
    from array_record.python import array_record_module  # pyright: ignore

    self._reader = array_record_module.ArrayRecordReader(
      path, options='readahead_buffer_size:0', file_reader_buffer_size=32768
    )
    if not self._reader.ok():
      self._reader.close()  # raises the error that opening the file ran into

  def num_records(self) -> int:
    return self._reader.num_records()

  def start(self, index: int) -> Callable[[], bytes]:
    return lambda: self._reader.read([index])[0]


_READERS = {'array_record': _ArrayRecordReader, 'tfrecord': TFRecordReader}


def _remote_sizes(directory: str, names: list[str]) -> dict[str, int]:
  """Return the size of each file in a remote directory. Raise InputError if one is missing."""
  try:
    listing = remote.list_directory(directory)
  except remote.Denied:  # reading may be allowed all the same
    listing = {}

  def size(name: str) -> int:
    if name in listing and (size := listing[name].size) is not None:
      return size
    try:
      return remote.file_size(f'{directory}/{name}')
    except Missing:
      raise _missing_file(f'{directory}/{name}') from None

  with ThreadPoolExecutor(remote.IN_FLIGHT) as pool:
    return dict(zip(names, pool.map(size, names)))


def _missing_file(path: str) -> InputError:
  return InputError(f'The file {path} of the dataset is missing. Prepare the dataset again.')
