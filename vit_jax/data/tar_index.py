"""Index tar files of labeled images in the WebDataset format, for random access.

The files of a tar whose names agree up to the first dot are one sample: 'a/7.jpg' is the image of
the sample 'a/7', and 'a/7.cls' or 'a/7.json' holds its label. Each tar is read once. The index is
kept in a file beside the tars, or in the user's cache if that folder cannot be written. It holds
for a tar as long as its size and the time of its last change stay the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
import dataclasses
import hashlib
import json
import logging
import os
import re
import tarfile
from typing import Any
import zipfile

import numpy as np

from vit_jax.errors import InputError, last_line, reason, remedy
from vit_jax.files import replacing

log = logging.getLogger('vit_jax')

INDEX_FILE = 'vit_jax_index.npz'
# If a sample has several images, the one whose extension comes first in this list is read.
_IMAGES = (
  *('jpg', 'jpeg', 'png', 'webp', 'avif', 'bmp', 'gif', 'heic', 'jp2', 'ppm', 'tif', 'tiff'),
  *('image', 'img'),
)
_LABEL_KEYS = ('label', 'labels', 'cls', 'class', 'target')  # in a .json, in this order
_NAME = re.compile(r'((?:.*/)?[^./][^./]*)\.([^/]*)', re.DOTALL)  # key, extension
_THREADS = 32  # tars that are indexed at the same time, because on a network latency decides
_TAIL = 1 << 16  # bytes to look at after the last file; tar writes up to 10,240 zeros there


@dataclasses.dataclass(frozen=True)
class TarIndex:
  """The samples of a tar, in their order.

  Attributes:
    stamp: (1, 2) int64, size of the tar in bytes and time of its last change in nanoseconds.
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
_FIELDS = [field.name for field in dataclasses.fields(TarIndex)]


def read_indices(paths: Sequence[str]) -> list[TarIndex]:
  """Return the indices of some tars. Those that are not known yet are read.

  Raises:
    InputError: a tar cannot be read, is damaged, or holds two files of the same name.
  """
  stamps = {path: _stamp(path) for path in paths}
  folders = sorted(set(map(os.path.dirname, paths)))
  known = {
    path: index
    for folder in folders
    for file in (_cache_file(folder), os.path.join(folder, INDEX_FILE))
    for path, index in _load(file, folder)
    if path in stamps and index.stamp.tolist() == [stamps[path]]
  }
  new = [path for path in paths if path not in known]
  if new:
    log.info('Indexing %s shards, which happens once: %s ...', f'{len(new):,}', new[0])
    try:
      with futures.ThreadPoolExecutor(_THREADS) as pool:
        for done, (path, index) in enumerate(zip(new, pool.map(_index_tar, new)), 1):
          known[path] = index
          if done % 100 == 0:
            log.info('Indexed %s of %s shards.', f'{done:,}', f'{len(new):,}')
    finally:  # a run that is stopped now does not start again from the first shard
      for folder in sorted(set(map(os.path.dirname, new))):
        _save(folder, {p: index for p, index in known.items() if os.path.dirname(p) == folder})
  return [known[path] for path in paths]


def _stamp(path: str) -> list[int]:
  try:
    status = os.stat(path)
  except OSError as e:
    raise InputError(f'Cannot read the shard {path}: {e.strerror}. Check the path.') from e
  return [status.st_size, status.st_mtime_ns]


def _index_tar(path: str) -> TarIndex:
  """Read the names, positions and labels of the files in a tar."""
  stamp = _stamp(path)
  samples: dict[str, dict[str, tarfile.TarInfo]] = {}
  texts: dict[str, dict[str, bytes]] = {}  # contents of the .cls and .json files
  try:
    with open(path, 'rb') as f, tarfile.open(fileobj=f, mode='r:') as tar:
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
    stamp=np.array([stamp], np.int64),
    several=np.array([any(isinstance(one, list) for one in labels)]),
    names=_encode(names),
    keys=_encode(keys),
    offsets=np.array([image.offset_data if image else 0 for image in images], np.int64),
    lengths=np.array([image.size if image else -1 for image in images], np.int64),
    num_labels=np.array([_count(one) for one in labels], np.int64),
    labels=np.array([positions.get(label, label) for label in flat], np.int64),
  )


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


# The file of an index: every field of all tars of a folder, one after another, and their lengths.


def _cache_file(folder: str) -> str:
  """Return where the index is kept if the folder of the tars cannot be written."""
  cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  digest = hashlib.sha256(os.fsencode(os.path.abspath(folder))).hexdigest()[:16]
  return os.path.join(cache, 'vit_jax', 'index', f'{digest}.npz')


def _save(folder: str, indices: Mapping[str, TarIndex]) -> None:
  """Write the index of a folder. If that is not possible anywhere, only warn."""
  arrays: dict[str, Any] = {'tars': np.array([os.path.basename(path) for path in indices], np.str_)}
  for field in _FIELDS if indices else ():
    parts = [getattr(index, field) for index in indices.values()]
    arrays[field] = np.concatenate(parts)
    arrays[f'{field}_per_tar'] = np.array([len(part) for part in parts], np.int64)
  problem = None
  for file in (os.path.join(folder, INDEX_FILE), _cache_file(folder)) if indices else ():
    try:
      with replacing(file) as temporary, open(temporary, 'wb') as f:
        np.savez(f, **arrays)
      return
    except InputError as e:
      problem = problem or e
  if problem:
    log.warning('The index of the shards is not kept, and the next run makes it again. %s', problem)


def _load(file: str, folder: str) -> Iterator[tuple[str, TarIndex]]:
  """Yield (path, index) of the tars in a file that `_save` has written, if it exists."""
  if not os.path.exists(file):
    return
  try:
    with np.load(file) as arrays:
      fields = {
        field: np.split(arrays[field], np.cumsum(arrays[f'{field}_per_tar'])[:-1])
        for field in _FIELDS
      }
      tars = arrays['tars'].tolist()
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as e:
    log.warning('%s cannot be read and is made again: %s.', file, last_line(e))
    return
  for i, name in enumerate(tars):
    yield os.path.join(folder, name), TarIndex(**{f: parts[i] for f, parts in fields.items()})
