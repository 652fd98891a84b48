"""Index a tar file of labeled images in the WebDataset format, for random access.

The files of a tar whose names agree up to the first dot are one sample: 'a/7.jpg' is the image of
the sample 'a/7', and 'a/7.cls' or 'a/7.json' holds its label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import io
import json
import os
import re
import tarfile
from typing import Any, BinaryIO, cast

import numpy as np

from vit_jax.data.ranges import RangeFile
from vit_jax.errors import InputError, last_line, reason, remedy
from vit_jax.files import is_remote

# If a sample has several images, the one whose extension comes first in this list is read.
_IMAGES = (
  *('jpg', 'jpeg', 'png', 'webp', 'avif', 'bmp', 'gif', 'heic', 'jp2', 'ppm', 'tif', 'tiff'),
  *('image', 'img'),
)
_LABEL_KEYS = ('label', 'labels', 'cls', 'class', 'target')  # in a .json, in this order
_NAME = re.compile(r'((?:.*/)?[^./][^./]*)\.([^/]*)', re.DOTALL)  # key, extension
_CHUNK = 2**22  # bytes to read at a time from a remote tar
_TAIL = 1 << 16  # bytes to look at after the last file; tar writes up to 10,240 zeros there


@dataclasses.dataclass(frozen=True)
class TarIndex:
  """The samples of a tar, in their order.

  Attributes:
    stamp: (1, 2) int64, size of the tar in bytes, and time of its last change in nanoseconds or 0.
    several: (1,) bool, True if a label is a list.
    names: (k,) bytes, the names that are used as labels. Empty if the labels are numbers.
    keys: (n,) bytes, the names of the samples.
    offsets: (n,) int64, position of the image in the tar.
    lengths: (n,) int64, size of the image in bytes; -1 if the sample has no image.
    num_labels: (n,) int64, number of labels; -1 if the sample has no label.
    labels: (m,) int64, the labels of all samples: classes, or positions in `names`.
  """

  stamp: np.ndarray
  several: np.ndarray
  names: np.ndarray
  keys: np.ndarray
  offsets: np.ndarray
  lengths: np.ndarray
  num_labels: np.ndarray
  labels: np.ndarray


Label = int | str | None  # a class, the name of a class, or none


def index_tar(path: str, stamp: Sequence[int]) -> TarIndex:
  """Return the index of a tar, local or remote, which is read from its begin to its end.

  Args:
    path: the tar.
    stamp: the field `stamp` of the index.

  Raises:
    InputError: the tar cannot be read, is damaged, or holds two files of the same name.
  """
  samples: dict[str, dict[str, tarfile.TarInfo]] = {}
  texts: dict[str, dict[str, bytes]] = {}  # contents of the .cls and .json files
  try:
    with _open(path, stamp[0]) as f, tarfile.open(fileobj=f, mode='r:') as tar:
      while (member := tar.next()) is not None:
        match = _NAME.fullmatch(member.name)
        if not match or not member.isreg():
          continue
        key, extension = match[1], match[2].lower()
        sample = samples.setdefault(key, {})
        if extension in sample:
          raise InputError(
            f'{path} holds two files {member.name}. Make the shard again, with a name of its own '
            'for every sample.'
          )
        sample[extension] = member
        if extension in ('cls', 'json'):
          f.seek(member.offset_data)
          texts.setdefault(key, {})[extension] = f.read(member.size)
      f.seek(tar.offset)
      tail = f.read(_TAIL)
  except (OSError, tarfile.TarError) as e:
    raise InputError(
      f'Cannot read the shard {path}: {reason(e).rstrip(".")}. '
      f'{remedy(e, "It must be a tar file without compression. Copy it again.")}'
    ) from e
  if (start := _next_tar(tail)) is not None:
    raise InputError(
      f'The shard {path} holds several tars one after another: the next begins at byte '
      f'{tar.offset + start:,}. Split it, so that each file holds one tar.'
    )
  if len(tail) < tarfile.BLOCKSIZE or any(tail):
    problem = 'is damaged' if any(tail) else 'is cut short, because it has no end marker'
    raise InputError(f'The shard {path} {problem} at byte {tar.offset:,}. Copy it again.')
  # Other files, such as a README, are not samples.
  keys = [key for key, sample in samples.items() if key in texts or _image(sample)]
  images = [_image(samples[key]) for key in keys]
  labels = [_labels(path, key, texts.get(key, {})) for key in keys]
  flat = [
    label
    for one in labels
    for label in (one if isinstance(one, list) else [one])
    if label is not None
  ]
  names = sorted({label for label in flat if isinstance(label, str)})
  if names and len(names) != len(set(flat)):
    raise InputError(
      f'Some labels in {path} are numbers, and others are names such as {names[0]!r}. Make the '
      'shard again, with labels of one kind.'
    )
  positions: dict[Label, int] = {name: i for i, name in enumerate(names)}
  return TarIndex(
    stamp=np.array([list(stamp)], np.int64),
    several=np.array([any(isinstance(one, list) for one in labels)]),
    names=_encode(names),
    keys=_encode(keys),
    offsets=np.array([image.offset_data if image else 0 for image in images], np.int64),
    lengths=np.array([image.size if image else -1 for image in images], np.int64),
    num_labels=np.array([_count(one) for one in labels], np.int64),
    labels=np.array([positions.get(label, label) for label in flat], np.int64),
  )


def _next_tar(tail: bytes) -> int | None:
  """Return where another tar begins in what follows the last file of a tar, or None."""
  zeros = len(tail) - len(tail.lstrip(b'\0'))
  start = zeros // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
  if not start:  # there is no end marker
    return None
  try:
    tarfile.TarInfo.frombuf(tail[start : start + tarfile.BLOCKSIZE], 'utf-8', 'surrogateescape')
  except tarfile.TarError:
    return None
  return start


def _open(path: str, size: int) -> BinaryIO:
  if is_remote(path):
    return cast(BinaryIO, io.BufferedReader(_RemoteTar(path, size), _CHUNK))
  return open(path, 'rb')


class _RemoteTar(io.RawIOBase):
  """A remote file as an open file."""

  def __init__(self, path: str, size: int):
    self._file, self._size, self._position = RangeFile(path), size, 0

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True

  def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
    start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
    self._position = start + offset
    return self._position

  def readinto(self, buffer: Any) -> int:
    length = max(0, min(len(buffer), self._size - self._position))
    buffer[:length] = self._file.read(self._position, length)
    self._position += length
    return length


def _image(sample: Mapping[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
  return next((sample[extension] for extension in _IMAGES if extension in sample), None)


def _labels(path: str, key: str, texts: Mapping[str, bytes]) -> Label | list[Label]:
  """Return the label of a sample, a list of labels, or None if it has none."""
  extension = 'cls' if 'cls' in texts else 'json'
  text = texts.get(extension)
  if text is None:
    return None
  try:
    value = json.loads(text) if extension == 'json' else text.decode().strip()
  except ValueError as e:
    raise InputError(
      f'{path} holds {key}.{extension}, which cannot be read: {last_line(e)}. Make the shard again.'
    ) from e
  if isinstance(value, dict):
    value = next((value[k] for k in _LABEL_KEYS if k in value), None)
  if isinstance(value, list):
    return [_one_label(path, f'{key}.{extension}', one) for one in value]
  return _one_label(path, f'{key}.{extension}', value)


def _one_label(path: str, name: str, value: object) -> Label:
  """Return a class, the name of a class, or None for null and negative numbers."""
  if isinstance(value, str) and re.fullmatch(r'-?\d+', value):
    value = int(value)
  if value is None or isinstance(value, str):
    return value or None
  if type(value) is not int:
    raise InputError(
      f'{path} holds the label {value!r} in {name}, which is neither a number nor the name of a '
      'class. Make the shard again.'
    )
  return value if value >= 0 else None


def _count(label: Label | list[Label]) -> int:
  if isinstance(label, list):
    return len([one for one in label if one is not None])
  return -1 if label is None else 1


def _encode(texts: Sequence[str]) -> np.ndarray:
  return np.array([text.encode('utf-8', 'surrogateescape') for text in texts], np.bytes_)
